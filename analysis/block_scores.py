"""A block of chips -> its logits, its bad chips, and where its chips lie. This is the work of `make predict`.

In: a reader of files or windows, and runs. Out: a `ScoredBlock`. On the same machine a chip's logits equal the run's to
the bit: same graph, batch size and threads. Leaves blocks on the disk to `predict`, and Dask workers to
`cluster_scores`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from analysis.chip_folder import FolderReader, check_gpu, folder_loader
from analysis.finished_run import Run
from analysis.members import mean_logits
from analysis.saved_model import inputs_of, load_saved
from analysis.tta import Symmetries
from pipeline.inputs import Inputs
from pipeline.loader import ChipLoader
from preprocess.console import UserError
from preprocess.zarr_store import Store
from train.device import AMP_SETTING, Device, choose_device, prepare_torch
from train.predict import predict as predict_logits


@dataclass(frozen=True, kw_only=True)
class ScoredBlock:
    """logits: (chips, classes) float32. bad: reasons of the chips that cannot be used, by number. places: [crs,
    *transform] of the chips that say where they lie, by number."""

    logits: np.ndarray
    bad: dict[int, str]
    places: dict[int, list[Any]]


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """One run's network, and the batches that it is fed."""

    model: nn.Module
    loader: ChipLoader
    device: Device
    threads: int

    @classmethod
    def make(cls, run: Run, reader: FolderReader, inputs: Inputs, gpu: str | None, tta: bool) -> "Scorer":
        """Load the network. Scorers share the reader's files, bad chips and places."""
        config = run.config.replace(gpu=gpu or run.config.gpu, gpu_given=bool(gpu), amp=AMP_SETTING[run.made_with.amp])
        reader = replace(reader, bands=inputs.stored_bands)
        torch.set_num_threads(run.made_with.machine.threads)
        device = choose_device(config, amp_may_differ=True)
        prepare_torch(config, device)
        net, _ = load_saved(run)
        model = Symmetries(net) if tta else net
        model = model.to(device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        check_gpu(reader, inputs, config, device)
        loader = folder_loader(reader, inputs, config, device)
        return cls(model=model, loader=loader, device=device, threads=run.made_with.machine.threads)

    def score(self, chips: np.ndarray, label: str) -> np.ndarray:
        """(chips, classes) logits."""
        torch.set_num_threads(self.threads)  # another number of threads rounds differently
        batches = self.loader.subset(chips)
        return predict_logits(self.model, batches, self.device, label=label, num_chips=len(chips))


def inputs_for(run: Run, store: Store | None, reader: FolderReader) -> Inputs:
    """The inputs of a run.

    Raises:
        UserError: the files lack a band.
    """
    inputs, bands = inputs_of(run, store), reader.layout.bands
    if missing := [band for band in inputs.stored_bands if band not in bands]:
        raise UserError(
            f"BANDS={','.join(bands)}: the run also needs {', '.join(missing)}. Name all bands of the files in their "
            "order."
        )
    return inputs


def devices(scorers: Sequence[Scorer]) -> str:
    """The names of the devices, as `settings.json` in OUT.partial has them."""
    return ",".join(scorer.device.name for scorer in scorers)


def score_chips(scorers: Sequence[Scorer], reader: FolderReader, chips: np.ndarray, label: str) -> ScoredBlock:
    """Score chips by number: the mean logits of all scorers."""
    logits = mean_logits([scorer.score(chips, label) for scorer in scorers])
    numbers = chips.tolist()
    bad = {chip: reader.bad.pop(chip) for chip in numbers if chip in reader.bad}
    places = {chip: place for chip in numbers if (place := reader.places.pop(chip, None))}
    return ScoredBlock(
        logits=logits, bad=bad, places={chip: [place.crs, *place.transform] for chip, place in places.items()}
    )


class Scoring(Protocol):
    """Scores blocks of chips."""

    def begin(self, folder: Path) -> str:
        """Make ready. Returns the name of the device of each scorer. `folder`: OUT.partial."""

    def score(self, blocks: dict[int, np.ndarray], num_blocks: int) -> Iterator[tuple[int, ScoredBlock]]:
        """Yield (number, scores) of each of `blocks`, the chips by the number of their block, in any order."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Scores blocks of chips in this process, in order.

    scorers: of the run, or of the members of an ensemble.
    """

    scorers: Sequence[Scorer]
    reader: FolderReader

    def begin(self, folder: Path) -> str:
        """See `Scoring.begin`; writes nothing."""
        del folder
        return devices(self.scorers)

    def score(self, blocks: dict[int, np.ndarray], num_blocks: int) -> Iterator[tuple[int, ScoredBlock]]:
        """See `Scoring.score`."""
        for number, chips in blocks.items():
            yield number, score_chips(self.scorers, self.reader, chips, f"predict, block {number + 1}/{num_blocks}")
        for scorer in self.scorers:
            scorer.loader.close()
