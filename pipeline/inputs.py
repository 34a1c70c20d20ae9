"""The inputs of a network: which bands, in which order, and how their values are scaled.

`raw`: the stored values, standardised per band with the exact mean and std of the train split. The default.
`course`: the values that PIL makes of Planet's 16-bit files (it uses NIR as an alpha channel and divides by it), with
the reference project's constants, bands B, G, R, NIR; for comparison with that project. See `graph.course_values`.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.plans import chip_numbers
from preprocess.console import ArgumentError, UserError
from preprocess.zarr_store import Store

COURSE_BANDS = ("blue", "green", "red", "nir")
# Published with the reference project, for values of 0 to 255 divided by 255, in the order of COURSE_BANDS.
COURSE_MEAN = (0.7476, 0.6534, 0.4757, 0.0960)
COURSE_STD = (0.1677, 0.1828, 0.2137, 0.0284)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """`bands` are the channels of a batch, in order; `mean` and `std` are per channel, in the units of the values.

    With "course", values after PIL's formula are 0 to 255.
    """

    kind: str
    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def stored_bands(self) -> tuple[str, ...]:
        """The bands to read: PIL's formula needs all four, even for three channels."""
        return COURSE_BANDS if self.kind == "course" else self.bands


def raw_inputs(store: Store, bands: tuple[str, ...], train_chips: np.ndarray) -> Inputs:
    """Stored values, standardised by the statistics of `train_chips`. A constant band is only centred.

    Raises:
        UserError: a band of these chips holds nothing but nodata.
        ArgumentError: no band, or chips that the store does not have.
    """
    if not bands:
        raise ArgumentError("bands", bands, f"expected some of {', '.join(store.layout.bands)}.")
    indices = list(store.band_indices(bands))
    mean, std = store.band_statistics(chip_numbers(train_chips, store.num_chips, "train_chips"))
    if empty := [band for band, index in zip(bands, indices, strict=True) if np.isnan(mean[index])]:
        raise UserError(
            f"{store.path}: expected a valid pixel of {empty[0]} in the train split, found nothing but nodata "
            f"({store.layout.nodata}). Train without this band, or choose another SPLIT."
        )
    std[std == 0] = 1.0
    return Inputs(kind="raw", bands=bands, mean=tuple(mean[indices].tolist()), std=tuple(std[indices].tolist()))


def course_inputs(store: Store, num_bands: int) -> Inputs:
    """The reference project's input: the first 3 or all 4 of B, G, R, NIR, decoded as PIL does.

    Raises:
        UserError: the store is not uint16 with these bands.
    """
    store.band_indices(COURSE_BANDS)
    if store.layout.dtype != "uint16":
        raise UserError(
            f"{store.path}: the course's inputs need uint16 chips, and this store holds {store.layout.dtype}. Use raw "
            "inputs (INPUT=raw)."
        )
    return Inputs(
        kind="course",
        bands=COURSE_BANDS[:num_bands],
        mean=tuple(255 * value for value in COURSE_MEAN[:num_bands]),
        std=tuple(255 * value for value in COURSE_STD[:num_bands]),
    )
