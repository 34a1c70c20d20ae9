"""conv1's adaptations, the two-branch model, and the weights that they start from; exact where integers make it so."""

import functools
import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch.hub import load_state_dict_from_url

from models import build as build_module
from models.archs import ARCHS
from models.build import build, imagenet_file, imagenet_weights
from models.resnet import Branch, WeightsError, adapt_conv1, branch, make_resnet
from models.two_branch import TwoBranch
from models.weights import (
    KEY,
    READ_AS_FLOAT32,
    Facts,
    Weights,
    check_names,
    check_values,
    file_weights,
    read_facts,
    weights_of,
)  # fmt: skip

RGB, RGBN, NIR = branch("red", "green", "blue"), branch("red", "green", "blue", "nir"), branch("nir")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def pretrained(arch: str = "resnet18") -> dict[str, torch.Tensor]:
    """A state dict such as torchvision publishes."""
    return dict(_pretrained(arch))


@functools.cache
def _pretrained(arch: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    state: dict[str, torch.Tensor] = torchvision.models.get_model(arch, weights=None).state_dict()
    return state


def plain(state: dict[str, torch.Tensor]) -> Weights:
    return weights_of(state, "w")


def facts(*groups: str, **more: Any) -> Facts:
    """Of a run on these bands: "red green blue"."""
    bands = tuple(tuple(group.split()) for group in groups)
    return Facts(
        **{"arch": "resnet18", "task": 1, "bands": bands, "input": "raw", "pool": True, "classes": ("a",), **more}
    )


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(WeightsError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_arch_takes_any_number_of_bands(arch: str) -> None:
    with torch.device("meta"):
        for bands in (1, 3, 13):
            spec = branch(*(f"band{index}" for index in range(bands)))
            logits = build(arch, (spec,), 5, None)(torch.empty(2, bands, 32, 32))
            assert logits.shape == (2, 5)


def test_nir_filter_equals_feeding_nir_three_times_exactly() -> None:
    """Integers in float64: sums are exact in any order, so == and not nearly."""
    torch.manual_seed(0)
    filters = torch.randint(-9, 10, (64, 3, 7, 7)).double()
    nir = torch.randint(0, 4096, (2, 1, 32, 32)).double()
    adapted = adapt_conv1(filters, NIR, torch.zeros(64, 1, 7, 7, dtype=torch.float64))
    once = torch.nn.functional.conv2d(nir, adapted, stride=2, padding=3)
    thrice = torch.nn.functional.conv2d(nir.expand(-1, 3, -1, -1), filters, stride=2, padding=3)
    assert torch.equal(once, thrice)


def test_nir_trunk_equals_the_pretrained_network_fed_three_times() -> None:
    state = pretrained()
    state["conv1.weight"] = (state["conv1.weight"] * 4096).round() / 4096  # float32 adds these exactly
    net = build("resnet18", (NIR,), 1000, plain(state)).double().eval()
    full = torchvision.models.resnet18().double().eval()
    full.load_state_dict(state)
    net.fc.load_state_dict(full.fc.state_dict())
    nir = torch.rand(2, 1, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.allclose(net(nir), full(nir.expand(-1, 3, -1, -1)), rtol=1e-12, atol=1e-12)


def test_colours_are_matched_by_name() -> None:
    filters = torch.arange(64 * 3 * 49, dtype=torch.float32).reshape(64, 3, 7, 7)
    fresh = torch.full((64, 4, 7, 7), -1.0)
    weight = adapt_conv1(filters, branch("blue", "nir", "green", "red"), fresh)
    assert torch.equal(weight[:, 0], filters[:, 2])
    assert torch.equal(weight[:, 1], fresh[:, 1])
    assert torch.equal(weight[:, 2], filters[:, 1])
    assert torch.equal(weight[:, 3], filters[:, 0])


def test_course_order_puts_blue_into_reds_filter() -> None:
    filters = torch.rand(64, 3, 7, 7)
    spec = Branch(bands=("blue", "green", "red"), colours=("red", "green", "blue"))
    assert torch.equal(adapt_conv1(filters, spec, torch.zeros(64, 3, 7, 7)), filters)


def test_task_4_keeps_rgb_and_draws_a_kaiming_nir_filter() -> None:
    state = pretrained()
    torch.manual_seed(3)
    weight = build("resnet18", (RGBN,), 17, plain(state)).conv1.weight
    assert torch.equal(weight[:, :3], state["conv1.weight"])
    # Normal, fan-out: std = sqrt(2 / (64 * 49)); 3136 draws tell it within 10 %.
    nir = weight[:, 3]
    assert nir.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.1)
    assert abs(nir.mean().item()) < 0.002


def test_without_pooling_the_features_see_twice_the_resolution() -> None:
    sizes = {}
    for pool in (True, False):
        net = build("resnet18", (RGB,), 5, plain(pretrained()), pool=pool)
        net.layer4.register_forward_hook(lambda _, __, out, pool=pool: sizes.update({pool: tuple(out.shape)}))
        net(torch.zeros(1, 3, 64, 64))
    assert sizes == {True: (1, 512, 2, 2), False: (1, 512, 4, 4)}
    assert not any("maxpool" in name for name in net.state_dict())


@pytest.mark.parametrize(("choice", "expected"), [("mean", [2.0]), ("copy-red", [1.0])])
def test_filters_of_new_bands_by_choice(choice: str, expected: list[float]) -> None:
    """Red's filter is all 1, green's 2, blue's 3; the new bands are before, between and after them."""
    filters = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1).expand(64, 3, 7, 7)
    spec = branch("nir", "blue", "swir", "red", "green")
    weight = adapt_conv1(filters, spec, torch.full((64, 5, 7, 7), -1.0), choice)
    assert [weight[:, band].unique().tolist() for band in range(5)] == [expected, [3.0], expected, [1.0], [2.0]]
    alone = adapt_conv1(filters, NIR, torch.zeros(64, 1, 7, 7), choice)
    assert alone.unique().tolist() == [6.0 if choice == "mean" else 1.0]
    state = pretrained()
    net = build("resnet18", (RGBN,), 17, plain(state), new_bands=choice)
    assert torch.equal(net.conv1.weight, adapt_conv1(state["conv1.weight"], RGBN, net.conv1.weight, choice))


def test_pretrained_rgb_network_is_torchvisions() -> None:
    state = pretrained()
    net = build("resnet18", (RGB,), 17, plain(state)).eval()
    full = torchvision.models.resnet18().eval()
    full.load_state_dict(state)
    net.fc, full.fc = torch.nn.Identity(), torch.nn.Identity()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(net(images), full(images))


def test_two_branches_join_the_features_of_their_own_bands() -> None:
    net = build("resnet18", (RGB, NIR), 17, plain(pretrained())).eval()
    assert isinstance(net, TwoBranch)
    images = torch.rand(2, 4, 64, 64)
    with torch.inference_mode():
        rgb, nir = net.trunks[0](images[:, :3]), net.trunks[1](images[:, 3:])
        assert rgb.shape == nir.shape == (2, 512)
        assert torch.equal(net(images), net.fc(torch.cat([rgb, nir], dim=1)))
    assert net.fc.in_features == 1024
    assert sum(p.numel() for p in net.fc.parameters()) == 1024 * 17 + 17


def test_weights_from_a_file(tmp_path: Path) -> None:
    state = pretrained()
    save_file(state, tmp_path / "w.safetensors")
    weights = file_weights(tmp_path / "w.safetensors")
    net = build("resnet18", (RGB, NIR), 4, weights)
    assert torch.equal(net.trunks[0].layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert torch.equal(net.trunks[1].conv1.weight, state["conv1.weight"].sum(1, keepdim=True))
    assert weights.num_classes == 1000


def test_weights_of_a_four_band_run_fit_four_bands() -> None:
    state = make_resnet("resnet18", 4, 9).state_dict()
    net = build("resnet18", (RGBN,), 17, plain(state))
    assert torch.equal(net.conv1.weight, state["conv1.weight"])
    assert "expected conv1.weight of 3 bands (red,green,blue) or of red,green,blue, found 4 bands" in refusal(
        lambda: build("resnet18", (RGB,), 17, plain(state))
    )


def meta_state(arch: str) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return dict(make_resnet(arch, 3, 5).state_dict())


@pytest.mark.parametrize("arch", ARCHS)
def test_weights_of_any_other_arch_are_refused_by_its_name(arch: str) -> None:
    """Also those of a deeper one, which has a tensor for every name."""
    own = {name: value for name, value in meta_state(arch).items() if not name.startswith("fc.")}
    for other in ARCHS:
        (state,) = plain(meta_state(other)).trunks
        if other == arch:
            check_names(state, own, arch, "w")
        else:
            text = refusal(lambda state=state: check_names(state, own, arch, "w"))
            assert text.startswith(f"w: expected weights of ARCH={arch}, found those of {other}: "), text
            assert text.endswith(f" Set ARCH={other}, or other WEIGHTS.")


def test_unused_tensors_are_named() -> None:
    text = refusal(lambda: build("resnet18", (RGB,), 5, plain(pretrained("resnet34"))))
    assert "layer1.2.conv1.weight, layer1.2.bn1.weight, layer1.2.bn1.bias and 93 more unused." in text


@given(st.data())
def test_each_tensor_has_its_place(data: st.DataObject) -> None:
    """Take one away, add one, rename one or reshape one: its name is in the line."""
    own = {name: value for name, value in meta_state("resnet18").items() if not name.startswith("fc.")}
    name = data.draw(st.sampled_from(sorted(name for name in own if "tracked" not in name)))
    new = data.draw(st.text(min_size=1, max_size=9).filter(lambda text: text not in own))
    state = dict(own)
    kind = data.draw(st.sampled_from(["away", "added", "renamed", "reshaped"]))
    if kind != "added":
        value = state.pop(name)
    if kind in ("added", "renamed"):
        state[new] = own[name]
    if kind == "reshaped":
        state[name] = value[None]
    text = refusal(lambda: check_names(state, own, "resnet18", "w"))
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


def test_each_trunk_of_two_is_loaded_from_its_own() -> None:
    """With and without what the file says of itself, which older runs' files do not."""
    trained = TwoBranch("resnet18", (RGB, NIR), 9, pool=True)
    for known in (None, facts("red green blue", "nir", task=3)):
        net = build("resnet18", (RGB, NIR), 5, weights_of(trained.state_dict(), "w", known))
        own = net.state_dict()
        for name, value in trained.state_dict().items():
            assert name.startswith("fc.") or torch.equal(own[name], value)
        assert net.fc.weight.shape == (5, 1024)
    assert "expected 1 trunk, found 2" in refusal(lambda: build("resnet18", (RGB,), 5, plain(trained.state_dict())))


@pytest.mark.parametrize("order", ["blue nir red green", "red green blue nir"])
def test_bands_in_another_order_are_permuted_exactly(order: str) -> None:
    """Each band still meets its own filter. Integers in float64: == and not nearly."""
    bands = tuple(order.split())
    source = make_resnet("resnet18", 4, 5)
    source.conv1.weight.data = torch.randint(-9, 10, source.conv1.weight.shape).float()
    net = build("resnet18", (RGBN,), 5, weights_of(source.state_dict(), "w", facts(order, task=4)))
    chips = {band: torch.randint(0, 4096, (2, 32, 32)).double() for band in bands}
    before = source.conv1.double()(torch.stack([chips[band] for band in bands], dim=1))
    after = net.conv1.double()(torch.stack([chips[band] for band in RGBN.bands], dim=1))
    assert torch.equal(before, after)


@pytest.mark.parametrize("order", ["red green blue", "blue green red"])
def test_a_run_on_colours_gives_other_tasks_its_filters_by_name(order: str) -> None:
    state = pretrained()
    weights = weights_of(state, "w", facts(order))
    filters = dict(zip(order.split(), state["conv1.weight"].unbind(1), strict=True))
    colours = [filters[band] for band in ("red", "green", "blue")]
    assert torch.equal(build("resnet18", (RGBN,), 5, weights).conv1.weight[:, :3], torch.stack(colours, dim=1))
    trunks = build("resnet18", (RGB, NIR), 5, weights).trunks
    assert torch.equal(trunks[0].conv1.weight, torch.stack(colours, dim=1))
    assert torch.equal(trunks[1].conv1.weight, torch.stack(colours, dim=1).sum(1, keepdim=True))
    course = Branch(bands=("blue", "green", "red"), colours=("red", "green", "blue"))
    own = build("resnet18", (course,), 5, weights).conv1.weight
    assert torch.equal(own, torch.stack(colours[::-1], dim=1))


def test_runs_on_other_bands_are_refused_with_both() -> None:
    four = weights_of(make_resnet("resnet18", 4, 5).state_dict(), "w", facts("red green blue nir", task=4))
    two = weights_of(
        TwoBranch("resnet18", (RGB, NIR), 9, pool=True).state_dict(), "w", facts("red green blue", "nir", task=3)
    )
    for weights, branches, expected in (
        (four, (RGB,), "expected 3 bands (red,green,blue), found a run of TASK=4 on 4 bands (red,green,blue,nir)."),
        (four, (RGB, NIR), "expected 4 bands (red,green,blue | nir), found a run of TASK=4 on 4 bands (red,gre"),
        (two, (RGB,), "expected 3 bands (red,green,blue), found a run of TASK=3 on 4 bands (red,green,blue | nir)."),
        (
            two,
            (RGBN,),
            "expected 4 bands (red,green,blue,nir), found a run of TASK=3 on 4 bands (red,green,blue | nir).",
        ),
    ):
        assert f"w: {expected}" in refusal(lambda w=weights, b=branches: build("resnet18", b, 5, w))
    assert "its metadata says 3 bands (red,green,blue), its tensors are of other bands" in refusal(
        lambda: weights_of(make_resnet("resnet18", 4, 5).state_dict(), "w", facts("red green blue"))
    )


@pytest.mark.parametrize(
    ("weights", "branches", "lack"),
    [
        (plain(meta_state("resnet18")), (RGB,), False),
        (plain(meta_state("resnet18")), (RGBN,), True),
        (plain(meta_state("resnet18")), (RGB, NIR), True),
        (weights_of(meta_state("resnet18"), "w", facts("green blue red")), (RGBN,), True),
        (weights_of(meta_state("resnet18"), "w", facts("green blue red")), (RGB,), False),
        (plain(meta_state("resnet18") | {"conv1.weight": torch.zeros(64, 4, 7, 7)}), (RGBN,), False),
    ],
)
def test_which_weights_lack_a_band(weights: Weights, branches: tuple[Branch, ...], lack: bool) -> None:
    assert weights.lack_bands(branches) is lack


words = st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True)


@given(
    bands=st.lists(words, min_size=1, max_size=3), classes=words, task=st.integers(), pool=st.booleans(), arch=st.text()
)
def test_facts_survive_json(bands: list, classes: list, task: int, pool: bool, arch: str) -> None:
    made = Facts(
        arch=arch, task=task, bands=tuple(map(tuple, bands)), input="raw", pool=pool, classes=tuple(classes)
    )  # fmt: skip
    assert read_facts(made.text()) == made


FIELD = st.sampled_from(["version", "arch", "task", "bands", "input", "pool", "classes", "x"])


@given(JSON | st.builds(lambda name, value: json.loads(facts("nir").text()) | {name: value}, FIELD, JSON))
def test_any_json_in_the_metadata_is_facts_or_a_reason(value: Any) -> None:
    try:
        found = read_facts(json.dumps(value))
    except ValueError:
        return
    assert json.loads(found.text()) == value


def test_metadata_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    for text, found in (
        ("{", "its metadata cannot be used (Expecting"),
        ("[]", "its metadata cannot be used (expected a JSON object)"),
        ("[" * 100_000, "its metadata cannot be used (maximum recursion"),
        ('{"version": 2}', "expected version 1, found 2: it was written by another version of canopy"),
        (facts("nir").text().replace("true", "1"), "a value is of another type"),
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
        assert f"WEIGHTS={path}: expected a safetensors file (" in refusal(lambda: file_weights(path))


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
        assert "ImageNet weights of resnet18 cannot be had here (the file in the cache is damaged: its SHA-256" in text
    path.unlink()
    os.mkfifo(path)
    assert "is taken by something that is no file" in refusal(lambda: imagenet_weights("resnet18"))


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(WeightsError, match=r"Copy resnet18-f37072fd.pth .* or pass WEIGHTS=path.safetensors"):
        imagenet_weights("resnet18")
    assert build_module.DOWNLOAD_TIMEOUT_S > 0
