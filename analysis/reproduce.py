"""`make reproduce`: load a run's model in a new process, predict its test split again, compare with the saved scores.

In: a run and its store. Out: a table, reproduce.json and reproduce.csv, and one of three verdicts. Bit-identical: every
logit is equal. Within rounding: all inputs of the scores are equal, but device or software differ, and so do the last
digits. Different: with the likely cause.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from analysis.finished_run import Run, load_run
from analysis.tables import table_bytes
from preprocess.console import UserError, one_line, say
from train import run_folder
from train.contract.results import MadeWith
from train.contract.verdict import write_verdict
from train.device import AMP_SETTING, Device, amp_name, choose_device, prepare_torch
from train.metrics import class_ap, mean_ap, probabilities
from train.predict import predict
from train.record import check_inputs
from train.setup import Data, make_eval_loader, make_model, open_data

# Largest difference of a probability that another device or number format may cause; the mean may reach a tenth of it.
# On 1,024 real chips with ResNet-18, 10-bit mantissas (fp16) gave 0.009 and bf16 0.045; more chips give a larger
# maximum.
ROUNDING = {"off": 1e-4, "float16": 3e-2, "bfloat16": 0.15}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A change since the scores were saved. `decides`: it changes what is computed, not only how it is rounded."""

    text: str
    decides: bool


def reproduce(run: Path, *, store: str | None, gpu: str | None) -> bool:
    """Predict again and print the comparison. Returns True for bit-identical or within rounding.

    Raises:
        UserError: the run or its store cannot be read.
    """
    saved = load_run(run)
    record, before = saved.record, saved.made_with
    place = record.config.store if store is None else store
    config = record.config.replace(store=place, gpu=gpu or record.config.gpu, gpu_given=bool(gpu))
    data = open_data(config)
    if data.store.fingerprint == before.store.fingerprint and data.split.sha256() == before.split.sha256:
        check_inputs(record, config, data, f"RUN={run}")  # otherwise the input is different, and the verdict says so
    torch.set_num_threads(before.machine.threads)  # sums are split by threads, so another number rounds differently
    device = choose_device(config.replace(amp=AMP_SETTING[before.amp]), amp_may_differ=True)
    prepare_torch(config, device)
    if len(data.store.classes) != len(saved.classes):
        raise UserError(
            f"{config.store}: expected the {len(saved.classes)} classes of the run, found {len(data.store.classes)}."
        )
    model = make_model(config, data, pretrained=False)
    model_sha256 = run_folder.load_model(run, model)
    model = model.to(device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    chips = data.split.test
    logits = predict(
        model, make_eval_loader(config, data, device, "test"), device, label="reproduce", num_chips=len(chips)
    )
    if not np.isfinite(logits).all():
        raise UserError(
            f"{run / 'model.safetensors'}: expected the weights of the scores (SHA-256 {before.model_sha256[:12]}), "
            f"found others ({model_sha256[:12]}), whose scores are not finite. Copy the file again."
        )
    differences = _differences(before, data, device, model_sha256)
    same_chips = np.array_equal(saved.names, data.store.names[chips])
    table = None
    if same_chips:
        frame = _table(data, saved, logits)
        shown = frame.map(lambda cell: one_line(cell) if isinstance(cell, str) else cell)
        for line in shown.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.8f}").split("\n"):
            say(line)
        table = table_bytes(frame)
    limit = max(ROUNDING[before.amp], ROUNDING[amp_name(device.amp)])
    reproduced, text = _verdict(run, saved, logits, differences, limit, same_chips=same_chips)
    say(text)
    write_verdict(run, reproduced=reproduced, text=text, model_sha256=model_sha256, table=table)
    if table is not None:
        say(f"{run / 'reproduce.csv'}: the table above")
    return reproduced


def _differences(before: MadeWith, data: Data, device: Device, model_sha256: str) -> list[Difference]:
    differences = []

    def compare(name: str, old: object, new: object, *, decides: bool = True) -> None:
        if old != new:
            differences.append(Difference(text=f"{name}: was {old}, is {new}", decides=decides))

    compare("store (fingerprint)", before.store.fingerprint[:12], data.store.fingerprint[:12])
    compare("split (sha256)", before.split.sha256[:12], data.split.sha256()[:12])
    # They also differ if a run was killed between saving the weights and the scores of a new best epoch.
    compare("weights (sha256 of model.safetensors)", before.model_sha256[:12], model_sha256[:12])
    amp = amp_name(device.amp)
    compare("AMP", before.amp, amp, decides=False)
    compare("device", before.machine.device, device.name, decides=False)
    compare("threads", before.machine.threads, torch.get_num_threads(), decides=False)
    now = run_folder.versions()
    for package, version in before.versions.items():
        compare(f"software {package}", version, now.get(package), decides=False)
    compare("commit of the code", before.commit, run_folder.commit(), decides=False)
    return differences


def _table(data: Data, saved: Run, logits: np.ndarray) -> pd.DataFrame:
    """One row per class and one for the mean; AP is NaN where the test split has no positive."""
    labels = data.store.labels[data.split.test]
    again = class_ap(labels, logits)
    table = pd.DataFrame(
        {
            "class": [*data.store.classes, "mean"],
            "positives": [*labels.sum(axis=0).tolist(), int(labels.sum())],
            "ap_saved": [*saved.ap.tolist(), saved.mean_ap],
            "ap_again": [*again.tolist(), mean_ap(again)],
        }
    )
    table["difference"] = table["ap_again"] - table["ap_saved"]
    return table


def _verdict(
    run: Path, saved: Run, logits: np.ndarray, differences: list[Difference], limit: float, *,
    same_chips: bool,
) -> tuple[bool, str]:  # fmt: skip
    """Whether the scores are reproduced, and the verdict as one line."""
    causes = "; ".join(difference.text for difference in differences)
    if not same_chips:
        likely = causes or "the split"
        return False, f"{run}: DIFFERENT: the test split has other chips than the saved scores. Likely cause: {likely}."
    gap = np.abs(probabilities(logits) - saved.probabilities)
    summary = f"difference of the {gap.size} probabilities: mean {gap.mean():.3g}, max {gap.max():.3g}"
    say(summary)
    if np.array_equal(logits, saved.logits) and not gap.any():
        return True, f"{run}: BIT-IDENTICAL.{f' (Changed since then: {causes}.)' if causes else ''}"
    decided = any(difference.decides for difference in differences)
    if differences and not decided and gap.max() <= limit and gap.mean() <= limit / 10:
        return True, f"{run}: WITHIN ROUNDING of another device or software ({causes}); {summary}."
    likely = (
        causes
        or "none found: store, split, transform, weights, software and device are equal; nondeterministic kernels?"
    )
    return False, f"{run}: DIFFERENT ({summary}). Likely cause: {likely}."
