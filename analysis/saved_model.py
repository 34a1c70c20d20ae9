"""Load a run's network with the weights of its best epoch, and its inputs. Needs no store.

In: a run's folder. Out: `SavedModel`.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from analysis.finished_run import Run, load_run
from analysis.members import refuse_ensemble
from analysis.raw_network import raw_network
from models.build import build
from models.resnet import WeightsError, branch
from pipeline.inputs import COURSE_MEAN, COURSE_STD, Inputs, raw_inputs
from preprocess.console import UserError, say
from preprocess.splits import make_split
from preprocess.zarr_store import Store
from train.contract.record import Chip
from train.run_folder import load_model as load_weights


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A trained network and all that a loader must know to feed it as the run did.

    Attributes:
        net: the network in eval mode on the CPU. Input (B, channels, height, width) in channels-last memory, output
            (B, classes) logits.
        inputs: bands and scaling, for `eval_loader`.
        classes: names of the outputs, in order.
        crop: (height, width) in pixels of the network's input, for `eval_loader`.
        test: "center" or "resize", for `eval_loader`.
        sha256: SHA-256 of model.safetensors.
        chip: size, dtype, bands and nodata of the run's chips; None if neither the run nor a store says it.
    """

    net: nn.Module
    inputs: Inputs
    classes: tuple[str, ...]
    crop: tuple[int, int]
    test: str
    sha256: str
    chip: Chip | None = None

    def raw_network(self) -> nn.Module:
        """The network with its preprocessing, for code that has no store and no loader.

        Returns:
            A module in eval mode on the CPU. Input: (B, bands, height, width) values as they are in the files, of any
            dtype, with the size and the bands of `chip`. Output: (B, classes) float32 logits; `sigmoid` makes them
            probabilities.

        Raises:
            UserError: the run has TEST=resize, or an early version made it and no store was given.
        """
        if self.chip is None or not self.chip.bands:
            raise UserError("load_model: expected the bands of the chips, found none. Give the run's store as store=.")
        return raw_network(
            self.net, self.inputs, bands=self.chip.bands, sides=(self.chip.height, self.chip.width), crop=self.crop,
            test=self.test, nodata=self.chip.nodata, source="load_model",
        )  # fmt: skip


def load_model(run: str | Path, *, store: Store | None = None) -> SavedModel:
    """Load the network of a run with the weights of its best epoch.

    Args:
        run: the run's folder, such as "runs/task1".
        store: the store that the run was trained on. Runs of version 1 need it: their run.json may lack the crop, and
            mean and std are proved by computing them again.

    Returns:
        The network in eval mode on the CPU, its inputs, classes, crop and test transform.

    Raises:
        UserError: a file of the run is missing, damaged or altered (names it), or the store is another one.
    """
    finished = load_run(run)
    if store is not None and store.fingerprint != (expected := finished.made_with.store.fingerprint):
        raise UserError(
            f"{store.path}: expected the store with fingerprint {expected[:12]}, found {store.fingerprint[:12]}."
        )
    refuse_ensemble(finished, "export", "load_model gives one network, and these are scores of several or with TTA.")
    net, sha256 = load_saved(finished)
    crop = finished.record.inputs.crop
    if crop is None:
        if store is None:
            raise UserError(
                f"{finished.path / 'run.json'}: expected the crop, found none. Give the run's store as store=."
            )
        crop = finished.config.crop_of(store.layout.height, store.layout.width)
    return SavedModel(
        net=net, inputs=inputs_of(finished, store), classes=finished.classes, crop=crop, test=finished.config.test,
        sha256=sha256, chip=_chip_of(store) if store else finished.record.inputs.chip,
    )  # fmt: skip


def _chip_of(store: Store) -> Chip:
    layout = store.layout
    return Chip(
        height=layout.height, width=layout.width, dtype=layout.dtype, bands=layout.bands, nodata=layout.nodata
    )  # fmt: skip


def inputs_of(run: Run, store: Store | None) -> Inputs:
    """Bands and scaling from run.json.

    Since version 2 the run's identity covers them. For a run of version 1 they are computed again if its store is
    given.

    Raises:
        UserError: the computed values differ.
    """
    kept = run.record.inputs
    inputs = Inputs(kind=kept.kind, bands=kept.bands, mean=kept.mean, std=kept.std)
    if run.record.version == 1:
        expected = (
            _course(inputs) if inputs.kind == "course" else inputs if store is None else _from_store(run, store, inputs)
        )
        if inputs != expected:
            raise UserError(
                f"{run.path / 'run.json'}: expected inputs with mean {list(expected.mean)} and std "
                f"{list(expected.std)}, found mean {list(inputs.mean)} and std {list(inputs.std)}. Restore the file "
                "from a copy, or train again."
            )
    return inputs


def _course(inputs: Inputs) -> Inputs:
    count = len(inputs.bands)
    mean, std = (tuple(255 * value for value in values[:count]) for values in (COURSE_MEAN, COURSE_STD))
    return Inputs(kind="course", bands=inputs.bands, mean=mean, std=std)


def _from_store(run: Run, store: Store, kept: Inputs) -> Inputs:
    try:
        split = make_split(run.config.split, store, val=run.config.val, block_km=run.config.block_km)
    except UserError as error:  # its CSV or groups no longer exist
        say(f"{run.path / 'run.json'}: mean and std cannot be checked and are used unchecked ({error})")
        return kept
    if split.sha256() != run.record.split.sha256:
        say(
            f"{run.path / 'run.json'}: mean and std are used unchecked: SPLIT={run.config.split} gives other chips now."
        )
        return kept
    return raw_inputs(store, run.record.inputs.bands, split.train)


def load_saved(run: Run) -> tuple[nn.Module, str]:
    """(network in eval mode on the CPU, SHA-256 of its weights).

    Raises:
        UserError: the weights are missing, do not fit, or are not those that made the saved scores.
    """
    branches = tuple(branch(*bands) for bands in run.record.inputs.branches)
    inputs = run.record.inputs
    try:
        net = build(
            run.config.arch, branches, len(run.classes), None, pool=inputs.pool, stem=inputs.stem, size=inputs.crop
        )
    except WeightsError as error:  # timm is not installed here
        raise UserError(f"{run.path}: {error}") from error
    digest = load_weights(run.path, net)
    if digest != run.made_with.model_sha256:
        raise UserError(
            f"{run.path / 'model.safetensors'}: expected the weights that made the saved scores "
            f"({run.made_with.model_sha256[:12]}), found {digest[:12]}. Train again."
        )
    return net.eval(), digest
