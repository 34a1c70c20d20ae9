"""Exported networks of timm, and two joined trunks: onnxruntime gives torch's logits, TensorRT lists the operators."""

import importlib.util

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.tensorrt import outside_of_tensorrt

from analysis.export import MAX_DIFFERENCE, converted
from analysis.raw_network import raw_network
from models.build import build
from models.resnet import Branch, branch
from pipeline.inputs import Inputs

BANDS = ("red", "green", "blue", "nir")
ONE, TWO = (branch(*BANDS),), (branch("red", "green", "blue"), branch("nir"))
NO_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
# Small networks of timm, one of each family; a conversion takes 2 to 12 CPU-seconds. A ViT also reads the shape of its
# input, so the cast is not the only operation on it.
CASES = [
    pytest.param("resnet18", TWO, "uint16", id="two trunks"),
    *(
        pytest.param(arch, ONE, dtype, id=arch, marks=NO_TIMM)
        for arch, dtype in (
            ("test_convnext", "float32"), ("test_efficientnet", "int32"), ("test_vit", "float32"),
            ("mobilenetv3_small_050", "float32"), ("swin_tiny_patch4_window7_224", "float32"),
        )
    ),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "branches", "dtype"), CASES)
def test_an_exported_network_gives_torchs_logits_and_tensorrt_lists_its_operators(
    arch: str, branches: tuple[Branch, ...], dtype: str
) -> None:
    torch.manual_seed(0)
    net = build(arch, branches, 3, size=(64, 64))
    inputs = Inputs(kind="raw", bands=BANDS, mean=(3e3,) * 4, std=(1e3,) * 4)
    module = raw_network(
        net, inputs, bands=BANDS[::-1], sides=(70, 64), crop=(64, 64), test="center", nodata=None, source="x"
    )  # fmt: skip
    chips = np.random.default_rng(0).integers(0, 9000, (3, 4, 70, 64)).astype(dtype)
    _, model = converted(module, torch.from_numpy(chips[:2]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (chips[:1], chips):
        (logits,) = session.run(None, {"chips": batch})
        with torch.no_grad():
            expected = module(torch.from_numpy(batch)).numpy()
        assert np.abs(logits - expected).max() < MAX_DIFFERENCE * max(1, np.abs(expected).max())
    assert outside_of_tensorrt(model) == (["input chips", "Cast chips"] if dtype == "uint16" else [])
