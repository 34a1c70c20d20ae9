"""Images of chips from the store: each pixel of the PNG is one stored pixel.

In: a store and chip indices. Out: PNG bytes, in colour (bands red, green, blue) and NIR. Each band is stretched between
two percentiles of the chips shown together, so that chips of one page can be compared. Nodata is not stretched: it is
magenta, which no band shows alone.
"""

import base64
import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.chunks import ChunkReader
from preprocess.nodata import nodata_mask
from preprocess.zarr_store import Store

COLOUR = ("red", "green", "blue")
PAGE_BYTES = 6_000_000  # of images as text; with figures and tables a page stays below 10 MB
LOW_PERCENTILE, HIGH_PERCENTILE = 1, 99
NODATA_COLOUR = (255, 0, 255)


@dataclass(frozen=True, kw_only=True)
class ChipImages:
    """A chip's images as PNG bytes. `colour` shows `colour_bands`; `nir` is empty without such a band."""

    index: int
    colour: bytes
    nir: bytes


def colour_bands(store: Store) -> tuple[str, ...]:
    """Red, green and blue if the store has them, else its first band, shown in grey."""
    return COLOUR if set(COLOUR) <= set(store.layout.bands) else store.layout.bands[:1]


def read_chips(store: Store, chips: np.ndarray, bands: tuple[str, ...]) -> np.ndarray:
    """(chips, bands, height, width) stored values."""
    layout = store.layout
    reader = ChunkReader(store, bands)
    values = np.empty((len(chips), len(bands), layout.height, layout.width), layout.dtype)
    reader.decode(np.asarray(chips, np.int64), values)
    return values


def stretch(values: np.ndarray) -> np.ndarray:
    """(chips, bands, height, width) -> the same as uint8: the 1st percentile of each band black, the 99th white."""
    wide = values.astype(np.float64)  # differences of int16 or of float32 can lie outside their range
    low, high = np.percentile(wide, (LOW_PERCENTILE, HIGH_PERCENTILE), axis=(0, 2, 3), keepdims=True)
    return _between(wide, low, high)


def stretch_valid(values: np.ndarray, nodata: str) -> np.ndarray:
    """(chips, 1 or 3 bands, height, width) -> (chips, 3, height, width) uint8: `stretch` of the valid values, and
    NODATA_COLOUR where a band is nodata."""
    missing = nodata_mask(values, nodata)
    wide = np.where(missing, np.nan, values.astype(np.float64))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered")  # a band without a valid pixel
        low, high = np.nanpercentile(wide, (LOW_PERCENTILE, HIGH_PERCENTILE), axis=(0, 2, 3), keepdims=True)
    shown = np.broadcast_to(_between(np.where(missing, low, wide), low, high), (len(values), 3, *values.shape[2:]))
    colour = np.array(NODATA_COLOUR, np.uint8)[:, None, None]
    return np.where(missing.any(axis=1, keepdims=True), colour, shown)


def _between(wide: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    scaled = (wide - low) / np.where(high > low, high - low, 1)
    return np.asarray(np.rint(np.nan_to_num(np.clip(scaled, 0, 1)) * 255), np.uint8)


@dataclass(kw_only=True)
class ImageBudget:
    """Bytes that the images of a page may still take as text.

    `blocks`: blocks of chips still to come. Each may take an equal share of the rest; its first group may take all of
    it.
    """

    blocks: int
    left: int = PAGE_BYTES

    def next_share(self) -> int:
        """Bytes for the next block."""
        share = self.left // max(1, self.blocks)
        self.blocks -= 1
        return share


def pictures(store: Store, chips: np.ndarray, budget: ImageBudget) -> list[ChipImages | None]:
    """Images of (groups, k) chips in this order, stretched together.

    From the first group on that exceeds the budget, all are None.

    Raises:
        DamagedChunkError: a chip cannot be read.
    """
    shown: list[ChipImages | None] = [None] * chips.size
    if not chips.size:
        return shown
    share, taken, wide = budget.next_share(), 0, chips.shape[1]
    colour = _shown(store, chips.ravel(), colour_bands(store))
    nir = _shown(store, chips.ravel(), ("nir",)) if "nir" in store.layout.bands else None
    for first in range(0, chips.size, wide):
        group = [
            ChipImages(index=int(chip), colour=_png(colour[row]), nir=_png(nir[row]) if nir is not None else b"")
            for row, chip in enumerate(chips.ravel()[first : first + wide], first)
        ]
        size = sum(len(data_uri(png)) for picture in group for png in (picture.colour, picture.nir))
        if size > (share - taken if first else budget.left):
            break
        shown[first : first + wide] = group
        taken += size
        budget.left -= size
    return shown


def _shown(store: Store, chips: np.ndarray, bands: tuple[str, ...]) -> np.ndarray:
    values, nodata = read_chips(store, chips, bands), store.layout.nodata
    return stretch(values) if nodata is None else stretch_valid(values, nodata)


def _png(bands: np.ndarray) -> bytes:
    """(1 or 3, height, width) uint8 -> PNG, grey or RGB, values unchanged."""
    data = io.BytesIO()
    values = bands[0] if len(bands) == 1 else np.ascontiguousarray(np.moveaxis(bands, 0, -1))
    Image.fromarray(values).save(data, format="PNG")
    return data.getvalue()


def data_uri(png: bytes) -> str:
    """A PNG as text for an HTML page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
