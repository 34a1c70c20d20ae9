"""`make reproduce`: load a run's model in a new process, predict its test split again, compare with the saved scores.

In: a run and its store. Out: a table, reproduce.json and reproduce.csv, and one of three verdicts. Bit-identical: every
logit is equal. Within rounding: all inputs of the scores are equal, but device or software differ, and so do the last
digits. Different: with the likely cause.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from analysis.finished_run import Run, load_run
from analysis.members import mean_logits, members_of, uses_tta
from analysis.scoring import Scored, score_test_split
from analysis.tables import table_bytes
from preprocess.console import one_line, say
from train import run_folder
from train.contract.results import MadeWith
from train.contract.verdict import write_verdict
from train.device import amp_name
from train.metrics import class_ap, mean_ap, probabilities
from train.setup import Data

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

    The scores of an ensemble are predicted again by its runs, those with TTA over the same symmetries.

    Raises:
        UserError: the run or its store cannot be read, or a run of an ensemble is missing or has changed.
    """
    saved = load_run(run)
    tta, members = uses_tta(saved), members_of(saved)
    scored, differences = [], dict[Difference, None]()
    for number, member in enumerate(members):
        label = "reproduce" if len(members) == 1 else f"reproduce {member.name}"
        one = score_test_split(member, store=store, gpu=gpu, tta=tta, label=label, source=f"RUN={member.path}")
        differences |= dict.fromkeys(_differences(_made_with(saved, number, member), one))
        scored.append(one)
    data, logits = scored[0].data, mean_logits([one.logits for one in scored])
    same_chips = np.array_equal(saved.names, data.store.names[data.split.test])
    table = None
    if same_chips:
        frame = _table(data, saved, logits)
        shown = frame.map(lambda cell: one_line(cell) if isinstance(cell, str) else cell)
        for line in shown.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.8f}").split("\n"):
            say(line)
        table = table_bytes(frame)
    limit = max(ROUNDING[amp] for amp in (saved.made_with.amp, *(amp_name(one.device.amp) for one in scored)))
    reproduced, text = _verdict(run, saved, logits, list(differences), limit, same_chips=same_chips)
    say(text)
    # The weights of an ensemble are those of its record, otherwise `members_of` refuses them.
    sha256 = scored[0].model_sha256 if members == [saved] else saved.made_with.model_sha256
    write_verdict(run, reproduced=reproduced, text=text, model_sha256=sha256, table=table)
    if table is not None:
        say(f"{run / 'reproduce.csv'}: the table above")
    return reproduced


def _made_with(saved: Run, number: int, member: Run) -> MadeWith:
    """How the scores of a member were made: in its training, or with TTA by `make ensemble`."""
    own, evaluation = member.made_with, saved.record.evaluation
    if evaluation is None or not evaluation.tta:
        return own
    part = evaluation.members[number]
    machine = replace(own.machine, device=part.device)
    return replace(saved.made_with, machine=machine, amp=part.amp, model_sha256=part.model_sha256)


def _differences(before: MadeWith, scored: Scored) -> list[Difference]:
    differences, data, device = [], scored.data, scored.device

    def compare(name: str, old: object, new: object, *, decides: bool = True) -> None:
        if old != new:
            differences.append(Difference(text=f"{name}: was {old}, is {new}", decides=decides))

    compare("store (fingerprint)", before.store.fingerprint[:12], data.store.fingerprint[:12])
    compare("split (sha256)", before.split.sha256[:12], data.split.sha256()[:12])
    # They also differ if a run was killed between saving the weights and the scores of a new best epoch.
    compare("weights (sha256 of model.safetensors)", before.model_sha256[:12], scored.model_sha256[:12])
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
