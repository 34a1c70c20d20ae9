"""The field `evaluation` of run.json: how a folder's scores were made from finished runs, without training.

In: nothing. Out: the dataclasses. Such a folder has no epochs, no weights and no metrics.jsonl of its own. Leaves
loading the runs to `analysis.members`.
"""

from dataclasses import dataclass
from typing import Annotated

from train.contract.fields import Rule, Sha256, Share
from train.contract.surroundings import Amp


@dataclass(frozen=True, kw_only=True)
class Member:
    """A run whose logits are in the mean.

    path: relative to the folder of the evaluation, so that both can be moved together. model_sha256: of its weights.
    amp, device: with which its logits in the mean were made. test_map: test mAP of the run; None if no class has a
    positive chip. tta_map: the same with TTA, if it was used.
    """

    path: str
    model_sha256: Sha256
    amp: Amp
    device: str
    test_map: Share | None
    tta_map: Share | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores that are the mean logits of `members`. tta: each member's logits are means over symmetries of the chip."""

    tta: bool
    members: Annotated[tuple[Member, ...], Rule("one run or more", lambda value: len(value) > 0)]
