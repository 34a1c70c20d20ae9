"""Chips as pictures, from the store: native pixels, one value of the store one pixel of the PNG.

In: a store and tile numbers. Out: PNG bytes, colour (red, green, blue by name) and NIR. Brightness is stretched between
two percentiles of the chips shown together, a band at a time, so that chips of one page can be compared.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
from matplotlib.image import imsave

from pipeline.chunks import ChunkReader
from preprocess.schema import Store

COLOUR = ("red", "green", "blue")
LOW_PERCENTILE, HIGH_PERCENTILE = 1, 99


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A chip's pictures as PNG bytes; `colour_bands` says what is shown as colour, "" for `nir` where there is none."""

    tile: int
    colour: bytes
    nir: bytes


def colour_bands(store: Store) -> tuple[str, ...]:
    """Red, green and blue where the store has them, else its first band, shown grey."""
    return COLOUR if set(COLOUR) <= set(store.layout.bands) else store.layout.bands[:1]


def read_tiles(store: Store, tiles: np.ndarray, bands: tuple[str, ...]) -> np.ndarray:
    """(tiles, bands, height, width) of the store's own values."""
    layout = store.layout
    reader = ChunkReader(store, bands)
    values = np.empty((len(tiles), len(bands), layout.height, layout.width), layout.dtype)
    reader.decode(np.asarray(tiles, np.int64), values)
    return values


def stretch(values: np.ndarray) -> np.ndarray:
    """(tiles, bands, height, width) -> the same as uint8: the 1st percentile of each band black, the 99th white."""
    low, high = np.percentile(values, (LOW_PERCENTILE, HIGH_PERCENTILE), axis=(0, 2, 3), keepdims=True)
    scaled = (values - low) / np.where(high > low, high - low, 1)
    return np.asarray(np.rint(np.clip(scaled, 0, 1) * 255), np.uint8)


def pictures(store: Store, tiles: np.ndarray) -> list[Chip]:
    """The chips in the order given, stretched together.

    Raises:
        DamagedChunkError: a chip cannot be read.
    """
    if not len(tiles):
        return []
    bands = colour_bands(store)
    colour = stretch(read_tiles(store, tiles, bands))
    nir = stretch(read_tiles(store, tiles, ("nir",))) if "nir" in store.layout.bands else None
    return [
        Chip(tile=int(tile), colour=_png(colour[row]), nir=_png(nir[row]) if nir is not None else b"")
        for row, tile in enumerate(tiles)
    ]


def _png(bands: np.ndarray) -> bytes:
    """(1 or 3, height, width) uint8 -> PNG, each value as it is."""
    data = io.BytesIO()
    imsave(data, np.ascontiguousarray(np.moveaxis(np.broadcast_to(bands, (3, *bands.shape[1:])), 0, -1)), format="png")
    return data.getvalue()


def data_uri(png: bytes) -> str:
    """The picture as text to put into a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
