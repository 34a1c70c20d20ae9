"""The table of engines: which one runs when, why the others do not, and which requests are refused in one line."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.chips import BANDS
from hypothesis import given
from hypothesis import strategies as st

from pipeline.chunks import MAX_INFLATE_CHUNKS
from pipeline.engines import ENGINES, Choice, choose_engine
from pipeline.inputs import Inputs, raw_inputs
from pipeline.loader import eval_loader, train_loader
from pipeline.view import CACHES, DECODES, DTYPES, ENGINE_NAMES, TESTS, Reading, View
from preprocess.codecs import CODECS
from preprocess.console import ArgumentError, UserError, say_once, setting_names
from preprocess.layout import plan_layout
from preprocess.zarr_store import Store
from train.cuda_driver import gpu_available

RAW = Inputs(kind="raw", bands=BANDS, mean=(0.0,) * 4, std=(1.0,) * 4)
COURSE = replace(RAW, kind="course")
LAYOUT = plan_layout(bands=BANDS, height=256, width=256, dtype="uint16", codec="lz4")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
VIEW = View(inputs=RAW, crop=(224, 224), dtype=torch.float32)


def choose(view: View = VIEW, device: torch.device = CPU, *, batch_size: int = 64, **reading: Any) -> Choice:
    codec, source = reading.pop("codec", "lz4"), reading.pop("source", "store")
    layout = reading.pop("layout", replace(LAYOUT, codec=codec))
    return choose_engine(view, Reading(device=device, workers=1, **reading), layout, batch_size, source)


@pytest.mark.parametrize(
    ("view", "device", "reading", "expected"),
    [
        (VIEW, CPU, {}, ("direct", "host", "none")),
        (replace(VIEW, test="center"), CPU, {}, ("direct", "host", "none")),
        (VIEW, CPU, {"cache": "host"}, ("direct", "host", "host")),
        (VIEW, CPU, {"engine": "dali"}, ("dali", "host", "none")),
        # On the CPU, DALI runs only where it must.
        (replace(VIEW, test="resize"), CPU, {}, ("dali", "host", "none")),
        (replace(VIEW, inputs=COURSE), CPU, {}, ("dali", "host", "none")),
        (replace(VIEW, dtype=torch.float16), CPU, {}, ("dali", "host", "none")),
        (replace(VIEW, test="center"), CPU, {"source": "files"}, ("dali", "host", "none")),
        # On a GPU it always runs, unless the chips lie there.
        (VIEW, GPU, {}, ("dali", "device", "none")),
        (VIEW, GPU, {"codec": "none"}, ("dali", "host", "none")),
        (VIEW, GPU, {"decode": "host"}, ("dali", "host", "none")),
        (VIEW, GPU, {"cache": "host"}, ("dali", "host", "host")),
        (VIEW, GPU, {"cache": "device"}, ("gather", "host", "device")),
        (VIEW, GPU, {"cache": "device", "codec": "none"}, ("gather", "host", "device")),
        (replace(VIEW, test="center"), GPU, {"source": "files"}, ("dali", "host", "none")),
        # What cannot be cached there falls back.
        (replace(VIEW, inputs=COURSE), GPU, {"cache": "device"}, ("dali", "host", "host")),
        (replace(VIEW, test="resize"), GPU, {"cache": "device"}, ("dali", "host", "host")),
        (VIEW, CPU, {"cache": "device"}, ("direct", "host", "host")),
        (VIEW, GPU, {"cache": "host", "decode": "device"}, ("dali", "device", "none")),
    ],
)
def test_which_engine_runs_when(
    view: View, device: torch.device, reading: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    choice = choose(view, device, **reading)
    assert (choice.row.engine, choice.row.decode, choice.cache) == expected


def test_every_request_gets_an_engine_that_can_do_it_or_one_line() -> None:
    refused = set()
    columns = (CPU, GPU), DTYPES, (RAW, COURSE), (None, *TESTS), CODECS, CACHES, DECODES, ENGINE_NAMES
    for device, dtype, inputs, test, codec, cache, decode, engine in product(*columns):
        view = View(inputs=inputs, crop=(224, 224), dtype=dtype, test=test)
        try:
            choice = choose(view, device, codec=codec, cache=cache, decode=decode, engine=engine)
        except ArgumentError as error:
            refused.add((error.argument, error.value))
            continue
        assert choice.row.device == device.type
        assert dtype in choice.row.dtype
        assert inputs.kind in choice.row.inputs
        assert test in choice.row.test
        assert CACHES.index(choice.cache) <= CACHES.index(cache)
        assert decode in ("auto", choice.row.decode)
        assert engine in ("auto", choice.row.engine)
        assert len(choice.reasons) == len(ENGINES) - 1
    assert refused == {("decode", "device"), ("engine", "direct")}


def test_the_reasons_name_what_each_other_engine_needs() -> None:
    assert choose(replace(VIEW, test="resize")).reasons == {
        "gather (cuda, decode on the host)": "needs a GPU, no resizing and cache=device",
        "dali (cuda, decode on the device)": "needs a GPU",
        "dali (cuda, decode on the host)": "needs a GPU",
        "direct (cpu, decode on the host)": "needs no resizing",
    }
    reasons = choose().reasons
    assert reasons["dali (cpu, decode on the host)"] == "direct (cpu, decode on the host) comes first"


@pytest.mark.parametrize(
    ("view", "device", "reading", "line"),
    [
        (replace(VIEW, inputs=COURSE, test="resize"), CPU, {"engine": "direct"},
         "engine=direct: needs raw inputs and no resizing. Choose auto."),
        (replace(VIEW, dtype=torch.float16), GPU, {"engine": "direct"},
         "engine=direct: needs the CPU and float32 images. Choose auto."),
        (VIEW, CPU, {"decode": "device"}, "decode=device: needs a GPU. Choose auto."),
        (VIEW, CPU, {"decode": "device", "codec": "none"}, "decode=device: needs a GPU and an LZ4 store. Choose auto."),
        (VIEW, GPU, {"decode": "device", "source": "files"}, "decode=device: needs a store. Choose auto."),
    ],
)  # fmt: skip
def test_what_an_engine_cannot_do_is_refused(
    refused: Callable[..., str], view: View, device: torch.device, reading: dict[str, Any], line: str
) -> None:
    assert refused(lambda: choose(view, device, **reading)) == line


def test_a_cache_that_cannot_be_used_falls_back_with_a_line() -> None:
    assert choose(cache="device").notes == ("cache=device needs a GPU; using cache=host instead.",)
    view = replace(VIEW, inputs=COURSE, test="resize")
    assert choose(view, GPU, cache="device").notes == (
        "cache=device needs raw inputs and no resizing; using cache=host instead.",
    )
    assert choose(VIEW, GPU, cache="host", decode="device").notes == (
        "cache=host needs decode=host; using cache=none instead.",
    )


def with_chunks(chunks_per_chip: int) -> dict[str, Any]:
    """A layout of as many LZ4 chunks per chip, when one band is read."""
    return {"layout": SimpleNamespace(codec="lz4", chunks_per_band=chunks_per_chip)}


ONE_BAND = replace(VIEW, inputs=replace(RAW, bands=BANDS[:1]))


@given(st.integers(1, 70_000), st.integers(1, 70_000))
def test_what_dali_can_inflate_at_once_is_inflated_on_the_device(batch_size: int, chunks_per_chip: int) -> None:
    fits = batch_size * chunks_per_chip <= 65_535
    layout = with_chunks(chunks_per_chip)
    assert choose(ONE_BAND, GPU, batch_size=batch_size, decode="host", **layout).row.decode == "host"
    choice = choose(ONE_BAND, GPU, batch_size=batch_size, **layout)
    assert choice.row.decode == ("device" if fits else "host")
    assert (choice.notes == ()) == fits


def test_the_largest_batch_is_exact_and_named(refused: Callable[..., str]) -> None:
    assert MAX_INFLATE_CHUNKS == 65_535
    for decode in ("auto", "device"):
        assert choose(ONE_BAND, GPU, batch_size=8191, decode=decode, **with_chunks(8)).row.decode == "device"
        assert choose(ONE_BAND, GPU, batch_size=65_535, decode=decode, **with_chunks(1)).row.decode == "device"
    choice = choose(ONE_BAND, GPU, batch_size=8192, **with_chunks(8))
    text = "at most 65,535 LZ4 chunks in a batch. A batch of 8192 chips has 65,536; 8191 chips fit."
    assert (choice.row.decode, choice.notes) == (
        "host",
        (f"LZ4 is decoded on the host: decoding on the GPU needs {text}",),
    )
    assert refused(lambda: choose(ONE_BAND, GPU, batch_size=8192, decode="device", **with_chunks(8))) == (
        f"decode=device: needs {text} Choose auto."
    )


def test_a_loader_says_what_was_chosen_and_why(session_store: Store) -> None:
    chips = np.arange(20)
    loader = eval_loader(
        session_store, chips, raw_inputs(session_store, BANDS, chips), batch_size=8, test="resize", cache="host"
    )
    assert (loader.engine, loader.cache, loader.decode, loader.device) == ("dali", "host", "host", CPU)
    assert loader.other_engines["direct (cpu, decode on the host)"] == "needs no resizing"


@pytest.mark.skipif(gpu_available(), reason="a GPU can be used here")
def test_without_a_gpu_the_loader_falls_back_to_the_cpu_with_one_line(
    session_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    say_once.cache_clear()
    chips = np.arange(20)
    for device in ("cuda:0", torch.device("cuda", 0)):
        loader = train_loader(
            session_store, chips, raw_inputs(session_store, BANDS, chips), batch_size=8, device=device
        )
        assert (loader.device, loader.engine) == (CPU, "direct")
        batch = next(iter(loader.epoch(0)))
        assert batch.images_nchw.device == batch.labels.device == CPU
        assert batch.images_nchw.dtype is torch.float32
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("device=cuda:0: no GPU can be used on this machine")
    assert line.endswith("; using the CPU instead.")


def test_a_wrong_argument_is_named_as_the_function_has_it_and_as_the_setting_in_a_command(
    session_store: Store, refused: Callable[..., str]
) -> None:
    def load(**arguments: Any) -> object:
        return train_loader(session_store, np.arange(20), RAW, **{"batch_size": 8, **arguments})

    with pytest.raises(ArgumentError) as error:
        load(crop=(17, 16))
    assert (error.value.argument, error.value.value) == ("crop", (17, 16))
    assert refused(lambda: load(crop=(17, 16))) == "crop=(17, 16): the chips have 16 x 16 pixels."

    def command(**arguments: Any) -> None:
        with setting_names(batch_size="BATCH"):
            load(**arguments)

    assert refused(lambda: command(crop=(17, 16))) == "CROP=17x16: the chips have 16 x 16 pixels."
    assert refused(lambda: command(batch_size=0)) == "BATCH=0: expected 1 or more."
    assert refused(lambda: command(cache="ram")) == "CACHE=ram: expected one of none, host, device."
    with pytest.raises(UserError, match="another error stays as it is"), setting_names():
        raise UserError("another error stays as it is")
