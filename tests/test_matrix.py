"""Every dtype, kind of file and codec, from the file to the exported network.

`helpers.cells.CELLS` has all combinations. Those of `QUICK` are always run, the others are slow.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import oracle
import pytest
import torch
import zarr
from helpers.cells import CELLS, FILES, HEIGHT, QUICK, WIDTH, Cell, make_cell
from helpers.chips import DTYPES
from helpers.trained import saved_scores, scores_of, train_once
from tiny import tiny_networks

from analysis.export import export
from analysis.predict import predict
from analysis.saved_model import load_saved
from pipeline.inputs import raw_inputs
from pipeline.loader import eval_loader, train_loader
from pipeline.order import augmentation
from preprocess.verify import verify
from preprocess.zarr_store import shard_path

QUICK_AND_SLOW = [pytest.param(cell, marks=() if cell in QUICK else pytest.mark.slow, id=str(cell)) for cell in CELLS]
CROP = (21, 17)


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with tiny_networks():
        yield


@pytest.fixture(scope="module")
def cell_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Cell], SimpleNamespace]:
    """The chips and the store of a cell, made when they are first needed."""
    made: dict[Cell, SimpleNamespace] = {}

    def of(cell: Cell) -> SimpleNamespace:
        if cell not in made:
            made[cell] = make_cell(tmp_path_factory.mktemp(str(cell)), cell)
        return made[cell]

    return of


@pytest.fixture
def made(request: pytest.FixtureRequest, cell_of: Callable[[Cell], SimpleNamespace]) -> SimpleNamespace:
    return cell_of(request.param)


@pytest.fixture
def trained(made: SimpleNamespace) -> SimpleNamespace:
    """The cell with a run of one epoch, which is trained when it is first needed."""
    if not hasattr(made, "run"):
        task = 4 if len(made.cell.bands) == 4 else 1
        made.run = train_once(made.folder, made.folder / "chips", "BATCH=16", "CROP=20", task=task)
    return made


def test_the_cells_are_all_combinations_and_the_quick_ones_have_every_dtype_and_kind_of_file() -> None:
    assert len(CELLS) == len(set(CELLS)) == 30
    assert {cell.dtype for cell in QUICK} == set(DTYPES)
    assert {cell.files for cell in QUICK} == set(FILES)
    assert {cell.codec for cell in QUICK} == {"lz4", "none"}


@pytest.mark.parametrize("made", QUICK_AND_SLOW, indirect=True)
def test_plain_zarr_reads_what_the_decoder_reads(made: SimpleNamespace) -> None:
    stored = np.asarray(zarr.open_group(made.store.path, mode="r")["tiles"][...])
    assert stored.dtype == made.values.dtype == made.cell.dtype
    assert stored.tobytes() == np.ascontiguousarray(made.values).tobytes()
    layout = made.store.layout
    assert (layout.codec, layout.bands) == (made.cell.codec, made.cell.bands)
    assert layout.chunk_rows < layout.height
    assert layout.num_shards(made.store.num_chips) > 1


@pytest.mark.parametrize("made", QUICK_AND_SLOW, indirect=True)
def test_both_engines_equal_numpy_to_the_bit(made: SimpleNamespace) -> None:
    store, bands, chips = made.store, made.cell.bands[::-2], np.arange(1, 60, 3)
    inputs = raw_inputs(store, bands, chips)
    parameters = augmentation(5, 3, chips, height=HEIGHT, width=WIDTH, crop=CROP, flips="dihedral")
    mean, std = (np.float32(values).reshape(-1, 1, 1) for values in (inputs.mean, inputs.std))
    pixels = made.values[:, [made.cell.bands.index(band) for band in bands]]
    moved = {
        "train": {chip: oracle.augment(pixels[chip], parameters, row, CROP) for row, chip in enumerate(chips.tolist())},
        "eval": {chip: oracle.center(pixels[chip], CROP) for chip in chips.tolist()},
    }
    for engine in ("direct", "dali"):
        for cache in ("none", "host"):
            options = {"batch_size": 4, "crop": CROP, "engine": engine, "cache": cache}
            train = train_loader(store, chips, inputs, seed=5, flips="dihedral", **options)
            loaders = {"train": train.epoch(3), "eval": eval_loader(store, chips, inputs, **options).epoch(0)}
            assert (train.engine, train.cache) == (engine, cache)
            for name, batches in loaders.items():
                seen = []
                for batch in batches:
                    for chip, image in zip(batch.chips.tolist(), batch.images_nchw.numpy(), strict=True):
                        scaled = (moved[name][chip].astype(np.float32) - mean) * (np.float32(1) / std)
                        assert np.array_equal(image, scaled), (engine, cache, name, chip)
                        seen.append(chip)
                assert sorted(seen) == chips.tolist()


@pytest.mark.parametrize("made", QUICK_AND_SLOW, indirect=True)
def test_verify_finds_any_flipped_bit_of_a_shard(made: SimpleNamespace, tmp_path: Path) -> None:
    store = Path(shutil.copytree(made.store.local_path, tmp_path / "s.zarr"))
    assert verify(store, jobs=1) == 0
    path = shard_path(store, 1)
    data = path.read_bytes()
    for bit in np.random.default_rng(0).integers(8 * len(data), size=6).tolist():
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert verify(store, jobs=1) > 0, bit


@pytest.mark.parametrize("made", QUICK_AND_SLOW, indirect=True)
def test_predict_gives_the_scores_of_the_run_to_the_bit(trained: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    assert predict(trained.run.path, trained.folder / "new", out, bands=None, gpu="cpu", tta=False) == 0
    assert len(trained.run.names) >= 15
    assert scores_of(out) == saved_scores(trained.run)


@pytest.mark.slow  # exporting takes 10 s of CPU time, whatever the network
@pytest.mark.parametrize("made", CELLS, indirect=True, ids=str)
def test_the_exported_network_has_the_logits_of_torch(trained: SimpleNamespace) -> None:
    """On the files' own values; torch's network gets them cropped and standardised by numpy."""
    run, cell = trained.run, trained.cell
    folder = export(run.path, store_path=None)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    chips = trained.values[[int(name.removeprefix("t_")) for name in run.names]]
    (logits,) = session.run(None, {"chips": chips})
    inputs = run.record.inputs
    mean, std = (np.float32(values).reshape(-1, 1, 1) for values in (inputs.mean, inputs.std))
    cropped = np.stack([oracle.center(chip, (20, 20)) for chip in chips])
    bands = cropped[:, [cell.bands.index(band) for band in inputs.bands]].astype(np.float32)
    net, _ = load_saved(run)
    program = torch.export.load(folder / "model.pt2").module()
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy((bands - mean) * (np.float32(1) / std))).numpy()
        exported = program(torch.from_numpy(chips)).numpy()
    limit = 1e-5 * max(1.0, np.abs(expected).max())
    for found in (logits, exported, run.logits):
        assert np.abs(found - expected).max() <= limit
