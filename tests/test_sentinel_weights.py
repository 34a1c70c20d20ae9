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
from models.network_info import KEY, NetworkInfo
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
        (branch("B4", "B3", "B2"), [3, 2, 1]),
        (branch("B1", "B8", "B8A", "B9", "B10", "B12"), [0, 7, 8, 9, 10, 12]),
        (branch("red", "B8", "B05"), [3, 7, 4]),
        (branch(*(f"band{number}" for number in range(13))), list(range(13))),  # other names: the order of the file
    ],
)
def test_channels_are_picked_by_name(path: Path, spec: Branch, channels: list[int]) -> None:
    conv1 = build("resnet18", (spec,), 5, file_weights(path)).get_parameter("conv1.weight")
    assert conv1[0, :, 0, 0].tolist() == channels


@pytest.mark.parametrize(
    "bands",
    [
        ("B04", "VV"),
        ("B04", "B4"),  # two bands cannot be the same channel
        ("red", "B4"),
        ("B004",),
        ("B13",),
        ("B11A",),
    ],
)
def test_bands_that_are_not_one_channel_each_are_refused(path: Path, bands: tuple[str, ...]) -> None:
    text = refusal(lambda: build("resnet18", (branch(*bands),), 5, file_weights(path)))
    expected = f"expected conv1.weight of {len(bands)} bands ({','.join(bands)}) or of red,green,blue, found 13 bands"
    assert f"{expected}, which can only be those of Sentinel-2 (B01 to B12)" in text


def test_weights_of_a_run_fit_bands_whose_names_are_padded_or_not(tmp_path: Path) -> None:
    """Also the trunks of joined networks, in another order of trunks and bands."""
    spec = (
        branch("B02", "B8A"),
        branch(
            "B03",
        ),
    )
    net = build("resnet18", spec, 5)
    info = NetworkInfo(
        arch="resnet18",
        task=3,
        bands=tuple(each.bands for each in spec),
        input="raw",
        pool=True,
        classes=tuple("abcde"),
    )
    save_file(net.state_dict(), tmp_path / "run.safetensors", {KEY: info.text()})
    weights = file_weights(tmp_path / "run.safetensors")
    other = build("resnet18", (branch("B3"), branch("B8A", "B2")), 5, weights)
    for trunk, channels, source in (("trunks.0", [0], "trunks.1"), ("trunks.1", [1, 0], "trunks.0")):
        filters, theirs = (of.get_parameter(f"{name}.conv1.weight") for of, name in ((other, trunk), (net, source)))
        assert torch.equal(filters, theirs[:, channels])
    assert "expected 3 bands (B8A,B2 | B4)" in refusal(
        lambda: build("resnet18", (branch("B8A", "B2"), branch("B4")), 5, weights)
    )


def test_bands_with_both_names_are_told_apart(tmp_path: Path) -> None:
    net = build("resnet18", (branch("B04", "B4"),), 5)
    info = NetworkInfo(arch="resnet18", task=4, bands=(("B04", "B4"),), input="raw", pool=True, classes=tuple("abcde"))
    save_file(net.state_dict(), tmp_path / "run.safetensors", {KEY: info.text()})
    other = build("resnet18", (branch("B4", "B04"),), 5, file_weights(tmp_path / "run.safetensors"))
    assert torch.equal(other.get_parameter("conv1.weight"), net.get_parameter("conv1.weight")[:, [1, 0]])


def test_a_run_says_which_channels_it_uses(path: Path, tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "tif", count=40)
    store = to_store(chips, tmp_path / "chips.zarr", bands=("B02", "B03", "B04", "B08"))
    words = ("BANDS_IN=B04,B03,B02,B08", "BANDS_RGB=B04,B03,B02", f"WEIGHTS={path}", "EPOCHS=1", "BATCH=8")
    ended = train(store.path, tmp_path / "run", *words, "FINETUNE=head", task=4)
    assert ended.returncode == 0, ended.stderr
    assert "13 channels, taken as Sentinel-2's bands B01 to B12 in order; used are B04,B03,B02,B08\n" in ended.stdout
    trained = load_file(tmp_path / "run/model.safetensors")["conv1.weight"]
    assert trained[0, :, 0, 0].tolist() == [3, 2, 1, 7]


def test_a_run_says_which_of_its_bands_is_which_channel(path: Path, tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "tif", count=40)
    store = to_store(chips, tmp_path / "chips.zarr", bands=("B2", "B3", "B4", "B8"))
    words = ("BANDS_IN=B4,B8,B3,B2", "BANDS_RGB=B4,B3,B2", f"WEIGHTS={path}", "EPOCHS=1", "BATCH=8")
    ended = train(store.path, tmp_path / "run", *words, "FINETUNE=head", task=4)
    assert ended.returncode == 0, ended.stderr
    assert "in order; used are B04,B08,B03,B02; B8 is B08\n" in ended.stdout
