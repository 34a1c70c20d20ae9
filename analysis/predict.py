"""`make predict`: score a folder of chips without labels.

In: a run and a folder. Out: a CSV of scores, a submission file in Kaggle's form, and for GeoTIFFs a CSV of bounds.
Chips are scored in blocks, so memory does not grow with the folder. Each finished block is a file in OUT.partial: a
stop at any moment loses one block at most, and the same command resumes. On the same machine the scores equal the run's
to the bit: same graph, batch size and threads. A file that cannot be used is named and skipped.
"""

import hashlib
import io
import json
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

from analysis.block_scores import Blocks, ScoredBlock, Scorer, Scoring, inputs_for
from analysis.chip_folder import (
    FolderReader,
    expected_layout,
    how_chips_were_read,
    list_files,
)
from analysis.finished_run import Run, load_run
from analysis.members import members_of, uses_tta
from analysis.prediction_files import Output, finish, output_files
from analysis.raster_folder import RasterReader, list_windows, window_files
from analysis.score_plan import PLAN, ScorePlan
from pipeline.inputs import Inputs
from preprocess.addresses import Location
from preprocess.console import UserError, say
from preprocess.file_patterns import read_pattern
from preprocess.files import locked
from preprocess.fit import fit_of
from preprocess.packed_texts import json_digest
from preprocess.sources import forget_objects
from preprocess.window_cut import cut_of
from preprocess.zarr_store import write_atomic

BLOCK_BATCHES = 32  # of 64 chips: a block is 2,048 chips, seconds of work


def predict(
    run_path: Path, data: Location, out: Path, *, bands: tuple[str, ...] | None, gpu: str | None, tta: bool,
    stride: int | None = None, geojson: bool = False, cluster: str | None = None,
) -> int:  # fmt: skip
    """Score a folder; returns the number of bad files.

    `stride`: of the windows, if the run's chips are windows of rasters; None: as in the run's store.
    `geojson`: also write polygons, which needs pyproj. `cluster`: the Dask workers that score; None: this process.

    Raises:
        UserError: the run, the folder or OUT cannot be used.
    """
    output, run = output_files(out, geojson=geojson), load_run(run_path)
    store, reason, reading = how_chips_were_read(run)
    chip = store.layout if store else run.record.inputs.chip
    pattern = read_pattern(reading["files"], bands or (chip.bands if chip else None)) if "files" in reading else None
    forget_objects(data, None)
    if cut := cut_of(reading, stride=stride, nodata=chip.nodata if chip else None):
        assert chip is not None  # versions that know windows record the chip
        axes = reading.get("axes")
        how = window_files(bands=bands or chip.bands, dtype=chip.dtype, axes=axes, cut=cut, pattern=pattern)
        files = list_windows(data, pattern, how)
        layout = expected_layout(run, files, bands, store, reason)
        reader: FolderReader = RasterReader(files=files, layout=layout, bands=(), how=how)
    else:
        if stride is not None:
            raise UserError(f"STRIDE={stride} has no effect: the run's chips are files, not windows. Leave it out.")
        files = list_files(data, pattern)
        layout = expected_layout(run, files, bands, store, reason)
        axes, fit = reading.get("axes"), fit_of(reading, layout.nodata)
        reader = FolderReader(files=files, layout=layout, bands=(), axes=axes, fit=fit)
    members = members_of(run)
    inputs = [inputs_for(member, store, reader) for member in members]
    plan = ScorePlan(
        run=str(run.path), models=tuple(member.made_with.model_sha256 for member in members), reader=reader,
        folder=str(Path.cwd()), gpu=gpu, tta=tta or uses_tta(run), is_local=(cluster or "").startswith("local:"),
    )  # fmt: skip
    step = BLOCK_BATCHES * run.config.test_batch
    blocks = [np.arange(first, min(first + step, len(files.names))) for first in range(0, len(files.names), step)]
    with _scoring(plan, members, inputs, cluster) as scores, locked(output.partial, "prediction"):
        if output.scores.exists():  # another prediction ended between the check and the lock
            with suppress(OSError):  # the folder holds other blocks: they stay
                output.partial.joinpath("lock").unlink()
                output.partial.rmdir()
            output_files(out, geojson=geojson)
        _begin(output, _settings(plan, run, scores.begin(output.partial)))
        done = [_read_block(output, number, len(chips)) is not None for number, chips in enumerate(blocks)]
        if any(done):
            say(f"{output.partial}: resuming: {sum(done)} of {len(blocks)} blocks are done.")
        left = {number: chips for number, chips in enumerate(blocks) if not done[number]}
        for number, block in scores.score(left, len(blocks)):
            _write_block(output, number, block)
        return finish(output, run, files, layout, len(blocks))


def _scoring(
    plan: ScorePlan, members: list[Run], inputs: list[Inputs], cluster: str | None
) -> AbstractContextManager[Scoring]:
    """What scores blocks: this process, or Dask workers."""
    if cluster is not None:
        from analysis.cluster_scores import connect

        return connect(cluster, plan)
    scorers = [
        Scorer.make(member, plan.reader, each, plan.gpu, plan.tta) for member, each in zip(members, inputs, strict=True)
    ]
    return nullcontext(Blocks(scorers=scorers, reader=plan.reader))


def _settings(plan: ScorePlan, run: Run, device: str) -> dict[str, Any]:
    """Settings that all blocks of a prediction must share."""
    files, layout = plan.reader.files, plan.reader.layout
    listing = json_digest(files.names)
    listing.update(files.size.tobytes() + files.mtime_ns.tobytes())
    thresholds = hashlib.sha256(run.logits.tobytes()).hexdigest()
    return {
        "files": listing.hexdigest(), "model_sha256": ",".join(plan.models),
        "device": device, "batch": run.config.test_batch, "tta": plan.tta, "scores": thresholds,
        "chips": [*layout.bands, layout.height, layout.width, layout.dtype], "places": True,
    }  # fmt: skip


def _begin(output: Output, settings: dict[str, Any]) -> None:
    """Create OUT.partial, or keep its blocks if they were made with the same settings."""
    record, text = output.partial / "settings.json", json.dumps(settings, indent=1)
    if record.exists() and record.read_text() == text:
        return
    others = [path for path in output.partial.iterdir() if path.name not in ("lock", PLAN)]
    if others:
        say(f"{output.partial}: made from other files or another model; starting again.")
    for path in others:
        path.unlink()
    write_atomic(record, text.encode())


def _write_block(output: Output, number: int, block: ScoredBlock) -> None:
    data = io.BytesIO()
    bad, places = json.dumps(block.bad), json.dumps(block.places)
    np.savez(data, logits=block.logits, bad=np.array(bad), places=np.array(places))
    write_atomic(output.partial / f"{number}.npz", data.getvalue())


def _read_block(output: Output, number: int, num_chips: int) -> tuple[np.ndarray, dict[int, str]] | None:
    """(logits, bad files) of a block; None if it is missing or damaged (by a power cut)."""
    try:
        with np.load(io.BytesIO((output.partial / f"{number}.npz").read_bytes()), allow_pickle=False) as block:
            logits, bad = block["logits"], json.loads(str(block["bad"]))
            json.loads(str(block["places"]))
    except Exception:
        # zipfile, zlib and numpy raise errors of many kinds; in each case the block is scored again.
        return None
    return (logits, {int(chip): reason for chip, reason in bad.items()}) if len(logits) == num_chips else None
