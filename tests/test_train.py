"""Runs from end to end: folders, files, exact repetition, every task, refusals, and reproduction in a new process."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.chips import Chips, to_store, write_chips
from helpers.commands import here, python, train
from run_files import read_arrays, rewrite
from safetensors.torch import load_file, save_file
from sklearn.metrics import average_precision_score
from tiny import tiny_networks

from preprocess.zarr_store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chips: Chips = write_chips(tmp_path_factory.mktemp("train") / "tif", count=150, height=32, width=32)
    return to_store(chips, chips.folder.parent / "chips.zarr").path


@pytest.fixture
def tiny() -> Iterator[None]:
    with tiny_networks():
        yield


@pytest.fixture(scope="module")
def run(store: Path) -> Path:
    folder = store.parent / "runs" / "first"
    ended = train(store, folder)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_the_run_folder_holds_its_files_and_they_agree(run: Path, store: Path) -> None:
    from preprocess.splits import make_split
    from preprocess.zarr_store import open_store

    assert sorted(path.name for path in run.iterdir()) == [
        "metrics.jsonl", "model.safetensors", "results.npz", "run.json", "tensorboard",
    ]  # fmt: skip
    record = json.loads((run / "run.json").read_text())
    opened = open_store(store)
    split = make_split("course", opened)
    assert record["state"] == "done"
    assert record["store"]["fingerprint"] == opened.fingerprint
    assert record["split"]["sha256"] == split.sha256()
    assert record["split"]["epoch_chosen_on"] == "test"
    assert record["config"]["epochs"] == 2
    assert {"torch", "nvidia-dali", "zarr", "python"} <= set(record["versions"])
    with np.load(run / "results.npz", allow_pickle=False) as results:
        keys = {"epoch", "AP", "mAP", "labels", "preds", "fnames", "trainlosses", "testlosses", "testperfs"}
        assert keys <= set(results.files)
        count = len(split.test)
        assert results["labels"].shape == results["preds"].shape == (count, 3)
        assert results["testperfs"].shape == (2, 3)
        assert results["fnames"].tolist() == opened.names[split.test].tolist()
        assert np.array_equal(results["labels"], opened.labels[split.test])
        assert np.allclose(
            results["preds"], 1 / (1 + np.exp(-results["logits"].astype(np.float64))), rtol=1e-15, atol=0
        )
        direct = [average_precision_score(results["labels"][:, c], results["logits"][:, c]) for c in range(3)]
        assert results["AP"].tolist() == direct
        assert results["mAP"] == np.mean(direct)
        best = int(results["epoch"]) - 1
        assert np.array_equal(results["testperfs"][best], results["AP"])
        assert results["testperfs"].mean(axis=1).argmax() == best
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    wanted = {"train_loss", "test_loss", "train_map", "test_map", "test_ap", "chips_per_s", "wait_share", "lr"}
    assert wanted <= set(lines[0])
    digest = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    assert record["model_sha256"] == digest


def sha256(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def test_one_seed_gives_the_same_weights_and_scores_to_the_bit(run: Path, store: Path, tmp_path: Path) -> None:
    assert train(store, tmp_path / "again").returncode == 0
    assert sha256(tmp_path / "again") == sha256(run)
    with np.load(run / "results.npz") as one, np.load(tmp_path / "again" / "results.npz") as two:
        for key in ("logits", "trainlosses", "testlosses"):
            assert np.array_equal(one[key], two[key])
    assert train(store, tmp_path / "other", "SEED=1", "EPOCHS=1").returncode == 0
    assert sha256(tmp_path / "other") != sha256(run)


RUNS = {
    "task 1": (1, []),
    "task 3": (3, []),
    "task 4, resize": (4, ["TEST=resize", "LOSS=soft_margin"]),
    "course": (1, ["INPUT=course", "RECIPE=course"]),
    "course, two trunks, bf16": (3, ["INPUT=course", "VAL=0.2", "AMP=bf16"]),
    "deterministic": (4, ["SPLIT=0.5,0.2,0.3@4", "FLIPS=both", "CROP=24", "DETERMINISTIC=1"]),
}


@pytest.mark.parametrize("networks", ["tiny", pytest.param("real", marks=pytest.mark.slow)])
def test_every_task_reproduces_to_the_bit_in_a_new_process(store: Path, tmp_path: Path, networks: str) -> None:
    folders = []
    with tiny_networks() if networks == "tiny" else contextlib.nullcontext():
        for number, (task, arguments) in enumerate(RUNS.values()):
            ended = train(store, tmp_path / str(number), *arguments, task=task)
            assert ended.returncode == 0, ended.stderr
            folders.append(str(tmp_path / str(number)))
    # One new process for all runs, which has not built these models before.
    ended = python("tests/reproduce_runs.py", networks, *folders)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("verdict True") == len(RUNS)
    assert ended.stdout.count("BIT-IDENTICAL.\n") == len(RUNS)
    assert ended.stdout.count("mean 0, max 0\n") == len(RUNS)
    assert all((Path(folder) / "reproduce.csv").exists() for folder in folders)


@pytest.mark.slow
@pytest.mark.usefixtures("all_cores")
def test_a_run_in_several_threads_is_reproduced_in_as_many(store: Path, tmp_path: Path) -> None:
    assert train(store, tmp_path / "run", "EPOCHS=1").returncode == 0
    torch.set_num_threads(1)
    code, text = reproduce(tmp_path / "run")
    assert code == 0
    assert "BIT-IDENTICAL" in text


def test_the_learning_curve_is_drawn(run: Path) -> None:
    from PIL import Image

    ended = here("analysis", "curves", f"RUN={run}")
    assert ended.returncode == 0
    assert "curves.png: learning curve" in ended.stdout
    with Image.open(run / "curves.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
    (run / "curves.png").unlink()


def damaged(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def reproduce(run: Path, *arguments: object) -> tuple[int, str]:
    ended = here("analysis", "reproduce", f"RUN={run}", *arguments)
    return ended.returncode, ended.stdout + ended.stderr


def test_other_weights_are_noticed(run: Path, tmp_path: Path) -> None:
    copy = damaged(run, tmp_path)
    state = load_file(copy / "model.safetensors")
    state["fc.bias"] += 0.5
    save_file(state, copy / "model.safetensors")
    code, text = reproduce(copy)
    assert code == 1
    assert f"{copy}: DIFFERENT (difference of the " in text
    assert "). Likely cause: weights (sha256 of model.safetensors): was " in text


def test_another_transform_is_noticed(run: Path, tmp_path: Path) -> None:
    copy = damaged(run, tmp_path)
    rewrite(copy, record=lambda values: values["config"].update(test="resize"))
    code, text = reproduce(copy)
    assert code == 2
    assert "results.npz: made with TEST=center, and run.json says resize." in text


def test_another_split_is_noticed(run: Path, tmp_path: Path) -> None:
    copy = damaged(run, tmp_path)
    rewrite(copy, both=lambda values: values["config"].update(split="0.6,0.4"))
    code, text = reproduce(copy)
    assert code == 1
    assert "other chips than the saved scores" in text
    assert "split (sha256)" in text


def test_another_store_is_noticed(run: Path, tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "tif", count=150, height=32, width=32, seed=9)
    other: Store = to_store(chips, tmp_path / "other.zarr")
    code, text = reproduce(run, f"STORE={other.path}")
    assert code == 1
    assert "store (fingerprint)" in text


def test_a_small_difference_under_equal_conditions_is_not_rounding(run: Path, tmp_path: Path) -> None:
    copy = damaged(run, tmp_path)
    arrays = read_arrays(copy)
    logits, preds = arrays["logits"] + np.float32(1e-6), arrays["preds"] + 1e-7
    rewrite(copy, arrays={"logits": logits, "preds": preds})
    code, text = reproduce(copy)
    assert code == 1
    assert "none found" in text
    rewrite(copy, made=lambda values: values["machine"].update(device="Another CPU"))
    code, text = reproduce(copy)
    assert code == 0
    assert "WITHIN ROUNDING" in text
    assert "device: was Another CPU" in text


@pytest.mark.parametrize(("name", "text"), [("run.json", "{}"), ("run.json", "[]"), ("metrics.jsonl", '{"epoch": 2')])
def test_truncated_and_empty_files_are_one_line(run: Path, tmp_path: Path, name: str, text: str) -> None:
    copy = damaged(run, tmp_path)
    (copy / name).write_text(text)
    ended = here("analysis", "curves", f"RUN={copy}")
    assert ended.returncode == 2
    assert name in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_another_arch_in_run_json_is_named_as_the_cause(run: Path, tmp_path: Path) -> None:
    copy = damaged(run, tmp_path)
    rewrite(copy, record=lambda values: values["config"].update(arch="resnet34"))
    code, text = reproduce(copy)
    assert code == 2
    assert "made with ARCH=resnet18, and run.json says resnet34" in text


def test_a_run_in_fp16_is_compared_where_there_is_no_fp16(run: Path, tmp_path: Path) -> None:
    copy = damaged(run, tmp_path)
    logits = read_arrays(copy)["logits"] + np.float32(1e-3)
    preds = 1 / (1 + np.exp(-logits.astype(np.float64)))
    rewrite(copy, both=lambda values: values.update(amp="float16"), arrays={"logits": logits, "preds": preds})
    code, text = reproduce(copy, "GPU=cpu")
    assert code == 0
    assert "WITHIN ROUNDING" in text
    assert "AMP: was float16, is off" in text


@pytest.mark.parametrize("name", ["model.safetensors", "results.npz", "run.json"])
def test_damaged_and_missing_files_of_a_run_are_one_line(run: Path, tmp_path: Path, name: str) -> None:
    copy = damaged(run, tmp_path)
    (copy / name).write_bytes(b"damaged")
    code, text = reproduce(copy)
    assert code == 2
    assert name in text
    assert text.count("error:") == 1
    (copy / name).unlink()
    code, text = reproduce(copy)
    assert code == 2
    assert name in text


@pytest.mark.slow
def test_the_command_line_in_a_process_of_its_own(store: Path, tmp_path: Path) -> None:
    ended = python("-m", "train", "TASK=4", f"STORE={store}", f"RUN={tmp_path / 'run'}", "GPU=cpu",
                   "EPOCHS=1", "WEIGHTS=none", f"RUN_FILE={tmp_path / 'name'}")  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert (tmp_path / "name").read_text().strip() == str(tmp_path / "run")
    ended = python("-m", "analysis", "reproduce", f"RUN={tmp_path / 'run'}")
    assert ended.returncode == 0, ended.stderr
    assert "BIT-IDENTICAL" in ended.stdout
    ended = python("-m", "train", "TASK=9", f"STORE={store}")
    assert (ended.returncode, ended.stderr) == (2, "error: TASK=9: expected one of 1, 3, 4.\n")


def test_a_run_is_never_overwritten(run: Path, store: Path) -> None:
    before = sha256(run)
    ended = train(store, run)
    assert ended.returncode == 2
    assert "exists already" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert sha256(run) == before


def test_weights_come_from_a_file_and_only_the_head_is_trained(run: Path, store: Path, tmp_path: Path) -> None:
    """FINETUNE=head: the trunk's weights are frozen, its BatchNorm statistics change, as in the reference project."""
    weights = run / "model.safetensors"
    ended = train(store, tmp_path / "head", "FINETUNE=head", f"WEIGHTS={weights}", "SEED=5")
    assert ended.returncode == 0, ended.stderr
    before, after = load_file(weights), load_file(tmp_path / "head" / "model.safetensors")
    for name, value in before.items():
        drifts = "running_" in name or "num_batches" in name
        assert torch.equal(value, after[name]) != (drifts or name.startswith("fc.")), name
    assert "1,539 trainable parameters" in ended.stdout


@pytest.mark.usefixtures("tiny")
def test_val_chooses_the_epoch(store: Path, tmp_path: Path) -> None:
    assert train(store, tmp_path / "run", "VAL=0.3", "EPOCHS=3").returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["split"]["epoch_chosen_on"] == "val"
    assert record["best_epoch"] == 1 + int(np.argmax([line["val_map"] for line in lines]))
    with np.load(tmp_path / "run" / "results.npz") as results:
        assert results["mAP"] == lines[record["best_epoch"] - 1]["test_map"]
