"""The words above the columns of tables on a page, with units. The CSV files keep the short names.

In: the name of a column. Out: its words.
"""

_WORDS = {
    "lr": "learning rate at the epoch's end", "train_loss": "train loss (nats)", "val_loss": "val loss (nats)",
    "test_loss": "test loss (nats)", "train_map": "train mAP (0 to 1)", "val_map": "val mAP (0 to 1)",
    "test_map": "test mAP (0 to 1)", "chips_per_s": "training speed (chips/s)",
    "wait_share": "share of the training time waiting for data", "train_s": "training time (s)",
    "first_wait_s": "wait for the first batch (s)", "positives": "positive test chips",
    "positives tuned on": "positives in the half for tuning",
    "positives reported on": "positives in the half for scores",
    "chance": "AP by chance (0 to 1)", "AP": "AP (0 to 1)", "low": "AP, lower end of the 95 % interval",
    "high": "AP, upper end of the 95 % interval", "Brier": "Brier score (0 is best)",
    "Brier of a constant": "Brier score if every chip gets the share of the class", "F2 at 0.5": "F2 at threshold 0.5",
    "F2 tuned": "F2 at the tuned threshold", "threshold": "threshold (probability)",
    "ap_saved": "AP, saved", "ap_again": "AP, computed again", "difference": "difference of AP",
    "labels right": "share of labels that are right", "image_name": "chip",
}  # fmt: skip


def in_words(column: str) -> str:
    """The words for a column; the name itself where it needs none."""
    return _WORDS.get(column, column)
