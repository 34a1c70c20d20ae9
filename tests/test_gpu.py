"""Tests that need a GPU: `make gpu-check`. Its batches are compared with the CPU's, which oracles check.

Imports only packages that training needs (checked by tests/test_gpu_check.py).
"""

import gc
import json
import os
import shutil
import signal
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.chips import BANDS, to_store, write_chips
from helpers.commands import here, python, train
from helpers.nodata import write_nodata
from tiny import Steps, outcome

from pipeline.inputs import Inputs, course_inputs, raw_inputs
from pipeline.loader import Batch, eval_loader, train_loader
from preprocess.zarr_store import Store
from train.config import make_config
from train.cuda_driver import gpu_available
from train.device import choose_device, prepare_torch
from train.memory import CONTEXT_BYTES, estimate_bytes
from train.setup import check_graphs, make_eval_loader, make_model, make_train_loader, open_data
from train.step import Trainer, make_trainer, train_step
from train.telemetry import LossMeter

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpu_available(), reason="no GPU can be used on this machine")]
ALL = np.arange(60)
# torch.compile builds C and C++ for each network.
COMPILER = {
    "gcc": shutil.which("gcc") or shutil.which("cc"),
    "Python.h (python3-dev)": (Path(sysconfig.get_path("include")) / "Python.h").exists(),
}
MISSING = [name for name, there in COMPILER.items() if not there]


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts about a GPU are stored in the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for whole runs, which take longer than all other tests here."""
    chips = write_chips(tmp_path_factory.mktemp("runs") / "tif", count=60, height=256, width=256)
    return to_store(chips, chips.folder.parent / "chips.zarr")


@pytest.fixture(scope="module", params=["lz4", "none"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Chips of Planet's size, so that a band has two chunks. lz4 decodes on the device, none on the host."""
    chips = write_chips(tmp_path_factory.mktemp("gpu") / "tif", count=60, height=256, width=256)
    return to_store(chips, chips.folder.parent / "chips.zarr", codec=request.param)


def inputs_of(store: Store, kind: str) -> Inputs:
    if kind == "unscaled":
        return Inputs(kind="raw", bands=("red", "green", "blue"), mean=(0.0,) * 3, std=(1.0,) * 3)
    return course_inputs(store, 4) if kind == "course" else raw_inputs(store, BANDS[::-1], ALL)


@pytest.mark.parametrize("flips", ["none", "horizontal", "both", "dihedral"])
@pytest.mark.parametrize("kind", ["unscaled", "raw", "course"])
def test_train_batches_equal_the_cpus(store: Store, flips: str, kind: str) -> None:
    inputs, options = inputs_of(store, kind), {"batch_size": 16, "flips": flips, "dtype": torch.float32}
    cpu, gpu = (train_loader(store, ALL, inputs, device=device, **options) for device in ("cpu", "cuda:0"))
    assert gpu.decode == ("device" if store.layout.codec == "lz4" else "host")
    for one, two in zip(cpu.epoch(1), gpu.epoch(1), strict=True):
        assert np.array_equal(one.chips, two.chips)
        assert torch.equal(one.labels, two.labels.cpu())
        if kind == "unscaled":  # integers: decode, crop and flips are equal to the bit
            assert torch.equal(one.images_nchw, two.images_nchw.cpu())
        else:
            torch.testing.assert_close(two.images_nchw.cpu(), one.images_nchw, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cache", ["host", "device"])
@pytest.mark.parametrize("flips", ["both", "dihedral"])
def test_cached_batches_equal_the_cpus(store: Store, flips: str, cache: str) -> None:
    inputs = inputs_of(store, "unscaled")
    cpu = train_loader(store, ALL, inputs, batch_size=16, flips=flips)
    gpu = train_loader(
        store, ALL, inputs, batch_size=16, flips=flips, device="cuda:0", dtype=torch.float32, cache=cache
    )
    assert gpu.cache == cache
    for one, two in zip(cpu.epoch(1), gpu.epoch(1), strict=True):
        assert two.images_nchw.device == torch.device("cuda:0")
        assert two.images_nchw.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(one.images_nchw, two.images_nchw.cpu())


@pytest.mark.parametrize("decode", ["host", "device"])
def test_both_decode_places_give_the_same_bits(store: Store, decode: str) -> None:
    if decode == "device" and store.layout.codec == "none":
        pytest.skip("CODEC=none has nothing to inflate")
    inputs = inputs_of(store, "unscaled")
    cpu = train_loader(store, ALL, inputs, batch_size=16)
    gpu = train_loader(store, ALL, inputs, batch_size=16, device="cuda:0", dtype=torch.float32, decode=decode)
    assert gpu.decode == decode
    for one, two in zip(cpu.epoch(1), gpu.epoch(1), strict=True):
        assert torch.equal(one.images_nchw, two.images_nchw.cpu())


@pytest.mark.parametrize("cache", ["none", "host", "device"])
@pytest.mark.parametrize("kind", ["uint8", "int16", "float32", "int16 -9999", "float32 nan", "float32 7"])
def test_batches_of_other_dtypes_and_of_nodata_equal_the_cpus(tmp_path: Path, kind: str, cache: str) -> None:
    dtype, _, nodata = kind.partition(" ")
    chips = write_nodata(tmp_path / "tif", dtype, nodata or "7", count=60, height=256, width=256)
    store = to_store(chips, tmp_path / "s.zarr", nodata=nodata or None)
    inputs = inputs_of(store, "unscaled")
    cpu = train_loader(store, ALL, inputs, batch_size=16)
    gpu = train_loader(store, ALL, inputs, batch_size=16, device="cuda:0", dtype=torch.float32, cache=cache)
    assert gpu.decode == ("device" if cache == "none" else "host")
    for one, two in zip(cpu.epoch(1), gpu.epoch(1), strict=True):
        assert torch.equal(one.images_nchw, two.images_nchw.cpu())
    if cache == "none":  # nodata becomes the mean before the resize: no marker reaches the pixels beside it
        assert_test_batches_equal(store, "resize")


@pytest.mark.parametrize("test", ["center", "resize"])
def test_test_batches_equal_the_cpus(store: Store, test: str) -> None:
    assert_test_batches_equal(store, test)


def assert_test_batches_equal(store: Store, test: str) -> None:
    inputs, options = inputs_of(store, "raw"), {"batch_size": 16, "test": test, "dtype": torch.float32}
    cpu, gpu = (eval_loader(store, ALL, inputs, device=device, **options) for device in ("cpu", "cuda:0"))
    for one, two in zip(cpu.epoch(0), gpu.epoch(0), strict=True):
        assert one.num_valid == two.num_valid
        torch.testing.assert_close(two.images_nchw.cpu(), one.images_nchw, rtol=1e-3, atol=1e-3)


def test_batches_are_float16_channels_last_on_the_device(store: Store) -> None:
    loader = train_loader(store, ALL, inputs_of(store, "raw"), batch_size=16, device="cuda:0")
    for batch in loader.epoch(0):
        assert batch.images_nchw.dtype == torch.float16
        assert batch.images_nchw.device == torch.device("cuda:0")
        assert batch.images_nchw.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.device == torch.device("cuda:0")


def test_kept_batches_are_not_overwritten(store: Store) -> None:
    loader = train_loader(store, ALL, inputs_of(store, "raw"), batch_size=4, device="cuda:0")
    batches = [batch.images_nchw for batch in loader.epoch(0)]
    again = [batch.images_nchw.clone() for batch in loader.epoch(0)]
    assert all(torch.equal(one, two) for one, two in zip(batches, again, strict=True))


@pytest.mark.parametrize("settings", [{}, {"test": "resize"}, {"cache": "device"}, {"input": "course"}], ids=str)
def test_the_loaders_of_a_run_pass_the_comparison_with_the_cpu(store: Store, settings: dict[str, object]) -> None:
    """Both loaders are made as in a training, and the comparison before them finds no difference."""
    config = make_config("default", task=4, store=str(store.path), weights="none", batch=16, **settings)
    device, data = choose_device(config), open_data(config)
    loaders = make_train_loader(config, data, device), make_eval_loader(config, data, device, "test")
    verdicts = json.loads(Path("gpu-proof.json").read_text())
    inflates = store.layout.codec == "lz4" and "cache" not in settings
    assert list(verdicts.values()) == [{"decode": "device" if inflates else "host", "reason": ""}]
    for loader in loaders:
        assert loader.decode == ("device" if inflates else "host")
        assert loader.device_bytes > 0


@pytest.mark.parametrize(("task", "amp"), [(1, "auto"), (3, "fp16"), (4, "off")])
def test_a_run_on_the_gpu_reproduces_on_the_gpu_and_on_the_cpu(
    run_store: Store, tmp_path: Path, task: int, amp: str
) -> None:
    pytest.importorskip("pandas", reason="`make reproduce` writes its table with pandas, which is not installed")
    run = tmp_path / "run"
    ended = train(run_store.path, run, "GPU=0", f"AMP={amp}", "BATCH=16", task=task)
    assert ended.returncode == 0, ended.stderr
    assert json.loads((run / "run.json").read_text())["machine"]["device"] == torch.cuda.get_device_name(0)
    again = python("-m", "analysis", "reproduce", f"RUN={run}")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "BIT-IDENTICAL" in again.stdout
    if amp == "off":
        assert "WITHIN ROUNDING" in python("-m", "analysis", "reproduce", f"RUN={run}", "GPU=cpu").stdout


def test_one_seed_gives_the_same_weights_on_the_gpu(run_store: Store, tmp_path: Path) -> None:
    for name in ("one", "two"):
        arguments = ("-m", "train", "TASK=4", f"STORE={run_store.path}", f"RUN={tmp_path / name}", "EPOCHS=1")
        ended = python(*arguments, "BATCH=16", "WEIGHTS=none", "DETERMINISTIC=1")
        assert ended.returncode == 0, ended.stderr
    assert len({(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")}) == 1


def made(store: Store, **settings: object) -> tuple[Trainer, Batch]:
    """A trainer on the GPU, warmed up, and a batch for it."""
    config = make_config("default", task=4, store=str(store.path), weights="none", batch=16, **settings)
    device, data = choose_device(config), open_data(config)
    prepare_torch(config, device)
    net = make_model(config, data, pretrained=True).to(device.device, memory_format=torch.channels_last)
    trainer = make_trainer(net.train(), config, device, 100)
    (batch, *_) = make_train_loader(config, data, device).epoch(0)
    for _ in range(3):
        train_step(trainer, batch.images_nchw, batch.labels)
    return trainer, batch


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("amp", ["auto", "fp16", "off"])
@pytest.mark.parametrize("settings", [{}, {"ema": 0.99, "optimizer": "sgd", "loss": "asymmetric"}], ids=str)
def test_a_step_never_waits_for_the_gpu(store: Store, amp: str, settings: dict[str, object]) -> None:
    trainer, batch = made(store, amp=amp, **settings)
    latest = LossMeter(trainer.device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            loss, _ = train_step(trainer, batch.images_nchw, batch.labels)
            latest.update(loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    latest.update(loss)
    assert latest.value > 0


@pytest.mark.skipif(bool(MISSING), reason=f"torch.compile needs {' and '.join(MISSING)}")
# AMP=off means float32 without TF32, although TF32 is faster (`device.prepare_torch`).
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores for float32 matrix multiplication available")
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("mode", ["default", "max"])
def test_compiled_steps_have_the_losses_of_plain_steps(store: Store, mode: str, accumulate: int) -> None:
    """With "max" CUDA graphs overwrite their outputs. Losses and logits of earlier steps must not change."""
    losses = {}
    for compile_mode in ("off", mode):
        # CUDA graphs cannot be captured while a DALI loader runs.
        cache = "device" if mode == "max" else "none"
        trainer, batch = made(store, compile=compile_mode, amp="off", accumulate=accumulate, cache=cache)
        outputs = [
            train_step(trainer, batch.images_nchw, batch.labels, micro_batch=step % accumulate) for step in range(6)
        ]
        losses[compile_mode] = torch.stack([loss for loss, _ in outputs]).cpu()
        assert len({logits.sum().item() for _, logits in outputs}) >= 6 // accumulate
    torch.testing.assert_close(losses[mode], losses["off"], rtol=2e-2, atol=1e-3)


def test_the_memory_estimate_is_near_the_measured_peak(store: Store) -> None:
    torch.compiler.reset()  # removes what compiled tests allocated
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    trainer, batch = made(store)  # warmed up: cuDNN has tried its kernels, with workspaces that no later step needs
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        train_step(trainer, batch.images_nchw, batch.labels)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before + CONTEXT_BYTES
    config = make_config("default", task=4, store="s", batch=16)
    estimate = estimate_bytes(trainer.net, config, (4, 224, 224), amp=trainer.device.amp is not None, ranks=1)
    assert 0.6 < estimate / peak < 1.6
    assert peak < 2e9


@pytest.mark.parametrize("amp", ["auto", "fp16"])
def test_a_stopped_run_resumes_with_its_scaler(run_store: Store, tmp_path: Path, amp: str) -> None:
    settings = ("GPU=auto", f"AMP={amp}", "BATCH=16", "DETERMINISTIC=1")
    with Steps(lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 3 else None).watch:
        assert train(run_store.path, tmp_path / "run", *settings).returncode == 75
    ended = here("train", f"RESUME={tmp_path / 'run'}")
    assert ended.returncode == 0, ended.stderr
    assert "GPU=auto: GPU" in ended.stdout
    assert "of GPU memory at BATCH=16" in ended.stdout
    assert "resumes in epoch 2 after step 1" in ended.stdout
    assert train(run_store.path, tmp_path / "whole", *settings).returncode == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.skipif(not gpu_available() or torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_have_the_losses_of_one(run_store: Store, tmp_path: Path) -> None:
    losses = []
    for gpus in ("0", "0,1"):
        words = (f"STORE={run_store.path}", f"RUN={tmp_path / gpus}", f"GPU={gpus}", "BATCH=16", "WEIGHTS=none")
        ended = python("-m", "train", "TASK=4", "EPOCHS=2", "AMP=off", *words)
        assert ended.returncode == 0, ended.stderr
        losses.append(np.load(tmp_path / gpus / "results.npz")["trainlosses"])
    assert np.allclose(*losses, rtol=1e-3)


def test_cuda_graphs_are_refused_beside_dali(store: Store, refused: Callable[..., str]) -> None:
    config = make_config("default", task=4, store=str(store.path), weights="none", batch=16, compile="max")
    device, data = choose_device(config), open_data(config)
    loaders = [make_train_loader(config, data, device)]
    assert "COMPILE=max: on a GPU it needs CACHE=device" in refused(lambda: check_graphs(config, device, loaders))


def test_a_missing_gpu_is_named(run_store: Store, tmp_path: Path) -> None:
    ended = train(run_store.path, tmp_path / "run", "GPU=99")
    assert ended.returncode == 2
    assert "GPU=99: this machine has" in ended.stderr
