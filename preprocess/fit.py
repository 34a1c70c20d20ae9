"""Bring chips of any size to one size: crop, pad or resize.

In: the bands of a chip, and the settings SIZE and FIT. Out: a (bands, height, width) chip of that size, and counts of
what was done. Leaves reading to `chip_reader`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.nodata import nodata_mask, nodata_value
from preprocess.tiff_page import ChipError

MIN_WEIGHT = 0.5  # of the valid pixels that a resized pixel is made of


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The size that every chip gets, and how.

    crop: the centre of a chip; a smaller chip is refused. pad: pad a smaller chip with `nodata`, or without it reflect
    pixels at its edges; crop a larger one. resize: the mean of whole blocks of pixels if the size is a whole multiple,
    else cubic; `nodata` gets no weight.
    """

    height: int
    width: int
    way: str
    nodata: str | None = None

    def source(self) -> dict[str, str]:
        """As a store keeps it; `fit_of` reads it."""
        return {"size": f"{self.height}x{self.width}", "fit": self.way}


@dataclass(frozen=True, kw_only=True)
class Window:
    """The pixels of a fitted chip, in pixels of its file: where the first one begins, and the size of each."""

    top: int
    left: int
    row_size: float
    column_size: float


def window_of(fit: Fit, height: int, width: int) -> Window:
    """What `Fitter.apply` makes of a (height, width) chip."""
    if fit.way == "resize":
        return Window(top=0, left=0, row_size=height / fit.height, column_size=width / fit.width)
    top, left = (
        _cut(have, side) - _missing(have, side)[0] for have, side in ((height, fit.height), (width, fit.width))
    )
    return Window(top=top, left=left, row_size=1, column_size=1)


def fit_of(source: dict[str, Any], nodata: str | None) -> Fit | None:
    """The fit of a store's conversion; None if it had none. `nodata`: of its layout."""
    if "fit" not in source:
        return None
    height, width = map(int, str(source["size"]).split("x"))
    return Fit(height=height, width=width, way=str(source["fit"]), nodata=nodata)


@dataclass(kw_only=True)
class FitCounts:
    """How many chips were changed, and how. A chip can be cropped in one direction and padded in the other."""

    cropped: int = 0
    padded: int = 0
    resized: int = 0

    def as_array(self) -> np.ndarray:
        """(3,) int64."""
        return np.array([self.cropped, self.padded, self.resized], np.int64)


def fit_line(fit: Fit, counts: np.ndarray, num_chips: int) -> str:
    """What `FitCounts.as_array`, summed over all chips, says."""
    words = ("cropped", "padded", "resized")
    texts = [f"{count} {word}" for word, count in zip(words, counts.tolist(), strict=True) if count]
    done = " and ".join(texts) if texts else "0 changed"
    return f"FIT={fit.way} to {fit.height} x {fit.width}: of {num_chips} chips {done}."


@dataclass(kw_only=True)
class Fitter:
    """Applies a `Fit` to chips, and counts."""

    fit: Fit
    counts: FitCounts = field(default_factory=FitCounts)

    def apply(self, bands: Sequence[np.ndarray] | np.ndarray, path: str | Path) -> np.ndarray:
        """(bands, height, width) of the fit's size from bands of (height, width) each.

        Args:
            bands: one dtype. Their sizes may differ with FIT=resize.
            path: for errors.

        Raises:
            ChipError: with FIT=crop, the chip is smaller.
        """
        size = self.fit.height, self.fit.width
        if all(band.shape == size for band in bands):
            return bands if isinstance(bands, np.ndarray) else np.stack(bands)
        if self.fit.way == "resize":
            self.counts.resized += 1
            return np.stack([resize(band, *size, self.fit.nodata) for band in bands])
        height, width = bands[0].shape
        if other := next((band.shape for band in bands if band.shape != (height, width)), None):
            raise ChipError(
                path, f"bands of one size with FIT={self.fit.way}", f"{height} x {width} and {other[0]} x {other[1]}",
                "FIT=resize brings them to one size.",
            )  # fmt: skip
        smaller, larger = height < size[0] or width < size[1], height > size[0] or width > size[1]
        if smaller and self.fit.way == "crop":
            raise ChipError(
                path, f"at least {size[0]} x {size[1]} pixels, as FIT=crop needs them", f"{height} x {width}",
                "FIT=pad pads smaller chips, FIT=resize scales them. Or choose a smaller SIZE.",
            )  # fmt: skip
        self.counts.padded += smaller
        self.counts.cropped += larger
        return pad(crop(np.asarray(bands), *size), *size, self.fit.nodata)


def crop(chip: np.ndarray, height: int, width: int) -> np.ndarray:
    """The centre of a (bands, height, width) chip, at most (height, width). An odd rest: more is cut off last."""
    top, left = _cut(chip.shape[1], height), _cut(chip.shape[2], width)
    return chip[:, top : top + height, left : left + width]


def pad(chip: np.ndarray, height: int, width: int, nodata: str | None = None) -> np.ndarray:
    """At least (height, width), padded with `nodata`, or without it with pixels reflected at the edges.

    The edges themselves are not repeated (numpy's mode "reflect").
    """
    widths = ((0, 0), _missing(chip.shape[1], height), _missing(chip.shape[2], width))
    if nodata is None:
        return np.pad(chip, widths, mode="reflect")
    return np.pad(chip, widths, constant_values=chip.dtype.type(nodata_value(nodata)))


def _cut(have: int, side: int) -> int:
    """Pixels that are cut off first."""
    return max(have - side, 0) // 2


def _missing(have: int, side: int) -> tuple[int, int]:
    """Pixels that are added first and last."""
    return max(side - have, 0) // 2, -(-max(side - have, 0) // 2)


def resize(band: np.ndarray, height: int, width: int, nodata: str | None = None) -> np.ndarray:
    """Resample a (height, width) band of any dtype of a store.

    Pillow computes in float32, which holds every integer of 16 bits. Integers are rounded (half to even) and clipped.
    Cubic resampling widens its filter when it makes a picture smaller, so nothing aliases. Pixels that are `nodata` get
    no weight. A new pixel is nodata if less than half of its weight is left.
    """
    if band.shape == (height, width):
        return band
    if nodata is None:
        return _to_dtype(_resampled(band, height, width), band.dtype)
    missing = nodata_mask(band, nodata)
    values, weight = _resampled(np.where(missing, 0, band), height, width), np.ones((height, width), np.float32)
    if missing.any():
        weight = _resampled(~missing, height, width)
        values = np.divide(values, weight, out=np.zeros_like(values), where=weight >= MIN_WEIGHT)
    values = np.where(np.isnan(values), np.inf, values)  # from infinity, which the conversion refuses
    resized, marker = _to_dtype(values, band.dtype), band.dtype.type(nodata)
    # A new value that equals nodata is valid: it becomes its neighbour towards zero, or from zero upwards.
    if band.dtype.kind == "f":
        beside = np.nextafter(marker, band.dtype.type(0 if marker else 1))
    else:
        beside = marker - 1 if marker > 0 else marker + 1
    resized[nodata_mask(resized, nodata)] = beside
    resized[weight < MIN_WEIGHT] = marker
    return resized


def _resampled(band: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) float32."""
    from PIL import Image  # here: only conversions that resize need it

    is_multiple = band.shape[0] % height == 0 and band.shape[1] % width == 0
    method = Image.Resampling.BOX if is_multiple else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(np.ascontiguousarray(band, np.float32)).resize((width, height), method))


def _to_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    rounded: np.ndarray = np.clip(np.rint(values), limits.min, limits.max)
    return rounded.astype(dtype)
