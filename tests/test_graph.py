"""GPU graphs are built without a GPU; values on the CPU equal those of numpy, torch and PIL."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from helpers.chips import BANDS
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from pipeline.graph import GraphSpec, course_values, eval_graph, train_graph
from pipeline.inputs import Inputs, course_inputs
from preprocess.layout import plan_layout
from preprocess.zarr_store import Store

SPEC = GraphSpec(
    layout=plan_layout(bands=BANDS, height=256, width=256, dtype="uint16", codec="lz4"),
    inputs=Inputs(kind="raw", bands=("red", "green", "blue"), mean=(1.0,) * 3, std=(2.0,) * 3),
    crop=(224, 224), flips="dihedral", test="center", decode="device", dtype="float16", batch_size=8, threads=2,
    device_id=None,
)  # fmt: skip


def raw(*bands: str) -> Inputs:
    return Inputs(kind="raw", bands=bands, mean=(1.0,) * len(bands), std=(2.0,) * len(bands))


def course(count: int) -> Inputs:
    return Inputs(kind="course", bands=BANDS[:count], mean=(1.0,) * count, std=(2.0,) * count)


@pytest.mark.parametrize(
    "inputs", [raw("red", "green", "blue"), raw("red", "green", "blue", "nir"), course(3), course(4)]
)
@pytest.mark.parametrize("flips", ["none", "horizontal", "both", "dihedral"])
def test_gpu_train_graph_is_constructed(inputs: Inputs, flips: str) -> None:
    serialised = bytes(train_graph(replace(SPEC, inputs=inputs, flips=flips), None).serialize())
    assert b"Inflate" in serialised
    assert b"CropMirrorNormalize" in serialised
    assert (b"Flip" in serialised) == (flips in ("both", "dihedral"))


@pytest.mark.parametrize(
    "inputs", [raw("red", "green", "blue"), raw("red", "green", "blue", "nir"), course(3), course(4)]
)
@pytest.mark.parametrize("test", ["center", "resize"])
def test_gpu_eval_graph_is_constructed(inputs: Inputs, test: str) -> None:
    serialised = bytes(eval_graph(replace(SPEC, inputs=inputs, test=test), None).serialize())
    assert b"Inflate" in serialised
    assert (b"Resize" in serialised) == (test == "resize")
    assert b"Flip" not in serialised


def test_gpu_graph_of_uint8_is_constructed() -> None:
    layout = plan_layout(bands=("red", "green", "blue"), height=32, width=32, dtype="uint8", codec="lz4")
    serialised = bytes(train_graph(replace(SPEC, layout=layout, crop=(28, 28)), None).serialize())
    assert b"Inflate" in serialised
    assert b"Reinterpret" not in serialised


def shown_as_pil(chips: np.ndarray) -> np.ndarray:
    """`course_values` of the graph, unscaled."""

    @pipeline_def(batch_size=len(chips), num_threads=2, device_id=None)
    def graph() -> object:
        return course_values(fn.external_source(lambda: chips, batch=True, dtype=types.UINT16, ndim=3, layout="CHW"))

    pipe: Pipeline = graph()
    (out,) = pipe.run()
    return np.asarray(out.as_tensor()).copy()


def test_course_equals_pil_on_the_real_chips(shared: Path) -> None:
    import tifffile

    paths = [shared / f"data/planet/tif/train_{index}.tif" for index in range(5)]
    ours = shown_as_pil(np.stack([np.ascontiguousarray(np.moveaxis(tifffile.imread(path), -1, 0)) for path in paths]))
    for path, chip in zip(paths, ours, strict=True):
        with Image.open(path) as picture:
            assert picture.mode == "RGBA"
            assert np.array_equal(np.moveaxis(np.asarray(picture), -1, 0), chip)


def test_course_equals_the_formula_on_every_pair_of_high_bytes() -> None:
    low = np.random.default_rng(0).integers(0, 256, (1, 4, 256, 256))
    colour, alpha = np.mgrid[:256, :256]
    chip = (np.stack([colour, colour, 255 - colour, alpha])[None] * 256 + low).astype(np.uint16)
    assert np.array_equal(shown_as_pil(chip)[0], oracle.pil_course(chip[0]))


def test_resize_is_near_torchs_antialiased_resize(session_store: Store) -> None:
    """The filters differ, so values are near, not equal. A ramp shows a shift, a checkerboard missing antialiasing."""
    y, x = np.mgrid[:64, :64]
    ramp, board = (y * 500 + x * 300).astype(np.uint16), (((y // 2 + x // 2) % 2) * 40000).astype(np.uint16)
    chips = np.stack([ramp, board])[:, None]
    layout = plan_layout(bands=("a",), height=64, width=64, dtype="uint16", codec="none")
    spec = replace(
        SPEC, layout=layout, inputs=Inputs(kind="raw", bands=("a",), mean=(0.0,), std=(1.0,)), crop=(56, 56),
        test="resize", decode="host", dtype="float32", batch_size=2,
    )  # fmt: skip
    pipe = eval_graph(spec, lambda: [chips])
    pipe.build()
    ours = np.asarray(pipe.run()[0].as_tensor())[..., 0]
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(chips.astype(np.float64)), size=(56, 56), mode="bilinear", antialias=True
    ).numpy()[:, 0]
    assert np.abs(ours[0] - exact[0]).max() < 0.01 * np.ptp(exact[0])
    assert np.abs(ours[1] - exact[1]).max() < 0.05 * 40000


def test_course_needs_the_four_bands_and_16_bits(uint8_store: Store, refused: object, session_store: Store) -> None:
    assert "expected the band 'nir'" in refused(lambda: course_inputs(uint8_store, 3))  # type: ignore[operator]
    for dtype in ("uint8", "int16", "float32"):
        wrong = replace(session_store, layout=replace(session_store.layout, dtype=dtype))
        line = refused(lambda: course_inputs(wrong, 3))  # type: ignore[operator]  # noqa: B023
        assert f"the course's inputs need uint16 chips, and this store holds {dtype}." in line
