"""Commands: their settings are checked first, with pydantic alone; each error is one line and exit code 2."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from helpers.commands import here

from canopy import help_text
from canopy.commands import COMMANDS, Command
from preprocess.presets import PRESETS
from preprocess.setting_specs import specs, words_of

ROOT = Path(__file__).resolve().parents[1]
# None of these packages is installed when settings are checked.
LATER = (
    "numpy",
    "pyarrow",
    "torch",
    "zarr",
    "sklearn",
    "scipy",
    "tqdm",
    "matplotlib",
    "tifffile",
    "numcodecs",
    "nvidia",
    "pandas",
)


def models(command: Command) -> list[type]:
    return list(command.load_settings().shown_models())


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_every_setting_of_every_command_is_described(command: Command) -> None:
    assert callable(command.load_function())
    for spec in (spec for model in models(command) for spec in words_of(model).values()):
        assert re.fullmatch(r"[A-Z][A-Z0-9_]*", spec.word)
        assert spec.description.endswith(".")
        assert not spec.required or spec.default_text or spec.example or spec.choices


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_help_shows_every_setting_in_100_columns(command: Command) -> None:
    ended = here("", command.name, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert max(map(len, ended.stdout.splitlines())) <= 100
    for model in models(command):
        assert [word for word in words_of(model) if f"\n  {word}=" not in ended.stdout] == []
    assert here("", "help", command.name).stdout == ended.stdout
    assert here("", "help", f"COMMAND={command.name}").stdout == ended.stdout
    assert here(command.package, command.name, "--help").stdout == ended.stdout


def test_the_page_of_settings_is_up_to_date() -> None:
    """`python -m canopy settings-page` writes it."""
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == help_text.settings_page()


def test_choices_equal_those_of_the_code() -> None:
    from preprocess import csv_rows, label_settings, tags, tiff
    from preprocess.codecs import CODECS
    from preprocess.commands import ConversionSettings

    found = {name: spec.choices for name, spec in specs(ConversionSettings).items() if spec.choices}
    assert set(found["preset"]) == set(PRESETS)
    assert set(found["codec"]) == set(CODECS)
    assert set(found["axes"]) == set(tiff.AXES)
    assert found["labels_format"] == label_settings.FORMATS
    assert set(found["tags_separator"]) == set(tags.SEPARATORS)
    assert set(found["csv_separator"]) == {*csv_rows.SEPARATORS, *csv_rows.SEPARATORS.values()}


@pytest.mark.parametrize("package", ["", "train", "preprocess", "analysis", "bench"])
def test_every_package_prints_version_and_help(package: str) -> None:
    assert here(package, "--version").stdout == f"canopy {version('canopy')}\n"
    assert here(package, "help").stdout == here("", "help").stdout


def checked(code: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """Run Python code in a process that cannot import the packages in LATER."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({LATER!r}))\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", hide + code], cwd=cwd, env=environment, capture_output=True, text=True)


def test_settings_are_checked_with_pydantic_alone(tmp_path: Path) -> None:
    (tmp_path / "tif").mkdir()
    (tmp_path / "tags.csv").write_text("image_name,tags\n" + "a,b\n" * 64)
    two = tmp_path / "two.csv"
    two.write_text("image_name,tags\na,b\nc,d\n")
    run = ROOT / "tests/fixtures/v2/run"
    stopped, store = run.parent / "stopped", run.parent / "store.zarr"
    folder, file, parquet = tmp_path / "tif", tmp_path / "tags.csv", tmp_path / "tags.parquet"
    parquet.touch()  # it is read later, when pyarrow is installed
    cases: list[tuple[str, int, str]] = [
        (f"zarr DATA={folder} LABELS={file} BANDS=a,b", 0, ""),
        (f"train TASK=1 DATA={folder} LABELS={file} STORE={tmp_path / 's'}", 0, ""),
        (f"train TASK=1 DATA={folder} LABELS=folders STORE={tmp_path / 's'} SPLIT=column", 0, ""),
        (f"train TASK=1 DATA={folder} LABELS={parquet} STORE={tmp_path / 's'} SPLIT_COLUMN=split", 0, ""),
        ("train TASK=1", 0, ""),
        (f"train TASK=4 STORE={store} EMA=0.9 BATCH=8 RUN={tmp_path / 'new'}", 0, ""),
        ("train TASK=1 STORE=s3://bucket/chips.zarr", 0, ""),
        (f"train RESUME={stopped} STORE={store}", 0, ""),
        (f"info STORE={store} SPLIT=0.5,0.5", 0, ""),
        (f"verify STORE={store} JOBS=2", 0, ""),
        (f"preview STORE={store} OUT={tmp_path / 'x.png'} RECIPE=best SEED=3", 0, ""),
        (f"report RUN={run} COMPARE={stopped} CLASS=a", 0, ""),
        (f"audit STORE={store} RUN={run}", 0, ""),
        (f"predict RUN={run} DATA={folder} TTA=1", 0, ""),
        (f"export RUN={run}", 0, ""),
        (f"tune STORE={store} GPU=cpu", 0, ""),
        ("bench MODE=loader ROUNDS=1", 0, ""),
        ("gpu-check", 0, ""),
        ("soak KILLS=1", 0, ""),
        ("fuzz SECONDS=1 ONLY=tiffs", 0, ""),
        ("test", 0, ""),
        ("train TASK=2", 10, "TASK=2 trains nothing"),
        ("train", 2, "TASK is not set. Add TASK=1 (or 3, 4)."),
        ("train TASK=5", 2, "TASK=5: expected one of 1, 3, 4."),
        ("train TASK=1 EPOCH=3", 2, "EPOCH is not a setting of train. Did you mean EPOCHS?"),
        ("train TASK=1 ARCH=resnet19", 2, "ARCH=resnet19: expected one of "),
        ("train TASK=1 RECIPE=bst", 2, "RECIPE=bst: expected one of default, course, best. Did you mean RECIPE=best?"),
        ("train TASK=1 SPLIT=blockd", 2, "SPLIT=blockd: expected course, blocked, column, a .csv file"),
        ("train TASK=1 STORE=nope.zarr", 2, f"STORE={ROOT}/nope.zarr: expected a store, found nothing."),
        (f"train TASK=1 STORE={store} RUN={run}", 2, f"RUN={run}: exists already."),
        (f"train TASK=1 STORE={store} BATCH=8 SPLIT=no.csv", 2, f"SPLIT={ROOT}/no.csv: expected a CSV file"),
        (f"train TASK=1 STORE={store} BATCH=8 WEIGHTS=no.safetensors", 2, f"WEIGHTS={ROOT}/no.safetensors: expected"),
        (f"train TASK=1 STORE={store} BATCH=500", 2, "BATCH=500: expected at most 40, the number of chips of "),
        (f"train TASK=1 STORE={store} CROP=100 BATCH=8", 2, "CROP=100: expected at most 16: the chips of "),
        ("train TASK=1 BATCH=1000", 2, "BATCH=1000: expected at most 900, the number of chips of the demo."),
        ("train TASK=1 CROP=100", 2, "CROP=100: expected at most 64: the chips of the demo are 64 x 64 pixels."),
        (f"train TASK=1 DATA={folder} LABELS={two}", 2, f"BATCH=64: expected at most 2, the number of chips of {two}."),
        ("train TASK=1 LABELS=x.csv", 2, "LABELS: only with DATA=folder, which is converted first."),
        ("train TASK=1 DATA=nope", 2, "DATA=nope: expected a folder of TIFFs, found nothing."),
        ("train TASK=1 MOMENTUM=0.5", 2, "MOMENTUM=0.5 has no effect with OPTIMIZER=adamw. Leave it out."),
        ("train RESUME=nope", 2, "RESUME=nope: expected a run's folder, found no run.json."),
        (f"train RESUME={run}", 2, f"RESUME={run}: the run is done."),
        (f"train RESUME={stopped} EPOCHS=9", 2, f"EPOCHS: set by RESUME={stopped}. With RESUME only STORE, "),
        (f"train RESUME={stopped} DATA=x", 2, f"DATA: set by RESUME={stopped}."),
        ("zarr", 2, "DATA is not set. Add DATA=folder LABELS=file.csv."),
        (f"zarr DATA={folder} LABELS=no.csv", 2, "LABELS=no.csv: expected a CSV file, found nothing."),
        (f"zarr DATA={folder} LABELS=no.parquet", 2, "LABELS=no.parquet: expected a file, found nothing."),
        (f"zarr DATA={folder} LABELS={folder}", 2, f"LABELS={folder}: expected a CSV file, found a folder. LABEL"),
        (f"zarr DATA={folder} STORE={file}", 2, f"STORE={file}: is a file. Choose another name."),
        (f"zarr DATA={folder} BANDS=a,a", 2, "BANDS=a,a: expected a different name for each band."),
        (f"zarr DATA={folder} ALLOW_MISSING=no", 2, "ALLOW_MISSING=no: expected 0 or 1."),
        ("verify", 2, "STORE is not set. Add STORE=chips.zarr."),
        ("verify STORE=", 2, "STORE is given, but empty."),
        ("verify STORE=nope", 2, "STORE=nope: expected a store, found nothing."),
        ("report", 2, "RUN is not set. Add RUN=runs/task1."),
        ("report RUN=nope", 2, "RUN=nope: expected a run's folder, found no run.json."),
        ("predict RUN=nope DATA=nope GPU=x", 2, "GPU=x: expected a number (0), numbers (0,1), auto, or cpu."),
        ("preview", 2, "STORE is not set. Add STORE=chips.zarr."),
        (f"preview STORE={store} EPOCHS=3", 2, "EPOCHS is not a setting of preview."),
        (f"preview STORE={store} OUT=x.jpg", 2, "OUT=x.jpg: expected a file NAME.png in a folder that exists."),
        ("bench MODE=scale STORE=a", 2, "STORE has no effect with MODE=scale"),
        ("bench MODE=loder", 2, "MODE=loder: expected one of "),
        ("trian", 2, "trian is not a command. Did you mean train?"),
        ("test EPOCHS=1", 2, "EPOCHS is not a setting of test."),
    ]  # fmt: skip
    code = f"""
from canopy.main import dispatch
from preprocess.console import UserError
for words in {[words for words, _, _ in cases]!r}:
    try:
        print("#", dispatch("", ["check", *words.split()]))
    except UserError as error:
        print(error)
        print("# 2")
"""
    ended = checked(code)
    assert ended.returncode == 0, ended.stderr
    answers = re.findall(r"(.*\n)??# (\d+)\n", ended.stdout)
    assert len(answers) == len(cases)
    for (words, expected_code, line), (text, code_text) in zip(cases, answers, strict=True):
        assert (words, int(code_text), text[: len(line)]) == (words, expected_code, line)


def test_a_file_of_the_user_that_hides_a_package_is_named(tmp_path: Path) -> None:
    for name in ("train.py", "models/__init__.py"):
        folder = tmp_path / name.replace("/", "-")
        file = folder / name
        file.parent.mkdir(parents=True)
        file.touch()
        for command in (("canopy", "help"), ("analysis", "report", "RUN=x"), ("preprocess", "info", "STORE=x")):
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            words = [sys.executable, "-m", *command]
            ended = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
            package = name.split("/")[0].removesuffix(".py")
            assert (ended.returncode, ended.stdout) == (2, "")
            assert ended.stderr == (
                f"error: {file} hides canopy's own package '{package}'. Rename it, or run the command from another "
                "folder.\n"
            )


def test_a_data_folder_with_the_name_of_a_package_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "models").mkdir()
    ended = checked("from canopy.main import main\nsys.argv = ['canopy', '--version']\nmain()", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
