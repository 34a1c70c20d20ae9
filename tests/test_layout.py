"""Layouts of any chip, layouts from any JSON and shard indices of any bytes: valid, or refused in one line."""

import json
import struct
from dataclasses import fields
from typing import Any

import google_crc32c
import numpy as np
import pytest
from helpers.chips import BANDS
from hypothesis import given
from hypothesis import strategies as st

from preprocess import shard
from preprocess.codecs import CODECS
from preprocess.console import UserError
from preprocess.layout import (
    CHUNK_BYTES,
    DTYPES,
    MAX_CHIP_BYTES,
    MAX_SHARD_CHIPS,
    SHARD_BYTES,
    Layout,
    layout_from,
    plan_layout,
)
from preprocess.shard import DamagedChunkError

SIDES = st.integers(1, 700) | st.sampled_from((997, 1024, 2048, 4096))


def test_the_layout_of_planet_chips() -> None:
    planet = plan_layout(bands=BANDS, height=256, width=256, dtype="uint16", codec="lz4")
    assert (planet.chunk_rows, planet.shard_tiles, planet.chunk_bytes) == (128, 128, 65536)


@given(st.integers(1, 13), SIDES, SIDES, st.sampled_from(DTYPES), st.sampled_from(sorted(CODECS)))
def test_chunks_and_shards_of_any_chip(num_bands: int, height: int, width: int, dtype: str, codec: str) -> None:
    bands = tuple(f"band{index}" for index in range(num_bands))
    if num_bands * height * width * np.dtype(dtype).itemsize > MAX_CHIP_BYTES:
        with pytest.raises(UserError, match="expected at most"):
            plan_layout(bands=bands, height=height, width=width, dtype=dtype, codec=codec)
        return
    layout = plan_layout(bands=bands, height=height, width=width, dtype=dtype, codec=codec)
    row_bytes = width * np.dtype(dtype).itemsize

    def ratio(rows: int) -> float:
        return max(rows * row_bytes / CHUNK_BYTES, CHUNK_BYTES / (rows * row_bytes))

    assert height % layout.chunk_rows == 0
    assert ratio(layout.chunk_rows) == min(ratio(rows) for rows in range(1, height + 1) if height % rows == 0)
    assert layout.chunks_per_band * layout.chunk_bytes * num_bands == layout.chip_bytes
    assert 1 <= layout.shard_tiles <= MAX_SHARD_CHIPS
    assert layout.shard_tiles == 1 or layout.shard_tiles * layout.chip_bytes <= SHARD_BYTES
    assert layout_from({**vars(layout), "bands": list(bands)}) == layout


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=3), SCALARS, max_size=2)
EDGES = st.sampled_from((0, -1, 1, 2, 3, 5, 8, 63, 66, 2**16, 2**31, 2**63, 10**30, 8.0, "8", True, *DTYPES, *CODECS))


@given(
    st.dictionaries(st.sampled_from([*(field.name for field in fields(Layout)), "other"]), EDGES | VALUES, max_size=4)
)
def test_a_layout_of_any_json_is_valid_or_refused(changes: dict[str, Any]) -> None:
    valid = plan_layout(bands=("red", "nir"), height=64, width=32, dtype="uint16", codec="lz4")
    try:
        layout = layout_from({**vars(valid), "bands": ["red", "nir"], **changes})
    except UserError:
        return
    numbers = (layout.height, layout.width, layout.chunk_rows, layout.shard_tiles)
    assert all(type(number) is int and number >= 1 for number in numbers)
    assert layout.chunk_rows * layout.chunks_per_band == layout.height
    assert len(layout.bands) * layout.height * layout.width * layout.itemsize == layout.chip_bytes <= MAX_CHIP_BYTES
    assert layout_from(json.loads(json.dumps({**vars(layout), "bands": list(layout.bands)}))) == layout
    assert layout.dtype in DTYPES
    assert layout.codec in CODECS
    assert len(set(layout.bands)) == len(layout.bands) >= 1


@given(st.lists(SCALARS, max_size=3) | SCALARS)
def test_a_layout_must_be_a_json_object(values: Any) -> None:
    with pytest.raises(UserError, match="layout: expected an object"):
        layout_from(values)


LAYOUT = Layout(bands=("red", "nir"), height=8, width=8, dtype="uint16", codec="none", chunk_rows=4, shard_tiles=3)
NUMBERS = st.integers(0, 900) | st.integers(0, 2**64 - 1) | st.sampled_from((2**63 - 8, 2**63, 2**64 - 8, 2**64 - 1))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12), st.integers(1, 3), st.integers(0, 1200))
def test_an_index_of_any_numbers_points_into_the_file_or_is_refused(
    entries: list[tuple[int, int]], num_chips: int, chunk_bytes: int
) -> None:
    """`chunk_bytes` lie in front of the index. The entries behind the drawn ones are valid."""
    index = np.array([(68 * chunk, 68) for chunk in range(12)], "<u8")
    if entries:
        index[: len(entries)] = np.array(entries, "<u8")
    data = index.tobytes() + struct.pack("<I", google_crc32c.value(index.tobytes()))
    try:
        offsets, sizes = shard.parse_index(data, chunk_bytes + len(data), "shard", LAYOUT, num_chips)
    except DamagedChunkError:
        return
    assert offsets.shape == sizes.shape == (num_chips, 2, 2)
    pairs = zip(offsets.reshape(-1).tolist(), sizes.reshape(-1).tolist(), strict=True)
    assert list(pairs) == [tuple(entry) for entry in index[: 4 * num_chips].tolist()]
    assert (offsets >= 0).all()
    assert (sizes >= shard.CRC_BYTES).all()
    assert all(first + size <= chunk_bytes for first, size in zip(offsets.flat, sizes.flat, strict=True))


@given(st.binary(max_size=250), st.integers(1, 3))
def test_an_index_of_any_bytes_is_refused(data: bytes, num_chips: int) -> None:
    """Their crc32c is right only with a probability of 1 in 2^32."""
    with pytest.raises(DamagedChunkError, match="shard: "):
        shard.parse_index(data, len(data), "shard", LAYOUT, num_chips)
