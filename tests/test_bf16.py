"""AMP=bf16 on a CPU without instructions for it gives one line."""

import pytest
import torch

from train import device
from train.config import make_config
from train.device import choose_device, multiplies_bf16

WARNING = (
    "AMP=bf16: this CPU has neither AVX512-BF16 nor AMX, so bf16 is up to 10 times slower than float32 (AMP=off).\n"
)


@pytest.mark.parametrize(
    ("flags", "amp", "expected"),
    [
        ("sse4_2 avx2 avx512f avx512_vnni", "bf16", WARNING),
        ("avx2 avx512f avx512_bf16", "bf16", ""),
        ("avx2 avx512f amx_tile amx_bf16", "bf16", ""),
        ("fp asimd", "bf16", WARNING),
        ("fp asimd bf16", "bf16", ""),
        ("", "bf16", ""),  # the system does not say what the CPU has
        ("avx2", "off", ""),
        ("avx2", "auto", ""),
    ],
)
def test_bf16_on_a_cpu_without_it_is_one_line(
    flags: str, amp: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset(flags.split()))
    chosen = choose_device(make_config("default", task=1, store="chips.zarr", gpu="cpu", amp=amp))
    assert chosen.amp == (torch.bfloat16 if amp == "bf16" else None)
    assert capsys.readouterr().out == expected


def test_the_flags_of_this_cpu_agree_with_torch() -> None:
    supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert multiplies_bf16(device.cpu_flags()) or not supported
