"""Exported networks of other inputs: EXPORT_INPUT, INPUT=course, nodata; names; the module of load_model."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import markdown_it
import numpy as np
import onnx
import onnxruntime
import pytest
import tifffile
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import here
from helpers.tensorrt import outside_of_tensorrt
from helpers.trained import train_once
from oracle import pil_course, scale
from tiny import tiny_networks
from torch import nn

import canopy
from analysis.model_card import _text
from analysis.raw_network import raw_network
from pipeline.inputs import COURSE_BANDS, Inputs


def exported(folder: Path, *words: str, dtype: str, **store: object) -> SimpleNamespace:
    """Train a tiny network on made chips and export it with EXPORT_INPUT=dtype."""
    chips = write_chips(folder / "tif", count=60, height=40, width=32)
    to_store(chips, folder / "chips.zarr", **store)
    run = train_once(folder, chips.folder, *words, "CROP=28", task=4)
    with tiny_networks():
        ended = here("analysis", "export", f"RUN={run.path}", f"EXPORT_INPUT={dtype}")
    assert (ended.returncode, ended.stderr) == (0, "")
    raw = np.stack([np.moveaxis(tifffile.imread(folder / f"tif/{name}.tif"), -1, 0) for name in run.names])
    return SimpleNamespace(run=run, raw=raw, onnx=run.path / "export/model.onnx")


@pytest.mark.parametrize(
    ("words", "dtype", "store"),
    [
        (("INPUT=course",), "float32", {}),
        pytest.param((), "int32", {"nodata": "0"}, marks=pytest.mark.slow),
        pytest.param(("INPUT=course",), "store", {"nodata": "0"}, marks=pytest.mark.slow),
    ],
)
def test_the_exported_network_gives_the_runs_logits_and_tensorrt_lists_its_operators(
    tmp_path: Path, words: tuple[str, ...], dtype: str, store: dict[str, object]
) -> None:
    made = exported(tmp_path, *words, dtype=dtype, **store)
    session = onnxruntime.InferenceSession(made.onnx, providers=["CPUExecutionProvider"])
    input_dtype = np.dtype("uint16" if dtype == "store" else dtype)
    assert session.get_inputs()[0].type == {"float32": "tensor(float)"}.get(input_dtype.name, f"tensor({input_dtype})")
    (logits,) = session.run(None, {"chips": made.raw.astype(input_dtype)})
    assert np.abs(logits - made.run.logits).max() < 1e-5 * max(1, np.abs(made.run.logits).max())
    model = onnx.load(made.onnx)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == ["a", "b", "c"]
    assert json.loads(metadata["bands"]) == ["blue", "green", "red", "nir"]
    assert metadata["dtype"] == input_dtype.name
    card = (made.onnx.parent / "MODEL_CARD.md").read_text()
    assert f"(batch, 4, 40, 32) {input_dtype}, raw file values" in card
    assert ("PIL's 8-bit values" in card) == bool(words)
    if dtype != "store":
        assert outside_of_tensorrt(model) == []
    else:  # the cast is the only operation on the input
        readers = [node.op_type for node in model.graph.node if "chips" in node.input]
        assert readers == ["Cast"]
        assert outside_of_tensorrt(model) == ["input chips", "Cast chips"]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("bands", [COURSE_BANDS, ("nir", "swir", "red", "green", "blue")])
def test_the_preprocessing_of_input_course_is_that_of_pil(channels: int, bands: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    chips = rng.integers(0, 65536, (4, len(bands), 64, 64), np.uint16)
    chips[:, bands.index("nir"), ::7] = rng.integers(0, 600, (4, 10, 64))  # alpha 0, 1 and 2
    inputs = Inputs(kind="course", bands=COURSE_BANDS[:channels], mean=(3.0,) * channels, std=(4.0,) * channels)
    module = raw_network(
        nn.Identity(), inputs, bands=bands, sides=(64, 64), crop=(60, 62), test="center", nodata=None, source="x"
    )  # fmt: skip
    found = module(torch.from_numpy(chips)).numpy()
    ordered = chips[:, [bands.index(band) for band in COURSE_BANDS]]
    expected = [scale(pil_course(chip)[:channels, 2:62, 1:63], inputs.mean, inputs.std) for chip in ordered]
    assert np.array_equal(found, np.stack(expected))  # a quarter of a whole number is exact


def test_int32_cannot_hold_a_store_of_fractions_and_resize_says_why_not(tmp_path: Path, refused: Callable) -> None:
    chips = write_chips(tmp_path / "tif", count=60, height=40, width=32, dtype="float32")
    to_store(chips, tmp_path / "chips.zarr")
    run = train_once(tmp_path, chips.folder, "TEST=resize", "CROP=28", task=1)
    with tiny_networks():
        for word, text in (
            ("int32", "EXPORT_INPUT=int32: expected a store of whole"),
            ("store", "ONNX has no operator"),
        ):
            ended = here("analysis", "export", f"RUN={run.path}", f"EXPORT_INPUT={word}")
            assert ended.returncode == 2
            assert text in ended.stderr
        assert "expected TEST=center, found TEST=resize" in refused(canopy.load_model(run.path).raw_network)
    assert not (run.path / "export").exists()


def test_the_module_of_load_model_takes_the_files_values_and_no_other_shape(tmp_path: Path, refused: Callable) -> None:
    chips = write_chips(tmp_path / "tif", count=60, height=40, width=32)
    to_store(chips, tmp_path / "chips.zarr", nodata="0")
    run = train_once(tmp_path, chips.folder, "CROP=28", task=3)
    raw = np.stack([np.moveaxis(tifffile.imread(tmp_path / f"tif/{name}.tif"), -1, 0) for name in run.names])
    (tmp_path / "chips.zarr").rename(tmp_path / "gone.zarr")  # the run alone is enough
    with tiny_networks():
        model = canopy.load_model(run.path).raw_network()
    with torch.no_grad():
        for dtype in (np.uint16, np.int32, np.float32, np.float64):
            logits = model(torch.from_numpy(raw.astype(dtype))).numpy()
            assert np.abs(logits - run.logits).max() < 1e-5 * max(1, np.abs(run.logits).max())
    for wrong in (raw[:, :3], raw[:, :, :30], np.pad(raw, ((0, 0), (0, 0), (4, 4), (4, 4))), raw[0]):
        message = refused(lambda: model(torch.from_numpy(wrong.astype(np.int32))))  # noqa: B023
        assert f"chips: expected the shape (B, 4, 40, 32), found {wrong.shape}." in message
    other = to_store(write_chips(tmp_path / "other", count=60, height=40, width=32, seed=1), tmp_path / "other.zarr")
    with tiny_networks():
        assert "other.zarr: expected the store with fingerprint" in refused(
            lambda: canopy.load_model(run.path, store=other)
        )


NAMES = [
    "a_b*c*",
    "<b>x</b>",
    "&amp;",
    "`code`",
    "[a](b)",
    "a|b",
    "# x",
    "https://x.y",
    "1. x",
    "~~x~~",
    "\\",
    "forêt",
    "-",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_model_card_shows_each_name_as_it_is(name: str) -> None:
    markdown = markdown_it.MarkdownIt("gfm-like", {"linkify": False})
    tokens = markdown.parse(f"| a |\n|---|\n| {_text(name)} |\n")
    cells = [token for token in tokens if token.type == "inline"][1:]
    assert [(child.type, child.content) for token in cells for child in token.children or []] == [
        ("text" if child.type == "text" else "text_special", child.content) for child in cells[0].children or []
    ]
    assert "".join(child.content for child in cells[0].children or []) == name
