"""`make predict`: score a folder of chips without labels.

In: a run and a folder. Out: a CSV of scores, a submission file in Kaggle's form, and for GeoTIFFs a CSV of bounds.
Chips are scored in blocks, so memory does not grow with the folder. Each finished block is a file in OUT.partial: a
stop at any moment loses one block at most, and the same command resumes. On the same machine the scores equal the run's
to the bit: same graph, batch size and threads. A file that cannot be used is named and skipped.
"""

import hashlib
import io
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from analysis.chip_folder import (
    FolderReader,
    check_gpu,
    expected_layout,
    folder_loader,
    how_chips_were_read,
    list_files,
)
from analysis.finished_run import Run, load_run
from analysis.members import mean_logits, members_of, uses_tta
from analysis.prediction_files import Output, finish, output_files
from analysis.raster_folder import RasterReader, list_windows, window_files
from analysis.saved_model import inputs_of, load_saved
from analysis.tta import Symmetries
from pipeline.loader import ChipLoader
from preprocess.addresses import Location
from preprocess.console import UserError, say
from preprocess.file_patterns import read_pattern
from preprocess.files import locked
from preprocess.fit import fit_of
from preprocess.packed_texts import json_digest
from preprocess.sources import forget_objects
from preprocess.window_cut import cut_of
from preprocess.zarr_store import Store, write_atomic
from train.device import AMP_SETTING, Device, choose_device, prepare_torch
from train.predict import predict as predict_logits

BLOCK_BATCHES = 32  # of 64 chips: a block is 2,048 chips, seconds of work


def predict(
    run_path: Path, data: Location, out: Path, *, bands: tuple[str, ...] | None, gpu: str | None, tta: bool,
    stride: int | None = None, geojson: bool = False,
) -> int:  # fmt: skip
    """Score a folder; returns the number of bad files.

    `stride`: of the windows, if the run's chips are windows of rasters; None: as in the run's store.
    `geojson`: also write polygons, which needs pyproj.

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
    tta = tta or uses_tta(run)
    scorers = [_Scorer.make(member, reader, store, gpu, tta) for member in members_of(run)]
    step = BLOCK_BATCHES * run.config.test_batch
    blocks = [np.arange(first, min(first + step, len(files.names))) for first in range(0, len(files.names), step)]
    with locked(output.partial, "prediction"):
        if output.scores.exists():  # another prediction ended between the check and the lock
            with suppress(OSError):  # the folder holds other blocks: they stay
                output.partial.joinpath("lock").unlink()
                output.partial.rmdir()
            output_files(out, geojson=geojson)
        _begin(output, _settings(reader, run, scorers, tta))
        done = [_read_block(output, number, len(chips)) is not None for number, chips in enumerate(blocks)]
        if any(done):
            say(f"{output.partial}: resuming: {sum(done)} of {len(blocks)} blocks are done.")
        for number, chips in enumerate(blocks):
            if not done[number]:
                label = f"predict, block {number + 1}/{len(blocks)}"
                logits = mean_logits([scorer.score(chips, label) for scorer in scorers])
                bad = {int(chip): reader.bad[chip] for chip in chips.tolist() if chip in reader.bad}
                _write_block(output, number, logits, bad, _places(reader, chips))
        for scorer in scorers:
            scorer.loader.close()
        return finish(output, run, files, layout, len(blocks))


@dataclass(frozen=True, kw_only=True)
class _Scorer:
    """One run's network, and the batches that it is fed."""

    model: nn.Module
    loader: ChipLoader
    device: Device
    threads: int
    sha256: str

    @classmethod
    def make(cls, run: Run, reader: FolderReader, store: Store | None, gpu: str | None, tta: bool) -> "_Scorer":
        """Load the network. Scorers share the reader's files, bad chips and places."""
        config = run.config.replace(gpu=gpu or run.config.gpu, gpu_given=bool(gpu), amp=AMP_SETTING[run.made_with.amp])
        inputs = inputs_of(run, store)
        reader = replace(reader, bands=inputs.stored_bands)
        if missing := [band for band in reader.bands if band not in reader.layout.bands]:
            raise UserError(
                f"BANDS={','.join(reader.layout.bands)}: the run also needs {', '.join(missing)}. Name all bands of "
                "the files in their order."
            )
        torch.set_num_threads(run.made_with.machine.threads)
        device = choose_device(config, amp_may_differ=True)
        prepare_torch(config, device)
        net, sha256 = load_saved(run)
        model = Symmetries(net) if tta else net
        model = model.to(device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        check_gpu(reader, inputs, config, device)
        loader = folder_loader(reader, inputs, config, device)
        return cls(model=model, loader=loader, device=device, threads=run.made_with.machine.threads, sha256=sha256)

    def score(self, chips: np.ndarray, label: str) -> np.ndarray:
        """(chips, classes) logits."""
        torch.set_num_threads(self.threads)  # another number of threads rounds differently
        batches = self.loader.subset(chips)
        return predict_logits(self.model, batches, self.device, label=label, num_chips=len(chips))


def _settings(reader: FolderReader, run: Run, scorers: list[_Scorer], tta: bool) -> dict[str, Any]:
    """Settings that all blocks of a prediction must share."""
    files, layout = reader.files, reader.layout
    listing = json_digest(files.names)
    listing.update(files.size.tobytes() + files.mtime_ns.tobytes())
    thresholds = hashlib.sha256(run.logits.tobytes()).hexdigest()
    return {
        "files": listing.hexdigest(), "model_sha256": ",".join(scorer.sha256 for scorer in scorers),
        "device": ",".join(scorer.device.name for scorer in scorers), "batch": run.config.test_batch,
        "tta": tta, "scores": thresholds, "chips": [*layout.bands, layout.height, layout.width, layout.dtype],
        "places": True,
    }  # fmt: skip


def _begin(output: Output, settings: dict[str, Any]) -> None:
    """Create OUT.partial, or keep its blocks if they were made with the same settings."""
    record, text = output.partial / "settings.json", json.dumps(settings, indent=1)
    if record.exists() and record.read_text() == text:
        return
    others = [path for path in output.partial.iterdir() if path.name != "lock"]
    if others:
        say(f"{output.partial}: made from other files or another model; starting again.")
    for path in others:
        path.unlink()
    write_atomic(record, text.encode())


def _places(reader: FolderReader, chips: np.ndarray) -> dict[int, list[Any]]:
    """[crs, *transform] of the chips that say where they lie, by number."""
    known = {chip: place for chip in chips.tolist() if (place := reader.places.pop(chip, None))}
    return {chip: [place.crs, *place.transform] for chip, place in known.items()}


def _write_block(
    output: Output, number: int, logits: np.ndarray, bad: dict[int, str], places: dict[int, list[Any]]
) -> None:
    data = io.BytesIO()
    np.savez(data, logits=logits, bad=np.array(json.dumps(bad)), places=np.array(json.dumps(places)))
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
