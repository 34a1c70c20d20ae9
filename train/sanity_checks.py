"""Signs that a run is wrong although nothing fails: one line each. Pure functions of data and scores."""

import numpy as np

from preprocess.splits import SPLIT_NAMES, Split
from preprocess.zarr_store import Store

# A random ranking has an mAP near the mean prevalence. It may lie above it by this share of the distance to 0 or 1.
CHANCE = 0.1


def data_alarms(store: Store, split: Split) -> list[str]:
    """Classes without a chip in a split; chips that are in train and, with the same pixels, in a split that scores;
    train chips that are all nodata."""
    alarms = _without_pixels(store, split)
    for name in SPLIT_NAMES:
        chips = split.indices(name)
        has_chip = store.labels[chips].any(axis=0)
        absent = [label for label, present in zip(store.classes, has_chip, strict=True) if not present]
        if len(chips) and absent:
            effect = "cannot be learnt" if name == "train" else "have no AP" if absent[1:] else "has no AP"
            which = "these classes" if absent[1:] else "this class"
            alarms.append(f"the {name} split has no chip of {', '.join(absent)}: {which} {effect}.")
    for name in SPLIT_NAMES[1:]:
        chips = split.indices(name)
        same = chips[np.isin(store.checksum[chips], store.checksum[split.train])]
        if len(same):
            names = ", ".join(store.names[same[:3]].tolist())
            alarms.append(
                f"{len(same)} chips of the {name} split are pixel-identical to training chips ({names}"
                f"{' ...' if len(same) > 3 else ''}); {name} scores are optimistic."
            )
    return alarms


def _without_pixels(store: Store, split: Split) -> list[str]:
    """A line if the network is fed chips without any pixel, so that it can only learn how frequent their labels are."""
    if store.layout.nodata is None:
        return []
    empty = split.train[~store.valid_count[split.train].any(axis=1)]
    if not len(empty):
        return []
    names = ", ".join(store.names[empty[:3]].tolist())
    holds, they, them = ("chip holds", "it", "it") if len(empty) == 1 else ("chips hold", "they", "them")
    return [
        f"{len(empty)} {holds} nothing but nodata in the train split ({names}{' ...' if len(empty) > 3 else ''}). "
        f"If {they} should not be learnt, leave {them} out of the labels and run `make zarr` again."
    ]


def chance_alarm(labels: np.ndarray, mean_ap: float, split: str) -> str:
    """A line if mAP is no better than that of random scores: the mean prevalence of the classes that occur."""
    prevalence = labels.mean(axis=0)
    chance = float(prevalence[prevalence > 0].mean()) if prevalence.any() else float("nan")
    if not mean_ap <= chance + CHANCE * min(chance, 1 - chance):
        return ""
    return (
        f"{split} mAP {mean_ap:.4f} is no better than chance ({chance:.4f}). Are the labels matched to the right chips?"
    )
