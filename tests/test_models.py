"""Networks, conv1's filters for other bands, and which trunk starts from which; exact where integers allow it."""

from typing import Any

import pytest
import torch
import torchvision
from helpers.networks import NIR, RGB, RGBN, meta_state, network_info, plain, pretrained, refusal

from models.archs import ARCHS
from models.build import build
from models.resnet import Branch, adapt_conv1, branch, make_resnet
from models.two_branch import TwoBranch
from models.weights import Weights, weights_of


@pytest.mark.parametrize("arch", ARCHS)
def test_every_arch_takes_any_number_of_bands(arch: str) -> None:
    with torch.device("meta"):
        for bands in (1, 3, 13):
            spec = branch(*(f"band{index}" for index in range(bands)))
            logits = build(arch, (spec,), 5, None)(torch.empty(2, bands, 32, 32))
            assert logits.shape == (2, 5)


@pytest.mark.parametrize("bands", [(), (("red", "green"),), ("red", 3)])
def test_a_branch_of_anything_but_names_is_refused(bands: Any) -> None:
    with pytest.raises(TypeError, match=r"^expected names of bands, branch\("):
        branch(*bands)


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


@pytest.mark.parametrize("branches", [(RGB,), (RGB, NIR)])
def test_a_small_stem_doubles_the_resolution_and_keeps_all_other_weights(branches: tuple[Branch, ...]) -> None:
    """Weights with a stem of their own side fill conv1; with another side it stays new."""
    state = pretrained()
    net = build("resnet18", branches, 5, plain(state), stem="small")
    trunks = list(net.trunks) if len(branches) > 1 else [net]
    sizes = []
    for trunk, spec in zip(trunks, branches, strict=True):
        trunk.layer4.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape)))
        assert trunk.conv1.weight.shape == (64, len(spec.bands), 3, 3)
        assert trunk.conv1.stride == (1, 1)
        assert torch.equal(trunk.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
    net(torch.zeros(1, sum(len(spec.bands) for spec in branches), 64, 64))
    assert sizes == [(1, 512, 4, 4)] * len(branches)
    small = {**state, "conv1.weight": torch.randn(64, 3, 3, 3)}
    filled = build("resnet18", (RGB,), 5, plain(small), stem="small")
    assert torch.equal(filled.conv1.weight, small["conv1.weight"])
    assert build("resnet18", (RGB,), 5, plain(small)).conv1.weight.shape == (64, 3, 7, 7)


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


def test_weights_of_a_four_band_run_fit_four_bands() -> None:
    state = make_resnet("resnet18", 4, 9).state_dict()
    net = build("resnet18", (RGBN,), 17, plain(state))
    assert torch.equal(net.conv1.weight, state["conv1.weight"])
    assert "expected conv1.weight of 3 bands (red,green,blue) or of red,green,blue, found 4 bands" in refusal(
        lambda: build("resnet18", (RGB,), 17, plain(state))
    )


def test_each_trunk_of_two_is_loaded_from_its_own() -> None:
    """With and without what the file says of itself, which older runs' files do not."""
    trained = TwoBranch("resnet18", (RGB, NIR), 9, pool=True)
    for known in (None, network_info("red green blue", "nir", task=3)):
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
    net = build("resnet18", (RGBN,), 5, weights_of(source.state_dict(), "w", network_info(order, task=4)))
    chips = {band: torch.randint(0, 4096, (2, 32, 32)).double() for band in bands}
    before = source.conv1.double()(torch.stack([chips[band] for band in bands], dim=1))
    after = net.conv1.double()(torch.stack([chips[band] for band in RGBN.bands], dim=1))
    assert torch.equal(before, after)


@pytest.mark.parametrize("order", ["red green blue", "blue green red"])
def test_a_run_on_colours_gives_other_tasks_its_filters_by_name(order: str) -> None:
    state = pretrained()
    weights = weights_of(state, "w", network_info(order))
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
    four = weights_of(make_resnet("resnet18", 4, 5).state_dict(), "w", network_info("red green blue nir", task=4))
    two = weights_of(
        TwoBranch("resnet18", (RGB, NIR), 9, pool=True).state_dict(), "w", network_info("red green blue", "nir", task=3)
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
    assert "its metadata says 3 bands (red,green,blue), its tensors have other bands" in refusal(
        lambda: weights_of(make_resnet("resnet18", 4, 5).state_dict(), "w", network_info("red green blue"))
    )


@pytest.mark.parametrize(
    ("weights", "branches", "lack"),
    [
        (plain(meta_state("resnet18")), (RGB,), False),
        (plain(meta_state("resnet18")), (RGBN,), True),
        (plain(meta_state("resnet18")), (RGB, NIR), True),
        (weights_of(meta_state("resnet18"), "w", network_info("green blue red")), (RGBN,), True),
        (weights_of(meta_state("resnet18"), "w", network_info("green blue red")), (RGB,), False),
        (plain(meta_state("resnet18") | {"conv1.weight": torch.zeros(64, 4, 7, 7)}), (RGBN,), False),
    ],
)
def test_which_weights_lack_a_band(weights: Weights, branches: tuple[Branch, ...], lack: bool) -> None:
    assert weights.lack_bands(branches) is lack
