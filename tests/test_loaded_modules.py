"""A command imports a heavy library only if it uses it: start-up is the time of imports."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.chips import write_chips

ROOT = Path(__file__).resolve().parents[1]
FIXTURE = ROOT / "tests/fixtures/v3"
# What takes 0.05 CPU-seconds or more to import, and is installed everywhere.
HEAVY = (
    "torch", "torchvision", "nvidia.dali", "numba", "zarr", "pandas", "sklearn", "scipy", "matplotlib", "tensorboard",
    "tifffile", "pyarrow", "onnx", "onnxruntime", "numpy", "dask", "obstore",
)  # fmt: skip
_FIRST_STEP_MAY_IMPORT = {"torch", "torchvision", "numba", "zarr", "scipy", "numpy", "tifffile"}
# What each command may import. Commands that are not here compute with a network, or start other processes.
MAY_IMPORT = {
    "info": {"numpy", "zarr", "tifffile"},
    "verify": {"numpy", "zarr"},
    "windows": {"numpy", "tifffile"},
    "demo": {"numpy", "zarr", "tifffile"},
    "zarr": {"numpy", "zarr", "tifffile", "numba", "scipy"},
    "audit": {"numpy", "zarr", "tifffile", "numba", "scipy", "sklearn", "pandas", "pyarrow", "matplotlib", "obstore"},
    "report": {"numpy", "zarr", "numba", "scipy", "sklearn", "pandas", "pyarrow", "matplotlib"},
    "curves": {"numpy", "scipy", "sklearn", "pandas", "pyarrow", "matplotlib"},
    "compare": {"numpy", "numba", "scipy", "sklearn", "pandas", "pyarrow"},
    "bench-report": {"numpy", "zarr", "matplotlib"},
}
_END = "print([name for name in sys.argv[1].split(',') if name in sys.modules], flush=True)"
_RUN = f"import sys\nfrom canopy.main import dispatch\nassert dispatch('', sys.argv[2:]) == 0\n{_END}"
_REFUSED = f"""import sys
from canopy.main import dispatch
from preprocess.console import UserError
try:
    dispatch('', sys.argv[2:])
except UserError:
    {_END}"""
_SETTINGS = f"""import sys
from canopy import help_text
from canopy.commands import COMMANDS
for command in COMMANDS.values():
    assert help_text.of_command(command)
{_END}"""
_FIRST_STEP = f"""import os, sys
from canopy.main import dispatch
from train.hooks import Hooks, use_hooks
def end(*_):
    {_END}
    os._exit(0)
with use_hooks(Hooks(on_batch_end=end)):
    dispatch('', sys.argv[2:])"""


def loaded(code: str, *words: object, cwd: Path = ROOT) -> set[str]:
    """Those of HEAVY that are imported when `code` ends, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", code, ",".join(HEAVY), *map(str, words)],
        cwd=cwd, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return set(ast.literal_eval(ended.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Chips, a store and a finished run of it."""
    folder = tmp_path_factory.mktemp("loaded")
    shutil.copytree(FIXTURE / "store.zarr", folder / "store.zarr")
    shutil.copytree(FIXTURE / "run", folder / "run")
    shutil.copytree(FIXTURE / "run", folder / "copy")
    chips = write_chips(folder / "tif", count=12, width=32)
    return SimpleNamespace(folder=folder, store=folder / "store.zarr", run=folder / "run", chips=chips)


def words_of(command: str, files: SimpleNamespace) -> list[str]:
    return {
        "info": [f"STORE={files.store}"],
        "verify": [f"STORE={files.store}", "JOBS=1"],
        "windows": [f"DATA={files.chips.folder}", "WINDOW=16", f"OUT={files.folder / 'windows.csv'}"],
        "demo": [f"OUT={files.folder / 'demo'}", "CHIPS=20"],
        "zarr": [f"DATA={files.chips.folder}", f"LABELS={files.chips.csv}", f"STORE={files.folder / 'new.zarr'}"],
        "audit": [f"STORE={files.store}"],
        "report": [f"RUN={files.run}", f"STORE={files.store}"],
        "curves": [f"RUN={files.run}"],
        "compare": [f"RUNS={files.run},{files.run.with_name('copy')}"],
        "bench-report": [f"RESULTS={ROOT / 'bench/results'}", f"OUT={files.folder}"],
    }[command]


def test_the_settings_of_every_command_are_read_without_any_heavy_library() -> None:
    assert loaded(_SETTINGS) == set()


@pytest.mark.parametrize("command", ["info", "verify", "windows"])
def test_short_commands_import_only_what_they_use(files: SimpleNamespace, command: str) -> None:
    assert loaded(_RUN, command, *words_of(command, files), cwd=files.folder) - MAY_IMPORT[command] == set()


@pytest.mark.parametrize("command", ["train", "preview"])
def test_a_batch_that_is_too_large_is_refused_before_torch_is_loaded(files: SimpleNamespace, command: str) -> None:
    words = ("TASK=1", f"STORE={files.store}", "BATCH=1000")
    assert loaded(_REFUSED, command, *words, cwd=files.folder) <= {"numpy", "zarr", "tifffile"}


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(MAY_IMPORT.keys() - {"info", "verify", "windows"}))
def test_long_commands_import_only_what_they_use(files: SimpleNamespace, command: str) -> None:
    assert loaded(_RUN, command, *words_of(command, files), cwd=files.folder) - MAY_IMPORT[command] == set()


@pytest.mark.slow
def test_the_first_step_of_a_training_waits_for_no_library_that_only_later_work_uses(files: SimpleNamespace) -> None:
    words = ("train", "TASK=1", f"STORE={files.store}", "BATCH=8", "EPOCHS=1", "GPU=cpu", "WEIGHTS=none")
    assert (
        loaded(_FIRST_STEP, *words, f"RUN={files.folder / 'new'}", cwd=files.folder) - _FIRST_STEP_MAY_IMPORT == set()
    )
