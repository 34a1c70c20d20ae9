"""A run's model scores its test split again, in this process.

In: a finished run and its store. Out: `Scored`: logits in the order of the split, and what made them. Leaves the
comparison with the saved scores to `reproduce`, and the mean of several runs to `members`.
"""

from dataclasses import dataclass

import numpy as np
import torch

from analysis.finished_run import Run
from analysis.tta import Symmetries
from preprocess.console import UserError
from train import run_folder
from train.device import AMP_SETTING, Device, choose_device, prepare_torch
from train.predict import predict
from train.record import check_inputs
from train.setup import Data, make_eval_loader, make_model, open_data


@dataclass(frozen=True, kw_only=True)
class Scored:
    """(chips, classes) float32 logits of a test split, its data, the device, and the SHA-256 of the weights."""

    logits: np.ndarray
    data: Data
    device: Device
    model_sha256: str


def score_test_split(
    run: Run, *, store: str | None, gpu: str | None, tta: bool, label: str, source: str,
    same_input: bool = False,
) -> Scored:  # fmt: skip
    """Predict the test split of a run with its own settings and number of threads.

    Args:
        run: the run.
        store: where its store is; None: where it was.
        gpu: the device; None: the run's.
        tta: whether each logit is the mean over the symmetries of the chip.
        label: of the progress bar.
        source: begins errors about the store, such as "RUN=runs/task1".
        same_input: refuse another store or split than the run's. Without it the caller compares them.

    Raises:
        UserError: the store or the weights cannot be read, or scores are not finite.
    """
    record, before = run.record, run.made_with
    place = record.config.store if store is None else store
    config = record.config.replace(store=place, gpu=gpu or record.config.gpu, gpu_given=bool(gpu))
    data = open_data(config)
    is_same = data.store.fingerprint == before.store.fingerprint and data.split.sha256() == before.split.sha256
    if is_same or same_input:
        check_inputs(record, config, data, source)
    torch.set_num_threads(before.machine.threads)  # sums are split by threads, so another number rounds differently
    device = choose_device(config.replace(amp=AMP_SETTING[before.amp]), amp_may_differ=True)
    prepare_torch(config, device)
    if len(data.store.classes) != len(run.classes):
        raise UserError(
            f"{config.store}: expected the {len(run.classes)} classes of the run, found {len(data.store.classes)}."
        )
    net = make_model(config, data, pretrained=False)
    model_sha256 = run_folder.load_model(run.path, net)
    model = Symmetries(net) if tta else net
    model = model.to(device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loader = make_eval_loader(config, data, device, "test")
    logits = predict(model, loader, device, label=label, num_chips=len(data.split.test))
    if not np.isfinite(logits).all():
        raise UserError(
            f"{run.path / 'model.safetensors'}: expected the weights of the scores (SHA-256 "
            f"{before.model_sha256[:12]}), found others ({model_sha256[:12]}), whose scores are not finite. Copy the "
            "file again."
        )
    return Scored(logits=logits, data=data, device=device, model_sha256=model_sha256)
