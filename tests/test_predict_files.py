"""Predictions read new files as the conversion of the run's store read them: pictures, files per band, SIZE and FIT."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from helpers.chips import Chips, conversion, to_store, write_csv
from helpers.commands import train
from helpers.made_runs import write_run
from helpers.pictures import colours, encoded, write_bands
from run_files import one_line, rewrite
from tiny import tiny_networks

from analysis import predict
from analysis.chip_folder import FolderReader, how_chips_were_read, list_files
from analysis.finished_run import Run, load_run
from analysis.prediction_files import _Writer, output_files
from preprocess.convert import convert
from preprocess.layout import plan_layout
from preprocess.reading import reading_of

COUNT, TAGS = 60, ("a", "b", "c")


def write_tags(path: Path) -> None:
    rng = np.random.default_rng(0)
    write_csv(path, [(f"n_{index}", " ".join(rng.choice(TAGS, 2, replace=False))) for index in range(COUNT)])


def write_jpegs(folder: Path) -> dict[str, object]:
    """JPEGs of several sizes."""
    folder.mkdir()
    for index in range(COUNT):
        side = 30 + index % 5
        (folder / f"n_{index}.jpg").write_bytes(encoded(colours(index, side, side + 1), "jpeg"))
    return {"size": 32, "fit": "pad"}


def write_band_files(folder: Path) -> dict[str, object]:
    """A file per band; blue is half as wide."""
    for index in range(COUNT):
        rgb = colours(index, 32, 32).astype(np.uint16) * 100
        bands = {"red": rgb[..., 0], "green": rgb[..., 1], "blue": rgb[::2, ::2, 2]}
        write_bands(folder, f"n_{index}", bands, "{name}/{name}_{band}.tif")
    return {"files": "{name}/{name}_{band}.tif", "fit": "resize", "bands": ("red", "green", "blue")}


def write_rows_of_bands(folder: Path) -> dict[str, object]:
    """TIFFs of 32 pages, each a row of 32 pixels with 3 bands."""
    folder.mkdir()
    for index in range(COUNT):
        values = colours(index, 32, 32).astype(np.uint16) * 100
        tifffile.imwrite(folder / f"n_{index}.tif", values, photometric="minisblack", metadata=None)
    return {"axes": "YXS", "bands": ("red", "green", "blue")}


def scores_of(run: Run, data: Path, out: Path) -> np.ndarray:
    """Of the chips of the run's test split, in its order."""
    with tiny_networks():
        assert predict.predict(run.path, data, out, bands=None, gpu="cpu", tta=False) == 0
    scores = pd.read_csv(out, index_col="image_name")
    assert len(scores) == COUNT
    return scores.loc[run.names.tolist()].to_numpy()


@pytest.mark.parametrize("write", [write_jpegs, write_band_files, write_rows_of_bands])
def test_scores_of_other_files_equal_those_of_the_run_to_the_bit_with_and_without_its_store(
    tmp_path: Path, write: Callable[[Path], dict[str, object]]
) -> None:
    """run.json says how files are read. A run of an earlier version has the store for that."""
    data, store = tmp_path / "data", tmp_path / "s.zarr"
    settings = write(data)
    write_tags(tmp_path / "tags.csv")
    convert(conversion(data=data, labels=tmp_path / "tags.csv", store=store, **settings))
    with tiny_networks():
        ended = train(store, tmp_path / "run", "EPOCHS=1", "CROP_SHARE=1", "TEST_BATCH=8")
        assert ended.returncode == 0, ended.stderr
    run = load_run(tmp_path / "run")
    store.rename(tmp_path / "away.zarr")
    assert np.array_equal(scores_of(run, data, tmp_path / "without.csv"), run.probabilities)
    (tmp_path / "away.zarr").rename(store)
    rewrite(run.path, record=lambda values: values["inputs"]["chip"].pop("reading"))
    assert np.array_equal(scores_of(load_run(run.path), data, tmp_path / "with.csv"), run.probabilities)


def test_a_run_keeps_what_its_store_notes_about_reading_and_refuses_other_values(
    tmp_path: Path, session_chips: Chips
) -> None:
    store = to_store(session_chips, tmp_path / "s.zarr", size=12, fit="crop")
    run = write_run(tmp_path / "run", store)

    def refused(reading: object) -> str:
        rewrite(run, record=lambda values: values["inputs"]["chip"].update(reading=reading))
        return one_line(lambda: how_chips_were_read(load_run(run)))

    assert reading_of(store.source) == {"size": "12x12", "fit": "crop"}
    assert reading_of({"labels": {}, "nodata": "0", "crs_units": {}, "axes": "SYX"}) == {"axes": "SYX"}
    for wrong in (["x"], {"fit": "pad"}, {"size": "32", "fit": "pad"}, {"files": "../{name}.tif"}, {"axes": 1}):
        assert "expected inputs.chip.reading" in refused(wrong)
    assert refused({"later": "5"}) == f"{run}: its chips were read with LATER=5, which this version lacks. Update it."


def test_a_chip_without_a_band_is_bad_and_the_others_are_read(tmp_path: Path) -> None:
    from preprocess.file_patterns import read_pattern

    write_band_files(tmp_path / "data")
    (tmp_path / "data" / "n_1" / "n_1_green.tif").unlink()
    shutil.rmtree(tmp_path / "data" / "n_10")
    bands = ("red", "green")
    files = list_files(tmp_path / "data", read_pattern("{name}/{name}_{band}.tif", bands))
    assert files.names[:3] == ["n_0", "n_1", "n_11"]
    layout = plan_layout(bands=bands, height=32, width=32, dtype="uint16", codec="none")
    reader, out = FolderReader(files=files, layout=layout, bands=bands), np.ones((2, 2, 32, 32), np.uint16)
    reader.decode(np.array([0, 1]), out)
    assert np.array_equal(out[0], np.moveaxis(colours(0, 32, 32)[..., :2], -1, 0) * np.uint16(100))
    assert not out[1].any()
    assert "n_1_green.tif: expected a readable file, found No such file" in reader.bad[1]


def test_a_class_called_image_name_does_not_replace_the_column_of_the_names(tmp_path: Path) -> None:
    output = output_files(tmp_path / "scores.csv")
    output.partial.mkdir()
    layout = plan_layout(bands=("red",), height=8, width=8, dtype="uint8", codec="lz4")
    with contextlib.ExitStack() as stack:
        _Writer(output, ("image_name", "tags", "a"), layout, stack)
    header = (output.partial / "scores.csv").read_text().strip()
    assert header == "image_name,image_name (score),tags,a"
