"""`report CAM=1`: where a network looks for a class, by Grad-CAM."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import here, train
from helpers.pages import Page
from PIL import Image
from tiny import tiny_networks
from torch.nn import functional

from analysis.grad_cam import FEWEST_CELLS, LAYERS, cam_layers, feature_maps, grad_cam, overlay
from models.build import build
from models.resnet import branch


def network(*groups: tuple[str, ...]) -> Any:
    torch.manual_seed(0)
    return build("resnet18", tuple(branch(*group) for group in groups), 5).eval()


def test_on_the_last_layer_it_is_the_map_that_the_weights_of_the_linear_layer_give() -> None:
    """Zhou et al., arXiv:1512.04150: with mean pooling before one linear layer, CAM is exact, and Grad-CAM equals it
    divided by the number of cells (arXiv:1610.02391, section 3.1)."""
    net, images = network(("red", "green", "blue")), torch.rand(3, 3, 128, 128)
    classes = np.array([4, 0, 2])
    made = cam_layers(net, (128, 128), 3, "resnet18")
    assert made.names == ("layer4, 4 x 4 cells",)
    (found,) = grad_cam(made, images, classes)
    with torch.no_grad():
        (maps,) = feature_maps(net, [net.layer4], images)
        weights = net.fc.weight[torch.from_numpy(classes)]
        expected = functional.relu(torch.einsum("bk,bkhw->bhw", weights, maps)) / maps[0, 0].numel()
    assert found == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-7)
    assert found.max() > 0


def test_each_network_of_task_3_has_a_map_of_its_own_bands() -> None:
    net, images = network(("red", "green", "blue"), ("nir",)), torch.rand(2, 4, 128, 128)
    classes = np.array([1, 3])
    made = cam_layers(net, (128, 128), 4, "resnet18")
    before = grad_cam(made, images, classes)
    assert [values.shape for values in before] == [(2, 4, 4), (2, 4, 4)]
    other = images.clone()
    other[:, 3] = torch.rand(2, 128, 128)  # the NIR network sees something else
    after = grad_cam(made, other, classes)
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])


@pytest.mark.parametrize(("side", "layer"), [(256, "layer4"), (64, "layer3"), (32, "layer2")])
def test_small_chips_are_looked_at_in_a_layer_with_at_least_4_cells_per_side(side: int, layer: str) -> None:
    made = cam_layers(network(("nir",)), (side, side), 1, "resnet18")
    cells = side // 2 ** (LAYERS[::-1].index(layer) + 3)
    assert cells >= FEWEST_CELLS
    assert made.names == (f"{layer}, {cells} x {cells} cells",)


def test_networks_without_maps_and_chips_that_are_too_small_are_refused(refused: Callable[..., str]) -> None:
    with tiny_networks():
        tiny = network(("nir",))
    assert refused(lambda: cam_layers(tiny, (64, 64), 1, "vit_tiny")).startswith(
        "CAM=1: expected a ResNet, found ARCH=vit"
    )
    assert refused(lambda: cam_layers(network(("nir",)), (16, 16), 1, "resnet18")).startswith(
        "CAM=1: chips of 16 x 16 px"
    )


def test_the_overlay_leaves_a_chip_grey_where_the_map_is_0() -> None:
    grey = np.tile(np.linspace(0, 255, 64), (64, 1))
    heat = np.zeros((64, 64))
    heat[:, 32:] = 1
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(overlay(grey, heat).partition(",")[2])))).astype(int)
    assert np.abs(image[:, :24] - np.rint(grey[:, :24, None])).max() <= 8  # JPEG
    assert (image[:, 40:, 0] - image[:, 40:, 2]).min() > 20  # inferno's brightest colour has little blue


@pytest.mark.slow
@pytest.mark.usefixtures("empty_figures")
def test_the_page_has_a_map_beside_each_top_loss(tmp_path: Path) -> None:
    store = to_store(write_chips(tmp_path / "tif", count=40, height=32, width=32), tmp_path / "chips.zarr")
    words = ("EPOCHS=1", "BATCH=8", "CROP=28", "POOL=off", "TRUNKS=red,green,blue;nir")
    assert train(store.path, tmp_path / "run", *words, task=3).returncode == 0
    ended = here("", "report", f"RUN={tmp_path / 'run'}", "CAM=1")
    assert (ended.returncode, ended.stderr) == (0, "")
    text = (tmp_path / "run/report/report.html").read_text()
    page = Page(tmp_path / "run/report/report.html")
    top = text[text.index('<section id="top-losses">') :]
    top = top[: top.index("</section>")]
    cards = top.count('<div class="chip"')
    assert cards > 10
    for bands in ("red,green,blue", "nir"):
        assert top.count(f", network of {bands}") == cards
    assert "red,green,blue: layer" in page.text


@pytest.mark.slow
@pytest.mark.usefixtures("empty_figures")
def test_a_tiny_network_is_refused_and_leaves_no_page(tmp_path: Path) -> None:
    store = to_store(write_chips(tmp_path / "tif", count=40), tmp_path / "chips.zarr")
    with tiny_networks():
        assert train(store.path, tmp_path / "run", "EPOCHS=1", "BATCH=8").returncode == 0
        ended = here("", "report", f"RUN={tmp_path / 'run'}", "CAM=1")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: CAM=1: expected a ResNet")
    assert not (tmp_path / "run/report").exists()
