"""conv1's adaptations, weights in and out, and the two-branch model; exact where integers make it so."""

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from models import build as build_module
from models.build import build, file_state, imagenet_file, imagenet_state
from models.resnet import ARCHS, Branch, WeightsError, adapt_conv1, branch, make_resnet
from models.two_branch import TwoBranch

RGB, RGBN, NIR = branch("red", "green", "blue"), branch("red", "green", "blue", "nir"), branch("nir")


def pretrained(arch: str = "resnet18", seed: int = 1) -> dict[str, torch.Tensor]:
    """A state dict such as torchvision publishes."""
    torch.manual_seed(seed)
    state: dict[str, torch.Tensor] = torchvision.models.get_model(arch, weights=None).state_dict()
    return state


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
    net = build("resnet18", (NIR,), 1000, state).double().eval()
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
    weight = build("resnet18", (RGBN,), 17, state).conv1.weight
    assert torch.equal(weight[:, :3], state["conv1.weight"])
    # Normal, fan-out: std = sqrt(2 / (64 * 49)); 3136 draws tell it within 10 %.
    nir = weight[:, 3]
    assert nir.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.1)
    assert abs(nir.mean().item()) < 0.002


def test_without_pooling_the_features_see_twice_the_resolution() -> None:
    sizes = {}
    for pool in (True, False):
        net = build("resnet18", (RGB,), 5, pretrained(), pool=pool)
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
    net = build("resnet18", (RGBN,), 17, state, new_bands=choice)
    assert torch.equal(net.conv1.weight, adapt_conv1(state["conv1.weight"], RGBN, net.conv1.weight, choice))


def test_pretrained_rgb_network_is_torchvisions() -> None:
    state = pretrained()
    net = build("resnet18", (RGB,), 17, state).eval()
    full = torchvision.models.resnet18().eval()
    full.load_state_dict(state)
    net.fc, full.fc = torch.nn.Identity(), torch.nn.Identity()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(net(images), full(images))


def test_two_branches_join_the_features_of_their_own_bands() -> None:
    net = build("resnet18", (RGB, NIR), 17, pretrained()).eval()
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
    net = build("resnet18", (RGB, NIR), 4, file_state(tmp_path / "w.safetensors"), "w")
    assert torch.equal(net.trunks[0].layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert torch.equal(net.trunks[1].conv1.weight, state["conv1.weight"].sum(1, keepdim=True))


def test_weights_of_a_four_band_run_fit_four_bands(tmp_path: Path) -> None:
    state = make_resnet("resnet18", 4, 9).state_dict()
    net = build("resnet18", (RGBN,), 17, state)
    assert torch.equal(net.conv1.weight, state["conv1.weight"])


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "no.safetensors").write_bytes(b"nonsense")
    for call, found in (
        (
            lambda: build("resnet34", (RGB,), 5, pretrained(), "w"),
            r"w: expected weights of this ARCH, found no layer1.2",
        ),
        (lambda: build("resnet50", (RGB,), 5, pretrained(), "w"), r"w: expected layer1.0.conv1.weight of shape"),
        (
            lambda: build("resnet18", (RGB,), 5, make_resnet("resnet18", 4, 5).state_dict(), "w"),
            "expected conv1.weight",
        ),
        (lambda: file_state(tmp_path / "absent.safetensors"), "found no such file"),
        (lambda: file_state(tmp_path / "no.safetensors"), "expected a safetensors file"),
    ):
        with pytest.raises(WeightsError, match=found):
            call()


def test_imagenet_weights_come_from_torchvisions_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loading code on a file that stands where torchvision keeps its own. (Its hash is checked when it comes.)
    A damaged one is a line."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = imagenet_file("resnet18")
    assert path == tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir()
    state = pretrained()
    torch.save(state, path)
    found = imagenet_state("resnet18")
    assert all(torch.equal(found[name], value) for name, value in state.items())
    for damaged in (path.read_bytes()[:1000], b"<html>", b""):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="ImageNet weights of resnet18 cannot be had here"):
            imagenet_state("resnet18")


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(WeightsError, match=r"Copy resnet18-f37072fd.pth .* or pass WEIGHTS=path.safetensors"):
        imagenet_state("resnet18")
    assert build_module.DOWNLOAD_TIMEOUT_S > 0
