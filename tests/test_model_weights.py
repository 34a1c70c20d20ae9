"""Weights from files and from torchvision's cache: each tensor is checked, and each fault is one line."""

import hashlib
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from helpers.networks import NIR, RGB, RGBN, meta_state, network_info, plain, pretrained, refusal
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch.hub import load_state_dict_from_url

from models import build as build_module
from models.archs import ARCHS
from models.build import build, imagenet_file, imagenet_weights
from models.network_info import KEY, NetworkInfo, parse_info
from models.resnet import WeightsError
from models.weights import READ_AS_FLOAT32, check_names, check_values, file_weights

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def test_weights_from_a_file(tmp_path: Path) -> None:
    state = pretrained()
    save_file(state, tmp_path / "w.safetensors")
    weights = file_weights(tmp_path / "w.safetensors")
    net = build("resnet18", (RGB, NIR), 4, weights)
    assert torch.equal(net.trunks[0].layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert torch.equal(net.trunks[1].conv1.weight, state["conv1.weight"].sum(1, keepdim=True))
    assert weights.num_classes == 1000


@pytest.mark.parametrize("arch", ARCHS)
def test_weights_of_any_other_arch_are_refused_by_its_name(arch: str) -> None:
    """Also those of a deeper one, which has a tensor for every name."""
    expected = {name: value for name, value in meta_state(arch).items() if not name.startswith("fc.")}
    for other in ARCHS:
        (state,) = plain(meta_state(other)).trunks
        if other == arch:
            check_names(state, expected, arch, "w")
        else:
            text = refusal(lambda state=state: check_names(state, expected, arch, "w"))
            assert text.startswith(f"w: expected weights of {arch}, found those of {other}: "), text
            assert text.endswith(" Use that architecture, or other weights.")


def test_unused_tensors_are_named() -> None:
    text = refusal(lambda: build("resnet18", (RGB,), 5, plain(pretrained("resnet34"))))
    assert "layer1.2.conv1.weight, layer1.2.bn1.weight, layer1.2.bn1.bias and 93 more unused." in text


@given(st.data())
def test_each_tensor_has_its_place(data: st.DataObject) -> None:
    """Remove, add, rename or reshape one tensor: the message has its name."""
    expected = {name: value for name, value in meta_state("resnet18").items() if not name.startswith("fc.")}
    name = data.draw(st.sampled_from(sorted(name for name in expected if "tracked" not in name)))
    new = data.draw(st.text(min_size=1, max_size=9).filter(lambda text: text not in expected))
    state = dict(expected)
    kind = data.draw(st.sampled_from(["away", "added", "renamed", "reshaped"]))
    if kind != "added":
        value = state.pop(name)
    if kind in ("added", "renamed"):
        state[new] = expected[name]
    if kind == "reshaped":
        state[name] = value[None]
    text = refusal(lambda: check_names(state, expected, "resnet18", "w"))
    assert kind == "added" or name in text
    assert kind not in ("added", "renamed") or (new if new.isprintable() else ascii(new)) in text


@given(
    dtype=st.sampled_from(READ_AS_FLOAT32), value=st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    place=st.integers(0, 11),
)  # fmt: skip
def test_nan_and_infinity_are_refused_by_the_tensors_name(dtype: torch.dtype, value: float, place: int) -> None:
    tensor = torch.ones(3, 4, dtype=dtype)
    tensor.view(-1)[place] = value
    text = refusal(lambda: check_values({"good": torch.ones(2), "layer1.0.conv1.weight": tensor}, "w"))
    assert text.startswith(f"w: layer1.0.conv1.weight holds {value} (value {place + 1} of 12). ")


def test_values_that_batchnorm_or_float32_cannot_take_are_refused() -> None:
    for name, value in (("bn1.running_var", -1.0), ("conv1.weight", 1e39)):
        tensor = torch.tensor([1.0, value], dtype=torch.float64)
        assert f"w: {name} holds {value} (value 2 of 2)" in refusal(lambda t=tensor, n=name: check_values({n: t}, "w"))
    assert check_values({"bn1.running_mean": torch.tensor([-1.0])}, "w")["bn1.running_mean"].item() == -1.0


def test_half_precision_is_widened_exactly_and_other_kinds_are_refused() -> None:
    for dtype in READ_AS_FLOAT32:
        state = {"conv1.weight": torch.rand(5).to(dtype), "bn1.num_batches_tracked": torch.tensor(7)}
        values = check_values(state, "w")
        assert {value.dtype for value in values.values()} == {torch.float32, torch.int64}
        assert torch.equal(values["conv1.weight"], state["conv1.weight"].to(torch.float32))
        name = str(dtype).removeprefix("torch.")
        assert plain(state).other_dtypes == (() if dtype == torch.float32 else (name,))
    state = {name: value.half() if value.is_floating_point() else value for name, value in pretrained().items()}
    net = build("resnet18", (RGB,), 5, plain(state))
    assert torch.equal(net.layer1[0].conv1.weight, state["layer1.0.conv1.weight"].float())
    for dtype in (torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn):
        text = refusal(lambda dtype=dtype: check_values({"conv1.weight": torch.zeros(2, dtype=dtype)}, "w"))
        assert text == f"w: expected conv1.weight of dtype float32, found {str(dtype).removeprefix('torch.')}."
    assert "expected bn1.num_batches_tracked of dtype int64, found float32" in refusal(
        lambda: check_values({"bn1.num_batches_tracked": torch.zeros(())}, "w")
    )


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_prefixes_and_missing_counts_change_nothing(prefix: str) -> None:
    state = pretrained()
    given = {prefix + name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    net, expected = (build("resnet18", (RGBN,), 5, plain(values), new_bands="mean") for values in (given, state))
    own = net.state_dict()
    for name, value in expected.state_dict().items():
        assert name.startswith("fc.") or torch.equal(own[name], value)


def test_a_prefix_that_not_all_names_have_is_no_prefix() -> None:
    state = {f"module.{name}": value for name, value in pretrained().items()} | {"epoch": torch.zeros(())}
    assert "module.conv1.weight" in refusal(lambda: build("resnet18", (RGB,), 5, plain(state)))


words = st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True)


@given(
    bands=st.lists(words, min_size=1, max_size=3), classes=words, task=st.integers(), pool=st.booleans(),
    arch=st.text(), mean=st.lists(st.floats(allow_nan=False, allow_infinity=False)),
)  # fmt: skip
def test_the_description_survives_json(
    bands: list, classes: list, task: int, pool: bool, arch: str, mean: list
) -> None:
    made = NetworkInfo(
        arch=arch, task=task, bands=tuple(map(tuple, bands)), input="raw", pool=pool, classes=tuple(classes),
        mean=tuple(mean), std=tuple(mean),
    )  # fmt: skip
    assert ("mean" in json.loads(made.text())) == bool(mean)  # runs of earlier versions keep their bytes
    assert parse_info(made.text()) == made


FIELD = st.sampled_from(["version", "arch", "task", "bands", "input", "pool", "classes", "mean", "std", "x"])


@given(JSON | st.builds(lambda name, value: json.loads(network_info("nir").text()) | {name: value}, FIELD, JSON))
def test_any_json_in_the_metadata_is_a_description_or_a_reason(value: Any) -> None:
    try:
        found = parse_info(json.dumps(value))
    except ValueError:
        return
    assert json.loads(found.text()) == value


def test_metadata_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    for text, found in (
        ("{", "its metadata cannot be used (Expecting"),
        ("[]", "its metadata cannot be used (expected a JSON object)"),
        ("[" * 100_000, "its metadata cannot be used (maximum recursion"),
        ('{"version": 2}', "expected version 1, found 2: it was written by another version of canopy"),
        (network_info("nir").text().replace("true", "1"), "a value is of another type"),
    ):
        save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", metadata={KEY: text})
        assert found in refusal(lambda: file_weights(tmp_path / "w.safetensors"))


@given(st.data())
def test_a_file_that_is_cut_or_lengthened_is_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = save({"conv1.weight": torch.zeros(2, 3), "bn1.bias": torch.zeros(2)}, metadata={"format": "pt"})
    cut = data.draw(st.integers(0, len(whole) - 1))
    claimed = data.draw(st.integers(0, 2**64 - 1).filter(lambda size: size != int.from_bytes(whole[:8], "little")))
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    for damaged in (whole[:cut], whole + bytes(cut + 1), claimed.to_bytes(8, "little") + whole[8:]):
        path.write_bytes(damaged)
        assert f"{path}: expected a safetensors file (" in refusal(lambda: file_weights(path))


class Published:
    """Weights as torchvision publishes them, under a name that ends in the hash of these bytes."""

    def __init__(self, data: bytes) -> None:
        self.url = f"https://nowhere.invalid/resnet18-{hashlib.sha256(data).hexdigest()[:8]}.pth"

    def get_state_dict(self, **settings: Any) -> dict[str, torch.Tensor]:
        return load_state_dict_from_url(self.url, **settings)


def test_imagenet_weights_come_from_torchvisions_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loading code on a file that stands where torchvision keeps its own. A damaged one is a line."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert imagenet_file("resnet18") == tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    state, data = pretrained(), io.BytesIO()
    torch.save(state, data)
    published = Published(data.getvalue())
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _: SimpleNamespace(DEFAULT=published))
    path = imagenet_file("resnet18")
    path.parent.mkdir()
    path.write_bytes(data.getvalue())
    found = imagenet_weights("resnet18")
    read = {**found.trunks[0], **found.last}
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], value) for name, value in state.items())
    flipped = bytearray(data.getvalue())
    flipped[len(flipped) // 2] ^= 1  # in a tensor: torch.load would not notice
    for damaged in (flipped, flipped[:1000], b"<html>", b""):
        path.write_bytes(damaged)
        text = refusal(lambda: imagenet_weights("resnet18"))
        assert (
            "ImageNet weights of resnet18 are not available here (the file in the cache is damaged: its SHA-256" in text
        )
    path.unlink()
    os.mkfifo(path)
    assert "the path in the cache exists, but is not a regular file" in refusal(lambda: imagenet_weights("resnet18"))


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(WeightsError, match=r"Copy resnet18-f37072fd.pth .* or pass WEIGHTS=path.safetensors"):
        imagenet_weights("resnet18")
    assert build_module.DOWNLOAD_TIMEOUT_S > 0
