"""`train`: settings that do not fit the chips are refused before torch is loaded or a pixel is converted."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.chips import Chips, to_store, write_chips
from helpers.commands import here
from helpers.settings import VALUES
from hypothesis import given
from hypothesis import strategies as st
from tiny import outcome, tiny_networks

from preprocess.setting_specs import specs
from preprocess.zarr_store import Store, open_store
from train.commands import TrainRequest
from train.config import RUNTIME_SETTINGS, Config, make_config
from train.recipes import RECIPES


def test_the_known_bands_and_size_of_the_demo_chips_are_right() -> None:
    from preprocess import demo
    from train.chip_checks import DEMO

    assert (DEMO.bands, DEMO.sides) == (demo.BANDS, (demo.SIDE, demo.SIDE))


def test_without_store_and_data_the_demo_chips_are_trained_for_eight_epochs() -> None:
    request = TrainRequest.from_words(["TASK=1"], "train")
    assert request.is_demo
    assert request.conversion is not None
    assert (request.conversion.data, request.conversion.store) == (Path("demo/tif"), Path("demo/chips.zarr"))
    assert (request.config.epochs, request.config.weights) == (8, "none")
    assert request.config.store == str(Path("demo/chips.zarr").resolve())
    assert TrainRequest.from_words(["TASK=1", "EPOCHS=2", "RECIPE=course"], "train").config.epochs == 2
    with_store = TrainRequest.from_words(["TASK=1", "STORE=x"], "train")
    assert (with_store.is_demo, with_store.conversion, with_store.config.epochs) == (False, None, 12)


@given(st.data())
def test_the_processes_of_other_gpus_get_the_same_configuration(data: st.DataObject) -> None:
    settings = data.draw(st.fixed_dictionaries({}, optional=VALUES))
    settings |= {"task": 4, "recipe": data.draw(st.sampled_from(sorted(RECIPES)))}
    settings.pop("gpu_given", None)
    if settings.get("weights", "none") == "none":  # without a store the demo chips are trained, with WEIGHTS=none
        settings.pop("finetune", None)
    words = [
        f"{name.upper()}={int(value) if isinstance(value, bool) else value}"
        for name, value in settings.items()
        if name
        not in ("conv1", "pool", "stem", "momentum", "warmup", "step_epochs", "step_gamma", "trunk_lr", "crop_share")
        and name not in ("cache", "decode", "store")
    ]
    request = TrainRequest.from_words([*words, f"RUN=a b, {words[0]}"], "train")
    again = TrainRequest.from_words(request.words(), "train")
    assert (again.config, again.run, again.conversion) == (request.config, request.run, None)


def test_a_setting_that_may_change_on_resume_is_not_part_of_a_runs_identity() -> None:
    from train.contract.record import identity_of

    config = make_config("default", task=1, store="s").model_dump()
    values = {"id": "a", "amp": "off", "store": {"fingerprint": "f"}, "split": {}, "inputs": {}, "classes": []}
    identity = identity_of({**values, "config": config})
    changed = {name: identity_of({**values, "config": {**config, name: "another"}}) for name in config}
    assert {name for name, other in changed.items() if other == identity} == set(RUNTIME_SETTINGS)
    assert {name for name, spec in specs(Config).items() if spec.hidden} == {"gpu_given"}


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> Chips:
    """60 chips of 64 x 64 pixels; 40 of them are in the train split."""
    return write_chips(tmp_path_factory.mktemp("sixty") / "tif", count=60, height=64, width=64)


@pytest.fixture(scope="module")
def sixty_store(sixty: Chips) -> Store:
    return to_store(sixty, sixty.folder.parent / "chips.zarr")


TOO_MUCH = (
    (["BATCH=500"], "BATCH=500: expected at most 60, the number of chips of "),
    (["BATCH=41"], "BATCH=41: the train split has only 40 chips."),
    (["CROP=100", "BATCH=8"], "CROP=100: expected at most 64: the chips of "),
    (["BATCH=8", "SPLIT=0.999,0.001"], "SPLIT=0.999,0.001: expected chips in the test split, found none"),
    (["BATCH=8", "VAL=0.99"], "VAL=0.99: expected a smaller fraction"),
)


@pytest.mark.parametrize(("words", "line"), TOO_MUCH)
def test_settings_that_do_not_fit_the_chips_are_refused_before_torch_is_loaded_or_a_pixel_converted(
    sixty: Chips, sixty_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], line: str
) -> None:
    data = [f"DATA={sixty.folder}", f"LABELS={sixty.csv}", "BANDS=blue,green,red,nir", f"STORE={tmp_path / 'new.zarr'}"]
    monkeypatch.setitem(sys.modules, "train.start", None)  # this module loads torch and DALI
    for place in ([f"STORE={sixty_store.path}"], data):
        ended = here("train", "TASK=1", f"RUN={tmp_path / 'run'}", *place, *words)
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
        assert ended.stderr.startswith(f"error: {line}")
    assert list(tmp_path.iterdir()) == []


def test_missing_bands_are_refused_before_the_conversion(sixty: Chips, tmp_path: Path) -> None:
    words = [f"DATA={sixty.folder}", f"LABELS={sixty.csv}", f"STORE={tmp_path / 'new.zarr'}"]
    ended = here("train", "TASK=4", "BATCH=8", *words)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: TASK=4: expected the bands red, green, blue, nir, found band1, band2, ")
    assert list(tmp_path.iterdir()) == []


def test_a_blocked_split_needs_an_audit_of_the_store_first(sixty: Chips, tmp_path: Path, refused: Callable) -> None:
    words = [
        f"DATA={sixty.folder}",
        f"LABELS={sixty.csv}",
        "BANDS=blue,green,red,nir",
        f"STORE={tmp_path / 'new.zarr'}",
    ]
    ended = here("train", "TASK=1", "SPLIT=blocked", "BATCH=8", *words)
    assert ended.returncode == 2
    assert "SPLIT=blocked: " in ended.stderr
    assert "make audit" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_train_converts_trains_and_draws_the_curves(sixty: Chips, tmp_path: Path) -> None:
    words = [
        f"DATA={sixty.folder}",
        f"LABELS={sixty.csv}",
        "BANDS=blue,green,red,nir",
        f"STORE={tmp_path / 'new.zarr'}",
    ]
    with tiny_networks():
        ended = here(
            "", "train", "TASK=4", "GPU=cpu", "EPOCHS=1", "BATCH=8", "WEIGHTS=none", "JOBS=1",
            f"RUN={tmp_path / 'run'}", *words,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert open_store(tmp_path / "new.zarr").num_chips == 60
    assert f"{tmp_path / 'run' / 'curves.png'}: learning curves" in ended.stdout
    assert (tmp_path / "run" / "curves.png").exists()
    with tiny_networks():
        settings = ("GPU=cpu", "EPOCHS=1", "BATCH=8", "WEIGHTS=none")
        ended = here("train", "TASK=4", f"STORE={tmp_path / 'new.zarr'}", f"RUN={tmp_path / 'again'}", *settings)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert not (tmp_path / "again" / "curves.png").exists()  # the package `train` does not import `analysis`
    assert outcome(tmp_path / "again") == outcome(tmp_path / "run")
