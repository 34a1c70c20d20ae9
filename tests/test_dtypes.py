"""Stores of uint8, uint16, int16 and float32 chips, compared with numpy, numcodecs and zarr.

`test_matrix` has every dtype in every kind of file, `test_dtype_sums` the statistics, `test_dtype_batches` and
`test_dtypes_runs` more about batches and runs.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from helpers.chips import DTYPES, Chips, to_store, write_chips
from helpers.dtypes import any_bits, layout_of, write_one
from hypothesis import given
from hypothesis import strategies as st

from analysis.pictures import stretch
from preprocess import shard, verify
from preprocess.shard_writer import Encoder

ALL = pytest.mark.parametrize("dtype", DTYPES)
CODECS = pytest.mark.parametrize("codec", ["lz4", "none"])


@pytest.mark.parametrize(
    "how",
    [
        {"planarconfig": "separate"}, {"planarconfig": "contig", "byteorder": ">"}, {"compression": "zlib"},
        {"compression": "zlib", "predictor": True}, {"tile": (16, 16)}, {"rowsperstrip": 7},
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_values_do_not_depend_on_how_the_tiff_was_written(tmp_path: Path, dtype: str, how: dict[str, object]) -> None:
    values = write_chips(tmp_path / "unused", count=1, height=40, width=33, dtype=dtype).values[0]
    stored = values if how.get("planarconfig") == "separate" else np.moveaxis(values, 0, -1)
    folder = write_one(tmp_path / "tif", stored, **{"planarconfig": "contig", **how})
    store = to_store(Chips(folder, folder / "tags.csv", values[None], ["a"]), tmp_path / "s.zarr")
    assert np.asarray(zarr.open_group(store.path)["tiles"][0]).tobytes() == values.tobytes()


@CODECS
@ALL
@given(data=st.data())
def test_any_bits_are_read_back_and_numcodecs_reads_the_chunks(dtype: str, codec: str, data: st.DataObject) -> None:
    values = data.draw(any_bits(dtype))
    divisors = [rows for rows in range(1, values.shape[1] + 1) if values.shape[1] % rows == 0]
    layout = layout_of(values, codec, data.draw(st.sampled_from(divisors)))
    encoded, sizes, _ = Encoder(layout).encode(values)
    buffer = np.frombuffer(encoded, np.uint8)
    offsets = np.cumsum(sizes) - sizes
    out = np.empty_like(values)
    scratch = shard.decode_scratch(layout, len(layout.bands))
    shard.decode_chip(buffer, offsets, sizes, layout, out, scratch)
    assert out.tobytes() == values.tobytes()
    if codec == "lz4":
        chunks = [bytes(buffer[at : at + size - 4]) for at, size in zip(offsets.tolist(), sizes.tolist(), strict=True)]
        shuffle = numcodecs.Shuffle(layout.itemsize)
        assert b"".join(bytes(shuffle.decode(numcodecs.LZ4().decode(chunk))) for chunk in chunks) == values.tobytes()


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_jobs_do_not_change_the_store(tmp_path: Path, dtype: str) -> None:
    chips = write_chips(tmp_path / "tif", count=9, bands=3, height=31, width=17, dtype=dtype)
    one, two = (to_store(chips, tmp_path / f"{jobs}.zarr", jobs=jobs).local_path for jobs in (1, 2))
    for path in sorted(path for path in one.rglob("*") if path.is_file()):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()


@pytest.mark.parametrize("codec", ["lz4", "none"])
@pytest.mark.parametrize(
    ("wrong", "counts"),
    [
        ([np.nan], "1 NaN and 0 infinite values of 768 (the first in band 2, row 3, column 4)"),
        ([np.inf], "0 NaN and 1 infinite values of 768 (the first in band 2, row 3, column 4)"),
        ([np.inf, -np.inf, np.nan], "1 NaN and 2 infinite values of 768 (the first in band 2, row 3, column 4)"),
    ],
)
def test_a_chip_with_values_that_are_not_finite_is_refused(
    tmp_path: Path, refused: Callable[..., str], codec: str, wrong: list[float], counts: str
) -> None:
    chips = write_chips(tmp_path / "tif", count=6, bands=3, dtype="float32")
    for index in (4, 5):
        chips.values[index, 1, 3, 4 : 4 + len(wrong)] = wrong
        tifffile.imwrite(chips.folder / f"t_{index}.tif", chips.values[index], photometric="minisblack",
                         planarconfig="separate")  # fmt: skip
    line = refused(lambda: to_store(chips, tmp_path / "s.zarr", codec=codec))
    only_nan = "" if "inf" in str(wrong) else "NODATA=nan marks NaN as nodata. "
    advice = f"{only_nan}Replace them, or remove the chip from the CSV."
    assert line == f"{chips.folder / 't_4.tif'}: expected finite values, found {counts}. {advice}"
    assert not (tmp_path / "s.zarr").exists()


@CODECS
@ALL
def test_verify_finds_an_altered_chip_and_an_altered_sum(
    tmp_path: Path, dtype: str, codec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chips = write_chips(tmp_path / "tif", count=6, dtype=dtype)
    store = to_store(chips, tmp_path / "s.zarr", codec=codec).local_path
    altered, summed = (Path(shutil.copytree(store, tmp_path / f"{name}.zarr")) for name in ("alter", "sum"))
    pixels = zarr.open_group(altered, mode="r+")["tiles"]
    pixels[4, 2, 3, 4] = pixels[4, 2, 3, 5]
    array = zarr.open_group(summed, mode="r+")["band_sum"]
    array[2, 1] = array[2, 1] + 1
    for path, reported in ((altered, "chip t_4 (number 4)"), (summed, "band_sum")):
        assert verify.verify(path, jobs=1) > 0
        assert reported in capsys.readouterr().out


@ALL
def test_images_of_any_dtype_are_stretched_without_a_warning(dtype: str) -> None:
    rng = np.random.default_rng(0)
    if dtype == "float32":
        values = rng.normal(0.2, 0.05, (3, 2, 40, 40)).astype(np.float32)
        values[:, 0, :8] = np.finfo(np.float32).max * rng.choice([-1, 1], (3, 8, 40))
    else:
        values = rng.choice([np.iinfo(dtype).min, np.iinfo(dtype).max, 7], (3, 2, 40, 40)).astype(dtype)
    low, high = np.percentile(values.astype(np.longdouble), (1, 99), axis=(0, 2, 3), keepdims=True)
    expected = np.clip((values.astype(np.longdouble) - low) / (high - low), 0, 1) * 255
    assert np.abs(stretch(values) - expected).max() <= 0.5 + 1e-9
    assert not stretch(np.full((1, 1, 5, 5), 3, dtype)).any()
