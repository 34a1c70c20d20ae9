"""Grad-CAM: where a network looks for a class. Needs torch; `make report` loads it with CAM=1 only.

In: a run, its store, chips and classes. Out: images of the chips in grey with the map in colours, one per trunk.

Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, arXiv:1610.02391:
the maps of a convolution layer, each weighted by the mean of the logit's gradient over its cells, summed, and cut off
below 0. The gradient is that of the class's logit, also for a chip without the label. This equals captum's
`LayerGradCam`, which would be one more package to install for ten lines.
"""

import base64
import io
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from analysis.finished_run import Run
from analysis.members import refuse_ensemble
from analysis.pictures import read_chips, shown_bands, stretch, stretch_valid
from analysis.saved_model import load_model
from models.two_branch import TwoBranch
from pipeline.loader import eval_loader
from pipeline.order import center
from preprocess.console import UserError
from preprocess.zarr_store import Store

LAYERS = ("layer4", "layer3", "layer2")  # of a ResNet, the deepest first
FEWEST_CELLS = 4  # per side: on small chips layer4 has 1 or 2, which show no place
BATCH = 32
OPACITY = 0.55  # of the map's highest value over the chip
JPEG_QUALITY = 85  # a PNG of 256 pixels would take 10 times the bytes


@dataclass(frozen=True, kw_only=True)
class CamNetwork:
    """A network, and for each trunk the layer that is looked at with the sides of its map."""

    net: nn.Module
    layers: tuple[nn.Module, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CamImage:
    """A chip with one trunk's map as a data URI, and what it shows."""

    uri: str
    words: str


def cam_layers(net: nn.Module, crop: tuple[int, int], num_bands: int, arch: str) -> CamNetwork:
    """The deepest layer of each trunk whose map has FEWEST_CELLS per side.

    Raises:
        UserError: the network is no ResNet, or the chips are too small.
    """
    trunks = list(net.trunks) if isinstance(net, TwoBranch) else [net]
    layers, names = [], []
    for trunk in trunks:
        if not isinstance(getattr(trunk, LAYERS[0], None), nn.Module):
            raise UserError(
                f"CAM=1: expected a ResNet, found ARCH={arch}, which has no last convolution map. Leave CAM out."
            )
        modules = [trunk.get_submodule(name) for name in LAYERS]
        maps = feature_maps(net, modules, torch.zeros(1, num_bands, *crop))
        fits = [index for index, values in enumerate(maps) if min(values.shape[2:]) >= FEWEST_CELLS]
        if not fits:
            raise UserError(
                f"CAM=1: chips of {crop[0]} x {crop[1]} px are too small: the maps of {LAYERS[-1]} have "
                f"{min(maps[-1].shape[2:])} cells per side, expected {FEWEST_CELLS}. Leave CAM out."
            )
        height, width = maps[fits[0]].shape[2:]
        layers.append(modules[fits[0]])
        names.append(f"{LAYERS[fits[0]]}, {height} x {width} cells")
    return CamNetwork(net=net, layers=tuple(layers), names=tuple(names))


def feature_maps(net: nn.Module, layers: list[nn.Module], images: torch.Tensor) -> list[torch.Tensor]:
    """What these layers return for a batch."""
    return _forward(net, layers, images)[1]


def _forward(
    net: nn.Module, layers: list[nn.Module], images: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:  # fmt: skip
    maps: dict[int, torch.Tensor] = {}

    def keep(index: int) -> object:
        return lambda module, inputs, output: maps.__setitem__(index, output)

    handles = [layer.register_forward_hook(keep(index)) for index, layer in enumerate(layers)]  # type: ignore[arg-type]
    try:
        logits = net(images)
    finally:
        for handle in handles:
            handle.remove()
    return logits, [maps[index] for index in range(len(layers))]


def grad_cam(network: CamNetwork, images: torch.Tensor, classes: np.ndarray) -> list[np.ndarray]:
    """Grad-CAM of images (B, channels, height, width), one class per image: per trunk (B, cells, cells), at least 0."""
    with torch.enable_grad():
        logits, maps = _forward(network.net, list(network.layers), images)
        chosen = logits.gather(1, torch.from_numpy(classes)[:, None]).sum()
        gradients = torch.autograd.grad(chosen, maps)
    weighted = [
        functional.relu((gradient.mean(dim=(2, 3), keepdim=True) * values).sum(dim=1))
        for gradient, values in zip(gradients, maps, strict=True)
    ]
    return [values.detach().numpy() for values in weighted]


class CamMaker:
    """Makes the images of one run. `words` says which layers are shown."""

    def __init__(self, run: Run, store: Store | str) -> None:
        refuse_ensemble(run, "CAM=1", "its scores are of several networks or views.")
        if isinstance(store, str):
            raise UserError(f"CAM=1: the chips are needed, and the store cannot be opened: {store}")
        self._run, self._store, self._model = run, store, load_model(run.path, store=store)
        inputs = self._model.inputs
        self._network = cam_layers(self._model.net, self._model.crop, len(inputs.bands), run.config.arch)
        self._trunks = [",".join(bands) for bands in run.record.inputs.branches]
        self.words = "; ".join(
            f"{bands}: {name}" for bands, name in zip(self._trunks, self._network.names, strict=True)
        )

    def images(self, chips: np.ndarray, classes: np.ndarray) -> list[list[CamImage]]:
        """One image per trunk for each pair of chip and class."""
        if not len(chips):
            return []
        model, store = self._model, self._store
        loader = eval_loader(
            store, chips, model.inputs, batch_size=BATCH, test=model.test, crop=model.crop, device="cpu"
        )  # fmt: skip
        heats: list[list[np.ndarray]] = [[] for _ in self._trunks]
        done = 0
        for batch in loader.epoch(0):
            count = batch.num_valid
            maps = grad_cam(self._network, batch.images_nchw[:count], classes[done : done + count])
            for trunk, values in enumerate(maps):
                heats[trunk] += list(values)
            done += count
        loader.close()
        grey = self._grey(chips)
        return [
            [
                CamImage(uri=overlay(grey[row], self._placed(heats[trunk][row])),
                         words=f"Grad-CAM of {self._run.classes[classes[row]]}, network of {bands}")
                for trunk, bands in enumerate(self._trunks)
            ]
            for row in range(len(chips))
        ]  # fmt: skip

    def _grey(self, chips: np.ndarray) -> np.ndarray:
        """(chips, height, width) 0 to 255: the mean of the colours that the page shows."""
        store = self._store
        bands = shown_bands(store.layout.bands, self._run.config.band_choice.rgb).colour
        values, nodata = read_chips(store, chips, bands), store.layout.nodata
        shown = stretch(values) if nodata is None else stretch_valid(values, nodata)
        return np.asarray(shown.mean(axis=1))

    def _placed(self, heat: np.ndarray) -> np.ndarray:
        """A map over the whole chip, 0 to 1; 0 where the network did not look (outside of the crop)."""
        layout, model = self._store.layout, self._model
        sides = (layout.height, layout.width)
        size = sides if model.test == "resize" else model.crop
        values = torch.from_numpy(heat)[None, None]
        large = functional.interpolate(values, size=size, mode="bilinear", align_corners=False)[0, 0].numpy()
        chip = np.zeros(sides)
        place = center(1, height=sides[0], width=sides[1], crop=size)
        top, left = int(place.crop_y[0]), int(place.crop_x[0])
        chip[top : top + size[0], left : left + size[1]] = large / max(float(large.max()), 1e-12)
        return chip


def overlay(grey: np.ndarray, heat: np.ndarray) -> str:
    """A data URI: a grey chip (0 to 255) under a coloured map (0 to 1), both (height, width)."""
    colours = 255 * matplotlib.colormaps["inferno"](heat)[..., :3]
    alpha = OPACITY * heat[..., None]
    mixed = np.rint((1 - alpha) * grey[..., None] + alpha * colours).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(mixed).save(data, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
