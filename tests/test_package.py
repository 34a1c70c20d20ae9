"""The package `canopy`: the names that other people's code imports."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.chips import to_store, write_chips
from tiny import tiny_networks

import canopy

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", canopy.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(canopy, name)
    assert isinstance(value, str) or (value.__doc__ or "").strip()


def test_dir_lists_exactly_the_public_names() -> None:
    assert dir(canopy) == sorted(canopy.__all__)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'canopy' has no attribute 'open_shop'"):
        _ = canopy.open_shop  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_installed_package() -> None:
    assert canopy.__version__ == version("canopy")


def test_importing_the_package_loads_no_heavy_library_and_none_of_the_projects_modules() -> None:
    heavy = {"torch", "nvidia", "numpy", "zarr", "preprocess", "pipeline", "models", "train", "analysis"}
    code = f"import sys, canopy; dir(canopy); print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


FIXTURES = Path(__file__).resolve().parent / "fixtures"


@pytest.mark.parametrize("fixture", sorted(FIXTURES.glob("v*")), ids=lambda path: path.name)
def test_a_loaded_model_gives_the_scores_that_its_run_saved(fixture: Path) -> None:
    store = canopy.open_store(fixture / "store.zarr")
    with tiny_networks():
        saved = canopy.load_model(fixture / "run", store=store)
    run = canopy.load_run(fixture / "run")
    chip_of = {name: chip for chip, name in enumerate(store.names.tolist())}
    chips = np.array([chip_of[name] for name in run.names.tolist()])
    loader = canopy.eval_loader(store, chips, saved.inputs, batch_size=64, crop=saved.crop, test=saved.test)
    (batch,) = loader.epoch(0)
    with torch.no_grad():
        logits = saved.net(batch.images_nchw)[: batch.num_valid].numpy()
    loader.close()
    assert saved.classes == run.classes
    assert not saved.net.training
    assert np.allclose(logits, run.logits, rtol=1e-3, atol=1e-3)  # other processors round differently


def test_the_snippet_of_the_readme_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also without a GPU: then `device="cuda:0"` falls back to the CPU."""
    chips = write_chips(tmp_path / "tif", count=60, height=64, width=64)
    (tmp_path / "demo").mkdir()
    to_store(chips, tmp_path / "demo" / "chips.zarr")
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    assert "torch.Size([16, 4, 56, 56]) torch.Size([16, 3])" in capsys.readouterr().out
