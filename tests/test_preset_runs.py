"""Each preset goes from made files in its published layout to a trained network, a report and predictions."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.commands import here, train
from helpers.pages import Page
from helpers.published import write_bigearthnet, write_eurosat, write_planet, write_ucmerced
from tiny import tiny_networks

from analysis.finished_run import load_run
from preprocess.zarr_store import open_store

SINGLE = {"eurosat", "ucmerced"}
CASES: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...], str]] = {
    "planet": ("planet", partial(write_planet, count=16, side=40), ("TASK=1",), "train-jpg"),
    "bigearthnet": ("bigearthnet", partial(write_bigearthnet, count=16), ("TASK=1", "SPLIT=column"), "BigEarthNet-S2"),
    "eurosat": ("eurosat", partial(write_eurosat, count=8), ("TASK=1",), "."),
    "eurosat-13": ("eurosat", partial(write_eurosat, count=8, form="tif"), ("TASK=4",), "."),
    "ucmerced": ("ucmerced", partial(write_ucmerced, count=5), ("TASK=1",), "UCMerced_LandUse/Images"),
    "ucmerced-17": ("ucmerced_multilabel", partial(write_ucmerced, count=5), ("TASK=1",), "UCMerced_LandUse/Images"),
}
S2 = {"bigearthnet": ("BANDS_RGB=B04,B03,B02",), "eurosat-13": ("BANDS_IN=B04,B03,B02,B08", "BANDS_RGB=B04,B03,B02")}


QUICK = ("bigearthnet", "eurosat")  # a file per band and a split; JPEGs in class folders


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_a_preset_goes_from_its_files_to_a_report_and_predictions(
    case: str, tmp_path: Path, empty_figures: None
) -> None:
    preset, write, words, folder = CASES[case]
    data, store, run, out = (tmp_path / name for name in ("data", "s.zarr", "run", "p.csv"))
    write(data)
    with tiny_networks():
        settings = (f"DATA={data}", f"PRESET={preset}", "JOBS=1", "EPOCHS=1", "BATCH=4", "CROP=32")
        ended = train(store, run, *settings, *words, *S2.get(case, ()))
        assert ended.returncode == 0, ended.stderr
        ended = here("analysis", "predict", f"RUN={run}", f"DATA={data / folder}", f"OUT={out}", "GPU=cpu")
        assert ended.returncode == 0, ended.stderr
    ended = here("analysis", "report", f"RUN={run}")
    assert ended.returncode == 0, ended.stderr
    loaded, chips = load_run(run), open_store(store)
    assert loaded.classes == chips.classes
    assert ("Accuracy" in Page(run / "report" / "report.html").text) == (preset in SINGLE)
    scores = pd.read_csv(out, index_col=0)
    assert sorted(scores.index) == sorted(chips.names.tolist())
    # The files of the test split get the scores of the run, to the bit.
    assert np.array_equal(scores.loc[loaded.names, list(loaded.classes)].to_numpy(), loaded.probabilities)
    labels = {"bigearthnet": data / "metadata.parquet", "eurosat": data, "planet": data / "train_v2.csv"}.get(case)
    if labels:
        ended = here("analysis", "audit", f"STORE={store}", f"LABELS={labels}")
        assert ended.returncode == 0, ended.stderr
        assert "Tags differ from the CSV: none" in ended.stdout
