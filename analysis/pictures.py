"""Images of chips from the store: each pixel of the PNG is one stored pixel.

In: a store and chip indices. Out: PNG bytes, in colour and NIR. Each band is stretched between two percentiles of the
chips shown together, so that chips of one page can be compared. Nodata is not stretched: it is magenta, which no band
shows alone.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.chunks import ChunkReader
from preprocess.band_names import false_colour, near_infrared, true_colour
from preprocess.nodata import nodata_mask
from preprocess.zarr_store import Store

PAGE_BYTES = 6_000_000  # of images as text; with figures and tables a page stays below 10 MB
LOW_PERCENTILE, HIGH_PERCENTILE = 1, 99
NODATA_COLOUR = (255, 0, 255)


@dataclass(frozen=True, kw_only=True)
class ChipImages:
    """A chip's images as PNG bytes. `colour` shows `Bands.colour`; `nir` is empty without `Bands.nir`."""

    index: int
    colour: bytes
    nir: bytes


@dataclass(frozen=True, kw_only=True)
class Bands:
    """The bands that are shown: three as red, green and blue, or one in grey; and "" or the band of a second image."""

    colour: tuple[str, ...]
    nir: str = ""
    words: str


def shown_bands(bands: tuple[str, ...], rgb: tuple[str, ...] = ()) -> Bands:
    """Colours as they are; else false colours of near infrared, red and green; else the first band in grey.

    `rgb`: the bands that the user calls red, green and blue.
    """
    nir = near_infrared(bands)
    if colour := rgb or true_colour(bands):
        return Bands(colour=colour, nir="" if nir in colour else nir, words=f"Colours: {', '.join(colour)}")
    if colour := false_colour(bands):
        return Bands(colour=colour, words=f"False colours: {', '.join(colour)} shown as red, green and blue")
    return Bands(colour=bands[:1], nir="" if nir in bands[:1] else nir, words=f"Grey: the band {bands[0]}")


def read_chips(store: Store, chips: np.ndarray, bands: tuple[str, ...]) -> np.ndarray:
    """(chips, bands, height, width) stored values."""
    layout = store.layout
    reader = ChunkReader(store, bands)
    values = np.empty((len(chips), len(bands), layout.height, layout.width), layout.dtype)
    reader.decode(np.asarray(chips, np.int64), values)
    return values


def limits(values: np.ndarray) -> np.ndarray:
    """(chips, bands, height, width) -> (bands, 2): the values that are shown black and white, the 1st and the 99th
    percentile of each band.

    NaN and infinity change no percentile. Where both percentiles are equal, they are the lowest and the highest value.
    A band without a usable value has NaN.
    """
    shown = np.full((values.shape[1], 2), np.nan)
    for band in range(values.shape[1]):
        wide = values[:, band].astype(np.float64)  # differences of int16 or of float32 can lie outside their range
        usable = wide[np.isfinite(wide)]
        if not usable.size:
            continue
        shown[band] = np.percentile(usable, (LOW_PERCENTILE, HIGH_PERCENTILE))
        if shown[band, 1] <= shown[band, 0]:
            shown[band] = usable.min(), usable.max()
    return shown


def stretch(values: np.ndarray, bounds: np.ndarray | None = None) -> np.ndarray:
    """(chips, bands, height, width) -> the same as uint8, from black to white between the `limits` of each band.

    `bounds`: limits of other chips. NaN and infinity are black, and so is a constant band.
    """
    shown = np.zeros(values.shape, np.uint8)
    for band, (low, high) in enumerate(limits(values) if bounds is None else bounds):
        wide = values[:, band].astype(np.float64)
        usable = np.isfinite(wide) & np.isfinite(low)
        scaled = (wide[usable] - low) / (high - low if high > low else 1)
        shown[:, band][usable] = np.rint(np.clip(scaled, 0, 1) * 255)
    return shown


def stretch_valid(values: np.ndarray, nodata: str, bounds: np.ndarray | None = None) -> np.ndarray:
    """(chips, 1 or 3 bands, height, width) -> (chips, 3, height, width) uint8: `stretch` of the valid values, and
    NODATA_COLOUR where a band is nodata."""
    missing = nodata_mask(values, nodata)
    valid = stretch(np.where(missing, np.nan, values.astype(np.float64)), bounds)
    shown = np.broadcast_to(valid, (len(values), 3, *values.shape[2:]))
    colour = np.array(NODATA_COLOUR, np.uint8)[:, None, None]
    return np.where(missing.any(axis=1, keepdims=True), colour, shown)


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


def pictures(
    store: Store, chips: np.ndarray, budget: ImageBudget, rgb: tuple[str, ...] = ()
) -> list[ChipImages | None]:
    """Images of (groups, k) chips in this order, stretched together. `rgb`: see `shown_bands`. Chips in groups have
    colours only, so that the edges of neighbours lie side by side.

    From the first group on that exceeds the budget, all are None.

    Raises:
        DamagedChunkError: a chip cannot be read.
    """
    shown: list[ChipImages | None] = [None] * chips.size
    if not chips.size:
        return shown
    share, taken, wide = budget.next_share(), 0, chips.shape[1]
    bands = shown_bands(store.layout.bands, rgb)
    colour = _shown(store, chips.ravel(), bands.colour)
    nir = _shown(store, chips.ravel(), (bands.nir,)) if bands.nir and wide == 1 else None
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
