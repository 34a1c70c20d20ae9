"""Verdicts about a GPU: when batches are compared, what gpu-proof.json stores, and what is refused."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.chips import to_store, write_chips
from helpers.proofs import CHIPS, CPU, GPU, config_of, inputs_of

from preprocess.splits import make_split
from preprocess.zarr_store import Store
from train import gpu_proof, setup, tune
from train.device import Device
from train.gpu_proof import Pictures, make_pictures
from train.setup import Data


@pytest.fixture(scope="module", params=["uint16", "uint8", "int16", "float32"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("proof")
    chips = write_chips(folder / "tif", count=40, height=32, width=32, dtype=request.param)
    return to_store(chips, folder / "s.zarr")


def flip_a_bit(pictures: Pictures) -> None:
    """Flip the lowest bit of a float32, a smaller change than one step of a stored integer."""
    pictures["chips"].view(np.uint32)[5, 1, 7, 9] ^= 1


@pytest.fixture
def data(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """The data of a training in an empty folder; tune.json is not read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune, "lookup", lambda store, device: None)
    return Data(store=store, split=make_split("course", store), inputs=inputs_of(store), branches=())


class OnTheCpu:
    """Replaces `make_pictures`: DALI on the CPU replaces the GPU, with a fault per place of decoding."""

    def __init__(self, faults: dict[str, Callable[[Pictures], None]]) -> None:
        self.faults, self.calls = faults, list[str]()

    def __call__(self, *, device: torch.device, decode: str, **more: Any) -> Pictures:
        if device.type == "cpu":
            return make_pictures(device=device, decode=decode, **more)
        self.calls.append(decode)
        pictures = make_pictures(device=CPU, decode="host", **more, engine="dali")
        self.faults.get(decode, lambda pictures: None)(pictures)
        return pictures


def made_of(monkeypatch: pytest.MonkeyPatch, **faults: Callable[[Pictures], None]) -> OnTheCpu:
    made = OnTheCpu(faults)
    monkeypatch.setattr(gpu_proof, "make_pictures", made)
    return made


def test_a_correct_gpu_is_compared_once_in_less_than_two_seconds_of_cpu_time(
    data: Data, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, config = made_of(monkeypatch), config_of(data.store)
    started = time.process_time()
    assert setup.reading(config, data, GPU)["decode"] == "auto"
    assert time.process_time() - started < 2
    assert capsys.readouterr().out == "the first batches of the GPU equal those of the CPU (gpu-proof.json)\n"
    assert setup.reading(config, data, GPU)["decode"] == "auto"
    assert made.calls == ["device"]
    assert capsys.readouterr().out == ""
    ((key, verdict),) = json.loads(Path("gpu-proof.json").read_text()).items()
    assert verdict == {"decode": "device", "reason": ""}
    assert key.startswith(f"a GPU; driver unknown; torch {torch.__version__.split('+')[0]}")
    assert f"; {data.store.layout.dtype} lz4 4x32x32 in {data.store.layout.chunk_rows} rows; " in key


def test_a_verdict_is_valid_for_one_gpu_layout_and_way_of_loading(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    made, config = made_of(monkeypatch), config_of(data.store)
    other = replace(data, store=replace(data.store, layout=replace(data.store.layout, shard_tiles=7)))
    for settings, device, same in (
        ({}, GPU, False),
        ({"seed": 3, "epochs": 2, "batch": 16, "lr": 0.5}, GPU, True),
        ({}, replace(GPU, name="another GPU"), False),
        ({}, replace(GPU, amp=None), False),
        ({"flips": "none"}, GPU, False),
        ({"test": "resize"}, GPU, False),
        ({"crop": 16}, GPU, False),
        ({"cache": "device"}, GPU, False),
        ({"decode": "host"}, GPU, False),
    ):
        before = len(made.calls)
        setup.reading(config.replace(**settings), data, device)
        assert (len(made.calls) == before) == same, settings
    before = len(made.calls)
    setup.reading(config, other, GPU)  # the number of chips per shard does not change pixels
    assert len(made.calls) == before
    monkeypatch.setattr(gpu_proof, "driver_release", lambda: "580.65.06")
    setup.reading(config, data, GPU)
    assert len(made.calls) == before + 1


def test_wrong_decoding_is_one_line_and_decode_device_is_refused(
    data: Data, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    made = made_of(monkeypatch, device=flip_a_bit)
    line = (
        "a GPU decodes LZ4 wrongly (chips: 1 of 14 differ, number 6 in 1 of 4,096 values); decoding on the host "
        "instead (gpu-proof.json).\n"
    )
    data = replace(data, split=replace(data.split, train=CHIPS))
    for _ in range(2):  # the second verdict comes from the file
        assert setup.reading(config_of(data.store), data, GPU)["decode"] == "host"
        assert capsys.readouterr().out == line
    assert made.calls == ["device", "host"]
    text = refused(lambda: setup.reading(config_of(data.store, decode="device"), data, GPU))
    assert text.startswith("DECODE=device: a GPU decodes wrongly: chips: 1 of 14 differ")
    assert text.endswith("Use DECODE=host.")
    assert setup.reading(config_of(data.store, decode="host"), data, GPU)["decode"] == "host"
    assert "wrongly" not in capsys.readouterr().out


def test_wrong_images_are_refused_by_training_and_predict(
    data: Data, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    def shift(pictures: Pictures) -> None:
        pictures["train images"] += 0.5

    made_of(monkeypatch, device=shift, host=shift)
    text = refused(lambda: setup.reading(config_of(data.store), data, GPU))
    assert text.startswith("a GPU: batches made on this GPU are not those of the CPU: train images: ")
    assert "Use GPU=cpu;" in text
    images = np.zeros((2, 4, 8, 8), np.float32)

    def make(device: Device) -> np.ndarray:
        return images + (device.kind == "cuda") * 0.1

    layout = data.store.layout
    assert "test: 2 of 2 differ" in refused(
        lambda: gpu_proof.check_images(GPU, layout, ["predict"], data.inputs, "center", make)
    )
    gpu_proof.check_images(GPU, layout, ["predict, right"], data.inputs, "center", lambda device: images)


def test_a_read_only_folder_or_a_damaged_file_leads_to_another_comparison(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, config = made_of(monkeypatch), config_of(data.store)
    for text in ("", "[]", "{", '{"a": 1}', '{"a": {"decode": "moon", "reason": ""}}', '{"a": {"decode": "host"}}'):
        Path("gpu-proof.json").write_text(text)
        before = len(made.calls)
        setup.reading(config, data, GPU)
        assert len(made.calls) == before + 1
    Path("gpu-proof.json").unlink()
    monkeypatch.setattr(gpu_proof, "write_atomic", lambda path, data: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert setup.reading(config, data, GPU)["decode"] == "auto"
    assert not Path("gpu-proof.json").exists()


def test_on_the_cpu_nothing_is_compared(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    made = made_of(monkeypatch)
    setup.reading(config_of(data.store), data, Device(device=CPU, amp=None, name="CPU"))
    assert made.calls == []
    assert not Path("gpu-proof.json").exists()
