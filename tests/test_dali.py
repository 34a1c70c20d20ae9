"""DALI's limits and behaviour on a GPU, as far as they can be shown without a GPU."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.chips import BANDS
from nvidia.dali import backend

from pipeline.chunks import ChunkReader
from pipeline.dali import _without_npp_warning, device_bytes
from pipeline.graph import GraphSpec
from pipeline.inputs import Inputs
from preprocess.layout import plan_layout
from preprocess.zarr_store import Store
from train.config import make_config
from train.device import Device
from train.setup import check_graphs

ROOT = Path(__file__).resolve().parents[1]


def test_only_dalis_warning_about_npp_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the installed versions `check_cuda_runtime` warns once per process."""
    if backend.GetNppVersion() != -1:
        pytest.skip("this DALI finds NPP")
    monkeypatch.setattr(backend, "GetCudaVersion", lambda: 13000)
    monkeypatch.setattr(backend, "GetCufftVersion", lambda: 12000)
    monkeypatch.setattr(backend, "cuda_checked", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Warning, match="NPP is typically provided"):
            backend.check_cuda_runtime()
        backend.cuda_checked = False
        with _without_npp_warning():
            backend.check_cuda_runtime()
        assert backend.cuda_checked
        backend.cuda_checked = False
        monkeypatch.setattr(backend, "GetCufftVersion", lambda: -1)
        with _without_npp_warning(), pytest.raises(Warning, match="cuFFT is typically provided"):
            backend.check_cuda_runtime()
        with pytest.raises(UserWarning, match="another"), _without_npp_warning():
            warnings.warn("another", stacklevel=1)


@pytest.mark.slow
def test_the_first_gpu_pipeline_of_a_process_is_built_without_a_warning() -> None:
    """`build` calls `check_cuda_runtime` if a pipeline needs a GPU. Here a CPU pipeline claims to need one."""
    code = """
import tempfile
import warnings
from pathlib import Path
warnings.simplefilter("error")
import numpy as np
import nvidia.dali.pipeline as dali
from nvidia.dali import backend
real = backend.Pipeline
asked = []
class Pipeline:
    def __init__(self, *arguments): self.real = real(*arguments)
    def __getattr__(self, name): return getattr(self.real, name)
    def requires_gpu(self): asked.append(True); return True
backend.Pipeline = Pipeline
backend.GetCudaVersion = lambda: 13000
import sys
sys.path.insert(0, "tests")
from helpers.chips import BANDS, to_store, write_chips
from pipeline.inputs import raw_inputs
from pipeline.loader import eval_loader
folder = Path(tempfile.mkdtemp())
store = to_store(write_chips(folder / "tif", count=4), folder / "s.zarr")
loader = eval_loader(store, np.arange(4), raw_inputs(store, BANDS, np.arange(4)), batch_size=4, engine="dali")
assert asked and backend.cuda_checked
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_the_gpu_memory_of_a_loader_equals_a_count_by_hand(session_store: Store) -> None:
    layout = plan_layout(bands=BANDS, height=16, width=16, dtype="uint16", codec="lz4")
    reader = ChunkReader(session_store, BANDS[:3])
    spec = GraphSpec(
        layout=layout, inputs=Inputs(kind="raw", bands=BANDS[:3], mean=(0.0,) * 3, std=(1.0,) * 3), crop=(14, 14),
        flips="none", test="center", decode="device", dtype="float16", batch_size=8, threads=1, device_id=0,
    )  # fmt: skip
    chip, image = 3 * 16 * 16 * 2, 3 * 14 * 14 * 2
    assert device_bytes(spec, reader) == 3 * 8 * (reader.max_span_bytes + 2 * chip + image)
    assert device_bytes(replace(spec, decode="host", dtype="float32"), reader) == 3 * 8 * (chip + 2 * image)


@pytest.mark.parametrize(
    ("settings", "kind", "engine", "allowed"),
    [
        ({"compile": "max"}, "cuda", "dali", False),
        ({"compile": "max"}, "cuda", "gather", True),
        ({"compile": "max"}, "cpu", "dali", True),
        ({"compile": "max", "accumulate": 2}, "cuda", "dali", True),  # no graphs are captured then
        ({"compile": "default"}, "cuda", "dali", True),
        ({}, "cuda", "dali", True),
    ],
)
def test_cuda_graphs_are_captured_beside_no_dali_loader(
    refused: Callable[..., str], settings: dict[str, Any], kind: str, engine: str, allowed: bool
) -> None:
    config = make_config("default", task=1, store="s", **settings)
    device = Device(device=torch.device(kind), amp=None, name="x")
    loaders: Any = [SimpleNamespace(engine="gather"), SimpleNamespace(engine=engine)]
    if allowed:
        check_graphs(config, device, loaders)
    else:
        text = refused(lambda: check_graphs(config, device, loaders))
        assert text.startswith("COMPILE=max: on a GPU it needs CACHE=device")
        assert "COMPILE=default works" in text


def test_buffers_given_to_dali_are_left_alone_while_it_may_read_them(session_store: Store) -> None:
    """A slot is filled again five batches later at the earliest. By then its batch has come out."""
    from pipeline.dali_source import PREFETCH_QUEUE_DEPTH, Source
    from pipeline.plans import BatchPlan
    from pipeline.readahead import DEPTH

    reader = ChunkReader(session_store, BANDS)
    source = Source(
        reader, batch_size=4, decode="device", workers=1, flips="none", slack=(0, 0),
        allocate=lambda shape, dtype: np.zeros(shape, dtype),
    )  # fmt: skip
    plans = [BatchPlan(chips=np.arange(first, first + 4), num_valid=4, augmentation=None) for first in range(0, 80, 4)]
    source.begin(plans)
    places = [source()[0][0].ctypes.data for _ in plans]
    source.close()
    ring = PREFETCH_QUEUE_DEPTH + DEPTH + 1
    assert ring == 5
    assert len(set(places)) == ring
    assert all(places[index] == places[index % ring] for index in range(len(places)))
