"""The chunk reader: exact chips in any band order; offsets and sizes for the GPU, checked with another LZ4; damage."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import imagecodecs
import numpy as np
import pytest
from helpers.chips import BANDS, DTYPES, Chips, to_store, write_chips

from pipeline.chunks import ChunkReader
from preprocess import zarr_store
from preprocess.shard import DamagedChunkError
from preprocess.zarr_store import Store, open_store


@pytest.mark.parametrize("bands", [BANDS, ("red", "green", "blue"), ("nir",), ("nir", "nir", "blue")])
@pytest.mark.parametrize("kind", ["session_store", "plain_store"])
def test_chips_are_exact(
    request: pytest.FixtureRequest, session_chips: Chips, kind: str, bands: tuple[str, ...]
) -> None:
    store: Store = request.getfixturevalue(kind)
    reader = ChunkReader(store, bands)
    out = np.zeros((len(bands), 16, 16), np.uint16)
    for chip in (0, 255, 256, 299, 3, 3):
        expected = session_chips.values[chip][[BANDS.index(band) for band in bands]]
        reader.decode(np.array([chip]), out[None])
        assert np.array_equal(out, expected)
        reader.decode(np.array([chip]), out[None], np.array([True]))
        assert np.array_equal(out, expected[:, ::-1])


@pytest.mark.parametrize("codec", ["lz4", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_flipped_across_chunks(tmp_path: Path, codec: str, dtype: str) -> None:
    chips = write_chips(tmp_path / "tif", count=3, bands=3, height=300, width=200, dtype=dtype)
    reader = ChunkReader(to_store(chips, tmp_path / "s.zarr", codec=codec), ("green", "red"))
    assert (reader.layout.chunks_per_band > 1) == (dtype != "uint8")
    out = np.zeros((3, 2, 300, 200), dtype)
    reader.decode(np.array([2, 0, 2]), out, np.array([False, True, True]))
    assert np.array_equal(out[0], chips.values[2][[1, 0]])
    assert np.array_equal(out[1], chips.values[0][[1, 0]][:, ::-1])
    assert np.array_equal(out[2], chips.values[2][[1, 0]][:, ::-1])


def inflate_on_cpu(reader: ChunkReader, chip: int) -> np.ndarray:
    """The same as `graph.inflate_chips` on a GPU, with imagecodecs' LZ4 and numpy, from the same offsets and sizes."""
    layout = reader.layout
    data = np.zeros((1, reader.max_span_bytes), np.uint8)
    offsets, sizes = (np.zeros((1, reader.chunks_per_chip), np.int32) for _ in range(2))
    reader.copy_encoded(np.array([chip]), data, offsets, sizes, used := np.zeros(1, np.int64))
    data, offsets, sizes = data[0], offsets[0], sizes[0]
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
def test_the_table_for_the_gpu_decodes_on_the_cpu(
    session_store: Store, session_chips: Chips, bands: tuple[str, ...]
) -> None:
    reader = ChunkReader(session_store, bands)
    for chip in (0, 17, 256, 299):
        expected = session_chips.values[chip][[BANDS.index(band) for band in bands]]
        assert np.array_equal(inflate_on_cpu(reader, chip), expected)


def test_the_table_for_the_gpu_is_right_for_uint8(uint8_store: Store, uint8_chips: Chips) -> None:
    reader = ChunkReader(uint8_store, ("red", "green", "blue"))
    for chip in (0, 69):
        assert np.array_equal(inflate_on_cpu(reader, chip), uint8_chips.values[chip])


def test_the_table_for_the_gpu_is_right_for_several_chunks_per_band(tmp_path: Path) -> None:
    """Chips of Planet's size: two chunks per band."""
    chips = write_chips(tmp_path / "tif", count=3, height=256, width=256)
    reader = ChunkReader(to_store(chips, tmp_path / "s.zarr"), ("red", "green", "blue"))
    assert reader.chunks_per_chip == 6
    for chip in range(3):
        assert np.array_equal(inflate_on_cpu(reader, chip), chips.values[chip][[2, 1, 0]])


@pytest.mark.parametrize("kind", ["session_store", "plain_store"])
@pytest.mark.parametrize("where", [0, 1, 2, 3, 4, 40])
def test_a_flipped_bit_is_caught_and_named(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, where: int
) -> None:
    store: Store = request.getfixturevalue(kind)
    copy = Path(shutil.copytree(store.path, tmp_path / "copy.zarr"))
    path = zarr_store.shard_path(copy, 0)
    data = bytearray(path.read_bytes())
    data[where] ^= 0x10
    path.write_bytes(data)
    reader = ChunkReader(open_store(copy), BANDS)
    out = np.zeros((2, 4, 16, 16), np.uint16)
    with pytest.raises(DamagedChunkError, match=r"chip t_0 is damaged .*band 0, chunk 0: crc32c"):
        reader.decode(np.array([1, 0]), out)
    if store.layout.codec == "lz4":
        encoded = np.zeros((2, reader.max_span_bytes), np.uint8)
        with pytest.raises(DamagedChunkError, match="t_0"):
            reader.copy_encoded(np.array([1, 0]), encoded, *np.zeros((2, 2, 4), np.int32), np.zeros(2, np.int64))
    reader.decode(np.array([1, 2]), out)


def test_a_missing_shard_is_named(tmp_path: Path, session_store: Store) -> None:
    copy = Path(shutil.copytree(session_store.path, tmp_path / "copy.zarr"))
    zarr_store.shard_path(copy, 1).unlink()
    with pytest.raises(DamagedChunkError, match=r"tiles/c/1/0/0/0: the shard cannot be read"):
        ChunkReader(open_store(copy), BANDS)


def test_threads_that_open_a_shard_at_the_same_time_read_exact_chips(
    session_store: Store, session_chips: Chips
) -> None:
    """All threads must use one map: a second one would free the first while another thread reads it."""
    for _ in range(40):
        reader, barrier = ChunkReader(session_store, BANDS), Barrier(4)

        def read(first: int, reader: ChunkReader = reader, barrier: Barrier = barrier) -> np.ndarray:
            out = np.zeros((8, 4, 16, 16), np.uint16)
            barrier.wait()
            reader.decode(np.arange(first, first + 8), out)
            return out

        with ThreadPoolExecutor(4) as pool:
            for first, out in zip((0, 10, 20, 270), pool.map(read, (0, 10, 20, 270)), strict=True):
                assert np.array_equal(out, session_chips.values[first : first + 8])
