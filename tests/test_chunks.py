"""The chunk reader: exact tiles in any band order; the device table decoded by another LZ4; damage is caught."""

import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from conftest import BANDS, Chips, to_store, write_chips

from pipeline.chunks import ChunkReader
from preprocess import schema
from preprocess.schema import Store, open_store
from preprocess.shard import DamagedChunkError


@pytest.mark.parametrize("bands", [BANDS, ("red", "green", "blue"), ("nir",), ("nir", "nir", "blue")])
@pytest.mark.parametrize("kind", ["session_store", "plain_store"])
def test_tiles_are_exact(
    request: pytest.FixtureRequest, session_chips: Chips, kind: str, bands: tuple[str, ...]
) -> None:
    store: Store = request.getfixturevalue(kind)
    reader = ChunkReader(store, bands)
    out = np.zeros((len(bands), 16, 16), np.uint16)
    for tile in (0, 255, 256, 299, 3, 3):
        expected = session_chips.values[tile][[BANDS.index(band) for band in bands]]
        reader.read_tile(tile, out)
        assert np.array_equal(out, expected)
        reader.read_tile(tile, out, flip_rows=True)
        assert np.array_equal(out, expected[:, ::-1])


@pytest.mark.parametrize("codec", ["lz4", "none"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_rows_are_flipped_across_chunks(tmp_path: Path, codec: str, dtype: str) -> None:
    chips = write_chips(tmp_path / "tif", count=3, bands=3, height=300, width=200, dtype=dtype)
    reader = ChunkReader(to_store(chips, tmp_path / "s.zarr", codec=codec), ("green", "red"))
    assert (reader.layout.chunks_per_band > 1) == (dtype == "uint16")
    out = np.zeros((2, 300, 200), dtype)
    for flip in (False, True):
        reader.read_tile(2, out, flip_rows=flip)
        assert np.array_equal(out, chips.values[2][[1, 0]][:, :: -1 if flip else 1])


def inflate_on_cpu(reader: ChunkReader, tile: int) -> np.ndarray:
    """What `graph.inflate_tiles` does on a GPU, with imagecodecs' LZ4 and numpy, from the same table."""
    layout = reader.layout
    data = np.zeros(reader.max_span_bytes, np.uint8)
    offsets, sizes = (np.zeros(reader.chunks_per_tile, np.int32) for _ in range(2))
    used = reader.read_compressed(tile, data, offsets, sizes)
    assert (offsets >= 0).all()
    assert (offsets + sizes <= used).all()
    values = layout.chunk_rows * layout.width
    planes = [
        np.frombuffer(
            imagecodecs.lz4_decode(data[at : at + size].tobytes(), out=layout.chunk_bytes, header=False), np.uint8
        ).reshape(layout.itemsize, values)
        for at, size in zip(offsets.tolist(), sizes.tolist(), strict=True)
    ]
    swapped = np.ascontiguousarray(np.stack(planes).transpose(0, 2, 1))
    return swapped.reshape(-1).view(layout.dtype).reshape(len(reader.bands), layout.height, layout.width)


@pytest.mark.parametrize("bands", [BANDS, ("red", "green", "blue"), ("nir", "red")])
def test_device_table_decoded_on_the_cpu(session_store: Store, session_chips: Chips, bands: tuple[str, ...]) -> None:
    reader = ChunkReader(session_store, bands)
    for tile in (0, 17, 256, 299):
        expected = session_chips.values[tile][[BANDS.index(band) for band in bands]]
        assert np.array_equal(inflate_on_cpu(reader, tile), expected)


def test_device_table_of_uint8(uint8_store: Store, uint8_chips: Chips) -> None:
    reader = ChunkReader(uint8_store, ("red", "green", "blue"))
    for tile in (0, 69):
        assert np.array_equal(inflate_on_cpu(reader, tile), uint8_chips.values[tile])


def test_device_table_of_many_chunks_a_band(tmp_path: Path) -> None:
    """Chips of Planet's size: two chunks a band."""
    chips = write_chips(tmp_path / "tif", count=3, height=256, width=256)
    reader = ChunkReader(to_store(chips, tmp_path / "s.zarr"), ("red", "green", "blue"))
    assert reader.chunks_per_tile == 6
    for tile in range(3):
        assert np.array_equal(inflate_on_cpu(reader, tile), chips.values[tile][[2, 1, 0]])


@pytest.mark.parametrize("kind", ["session_store", "plain_store"])
@pytest.mark.parametrize("where", [0, 1, 2, 3, 4, 40])
def test_a_flipped_bit_is_caught_and_named(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, where: int
) -> None:
    store: Store = request.getfixturevalue(kind)
    copy = Path(shutil.copytree(store.path, tmp_path / "copy.zarr"))
    path = schema.shard_path(copy, 0)
    data = bytearray(path.read_bytes())
    data[where] ^= 0x10
    path.write_bytes(data)
    reader = ChunkReader(open_store(copy), BANDS)
    out = np.zeros((4, 16, 16), np.uint16)
    with pytest.raises(DamagedChunkError, match=r"tile t_0 is damaged .*band 0, chunk 0: crc32c"):
        reader.read_tile(0, out)
    if store.layout.codec == "lz4":
        with pytest.raises(DamagedChunkError, match="t_0"):
            reader.read_compressed(0, np.zeros(reader.max_span_bytes, np.uint8), *np.zeros((2, 4), np.int32))
    reader.read_tile(1, out)


def test_a_missing_shard_is_named(tmp_path: Path, session_store: Store) -> None:
    copy = Path(shutil.copytree(session_store.path, tmp_path / "copy.zarr"))
    schema.shard_path(copy, 1).unlink()
    with pytest.raises(DamagedChunkError, match=r"tiles/c/1/0/0/0: the shard cannot be read"):
        ChunkReader(open_store(copy), BANDS)
