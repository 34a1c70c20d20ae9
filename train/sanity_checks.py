"""Things that are wrong with a run though nothing fails: one line each. Pure functions of data and scores."""

import numpy as np

from preprocess.splits import SPLIT_NAMES, Split
from preprocess.zarr_store import Store

CHANCE = 0.1  # mAP up to this share of the way from the mean prevalence to 0 or 1 is what ranking by chance may give


def data_alarms(store: Store, split: Split) -> list[str]:
    """Classes that a part has no chip of; chips with the same pixels in train and in a part that scores."""
    found = []
    for part in SPLIT_NAMES:
        chips = split.indices(part)
        absent = [name for name, any_ in zip(store.classes, store.labels[chips].any(axis=0), strict=True) if not any_]
        if len(chips) and absent:
            what = "cannot be learnt" if part == "train" else "has no AP there"
            found.append(f"the {part} part has no chip of {', '.join(absent)}: {what}.")
    for part in SPLIT_NAMES[1:]:
        chips = split.indices(part)
        same = chips[np.isin(store.checksum[chips], store.checksum[split.train])]
        if len(same):
            names = ", ".join(store.names[same[:3]].tolist())
            found.append(
                f"{len(same)} chips of the {part} part have the very pixels of a train chip ({names}"
                f"{' ...' if len(same) > 3 else ''}): its scores flatter."
            )
    return found


def chance_alarm(labels: np.ndarray, mean_ap: float, part: str) -> str:
    """A line if the mAP is what random scores give: the mean share of positives over the classes that have any."""
    positives = labels.mean(axis=0)
    chance = float(positives[positives > 0].mean()) if positives.any() else float("nan")
    if not mean_ap <= chance + CHANCE * min(chance, 1 - chance):
        return ""
    return f"{part} mAP {mean_ap:.4f} is what chance gives ({chance:.4f}): do labels and chips belong together?"
