"""Batches of uint8, uint16, int16 and float32 chips, compared with numpy and torch, from both engines."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import imagecodecs
import numpy as np
import pytest
import torch
from helpers.chips import BANDS, DTYPES, Chips, to_store, write_chips
from helpers.dtypes import write_one
from nvidia.dali import fn, pipeline_def, types

from pipeline.chunks import ChunkReader
from pipeline.graph import GraphSpec, eval_graph, inflate_chips, train_graph
from pipeline.inputs import Inputs
from pipeline.loader import eval_loader
from preprocess.zarr_store import Store

ALL = pytest.mark.parametrize("dtype", DTYPES)
CODECS = pytest.mark.parametrize("codec", ["lz4", "none"])


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Chips, dict[str, Store]]]:
    """dtype -> 24 chips of several chunks per band, and their stores by codec."""
    made = {}
    for dtype in DTYPES:
        folder = tmp_path_factory.mktemp(dtype)
        chips = write_chips(folder / "tif", count=24, height=300, width=220, dtype=dtype, seed=2)
        made[dtype] = chips, {c: to_store(chips, folder / f"{c}.zarr", codec=c) for c in ("lz4", "none")}
    return made


@ALL
def test_chunk_tables_for_the_gpu_decode_on_the_cpu(
    stores: dict[str, tuple[Chips, dict[str, Store]]], dtype: str
) -> None:
    """The work of `graph.inflate_chips`, done by imagecodecs' LZ4 and numpy from the same table."""
    chips, made = stores[dtype]
    reader = ChunkReader(made["lz4"], ("red", "blue"))
    layout = reader.layout
    encoded = np.zeros((3, reader.max_span_bytes), np.uint8)
    offsets, sizes = (np.zeros((3, reader.chunks_per_chip), np.int32) for _ in range(2))
    reader.copy_encoded(np.array([5, 0, 23]), encoded, offsets, sizes, np.zeros(3, np.int64))
    for row, chip in enumerate((5, 0, 23)):
        planes = [
            imagecodecs.lz4_decode(encoded[row, at : at + size].tobytes(), out=layout.chunk_bytes, header=False)
            for at, size in zip(offsets[row].tolist(), sizes[row].tolist(), strict=True)
        ]
        shuffled = np.frombuffer(b"".join(planes), np.uint8).reshape(len(planes), layout.itemsize, -1)
        values = np.ascontiguousarray(shuffled.transpose(0, 2, 1)).view(dtype).reshape(2, 300, 220)
        assert values.tobytes() == chips.values[chip][[2, 0]].tobytes()


@ALL
def test_the_gpu_graph_joins_the_inflated_bytes(stores: dict[str, tuple[Chips, dict[str, Store]]], dtype: str) -> None:
    """`graph.inflate_chips` on the CPU: the store's chunks replace the output of inflate, DALI does the rest."""
    chips, made = stores[dtype]
    layout = made["lz4"].layout
    spec = GraphSpec(
        layout=layout, inputs=Inputs(kind="raw", bands=BANDS, mean=(0.0,) * 4, std=(1.0,) * 4), crop=(300, 220),
        flips="dihedral", test="center", decode="device", dtype="float16", batch_size=3, threads=1, device_id=None,
    )  # fmt: skip
    chunks = chips.values[:3].reshape(3, -1, layout.chunk_rows * layout.width)
    inflated = np.ascontiguousarray(chunks.view(np.uint8).reshape(*chunks.shape, layout.itemsize).swapaxes(2, 3))

    @pipeline_def(batch_size=3, num_threads=1, device_id=None)
    def graph() -> object:
        node = fn.external_source(lambda: inflated, batch=True, dtype=types.UINT8, ndim=3)
        with mock.patch.object(fn.decoders, "inflate", lambda *_, **arguments: calls.append(arguments) or node):
            return inflate_chips(spec, SimpleNamespace(gpu=lambda: None), None, None)

    calls: list[dict[str, object]] = []
    (out,) = graph().run()
    values = np.asarray(out.as_tensor())
    assert values.dtype == dtype
    assert values.tobytes() == chips.values[:3].tobytes()
    assert calls[0]["shape"] == list(inflated.shape[2:])
    for make in (train_graph, eval_graph):
        for test in ("center", "resize"):
            assert b"Inflate" in bytes(make(replace(spec, test=test), None).serialize())


@ALL
def test_resized_test_images_are_near_those_of_torch(
    stores: dict[str, tuple[Chips, dict[str, Store]]], dtype: str
) -> None:
    chips, made = stores[dtype]
    inputs = Inputs(kind="raw", bands=("red",), mean=(0.0,), std=(1.0,))
    (batch,) = eval_loader(made["lz4"], np.array([3]), inputs, batch_size=1, test="resize", crop=(150, 110)).epoch(0)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(chips.values[3][None, 2:3].astype(np.float64)), size=(150, 110), mode="bilinear",
        antialias=True,
    )  # fmt: skip
    assert (batch.images_nchw - exact).abs().max() < 0.02 * np.ptp(chips.values[3][2].astype(np.float64))


def test_the_largest_and_the_smallest_floats_are_finite(tmp_path: Path) -> None:
    limits = np.finfo(np.float32)
    values = np.zeros((1, 1, 8, 8), np.float32)
    values[0, 0, 0, :6] = (
        limits.max,
        limits.min,
        limits.smallest_subnormal,
        -limits.smallest_subnormal,
        -0.0,
        limits.tiny,
    )
    values[0, 0, 1:] = limits.max
    chips = write_one(tmp_path / "tif", values[0, 0])
    store = to_store(Chips(chips, chips / "tags.csv", values, ["a"]), tmp_path / "s.zarr")
    assert np.isfinite(store.band_statistics(np.arange(1))).all()
    whole = Inputs(kind="raw", bands=("band1",), mean=(0.0,), std=(1.0,))
    for engine in ("direct", "dali"):
        for batch in eval_loader(store, np.arange(1), whole, batch_size=1, crop=(8, 8), engine=engine).epoch(0):
            assert batch.images_nchw.numpy().tobytes() == values.tobytes()
