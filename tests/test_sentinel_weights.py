"""Weights of all 13 bands of Sentinel-2, such as torchgeo's: channels are picked by the names of the bands."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import train
from helpers.networks import refusal
from safetensors.torch import load_file, save_file
from tiny import tiny_net, tiny_networks

from models.build import build
from models.resnet import Branch, branch
from models.weights import file_weights

S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with tiny_networks():
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with torchvision's names, in which the filters of channel n are n."""
    state = tiny_net("resnet18", 13, None).state_dict()
    state["conv1.weight"] = torch.arange(13.0)[None, :, None, None].expand(state["conv1.weight"].shape).contiguous()
    save_file(state, tmp_path / "s2.safetensors")
    return tmp_path / "s2.safetensors"


@pytest.mark.parametrize(
    ("spec", "channels"),
    [
        (branch("B08", "B8A", "B12"), [7, 8, 12]),
        (branch(*reversed(S2)), list(range(12, -1, -1))),
        (branch("red", "green", "blue", "B11"), [3, 2, 1, 11]),
        (branch("red"), [3]),
        (branch(*(f"band{number}" for number in range(13))), list(range(13))),  # other names: the order of the file
    ],
)
def test_channels_are_picked_by_name(path: Path, spec: Branch, channels: list[int]) -> None:
    conv1 = build("resnet18", (spec,), 5, file_weights(path)).get_parameter("conv1.weight")
    assert conv1[0, :, 0, 0].tolist() == channels


def test_bands_that_sentinel_2_does_not_have_are_refused(path: Path) -> None:
    text = refusal(lambda: build("resnet18", (branch("B04", "VV"),), 5, file_weights(path)))
    assert "expected conv1.weight of 2 bands (B04,VV) or of red,green,blue, found 13 bands, which can only be" in text


def test_a_run_says_which_channels_it_uses(path: Path, tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "tif", count=40)
    store = to_store(chips, tmp_path / "chips.zarr", bands=("B02", "B03", "B04", "B08"))
    words = ("BANDS_IN=B04,B03,B02,B08", "BANDS_RGB=B04,B03,B02", f"WEIGHTS={path}", "EPOCHS=1", "BATCH=8")
    ended = train(store.path, tmp_path / "run", *words, "FINETUNE=head", task=4)
    assert ended.returncode == 0, ended.stderr
    assert "13 channels, taken as Sentinel-2's bands B01 to B12 in order; used are B04,B03,B02,B08" in ended.stdout
    trained = load_file(tmp_path / "run/model.safetensors")["conv1.weight"]
    assert trained[0, :, 0, 0].tolist() == [3, 2, 1, 7]
