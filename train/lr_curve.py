"""The curve of a learning-rate range test: its file, and the learning rate that follows from it. Imports nothing heavy.

In: learning rates and losses. Out: a CSV, a suggestion, the next command. Leaves the steps to `lr_find`, the picture to
`analysis.lr_picture`.
"""

import csv
import io
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.console import UserError
from preprocess.files import write_atomic
from train.commands import TrainRequest
from train.preview_words import near

COLUMNS = ("step", "lr", "loss", "smoothed_loss")
REACH = 5  # neighbouring steps on either side that the smoothed loss of a step is made of


@dataclass(frozen=True, kw_only=True)
class LrCurve:
    """Learning rate and loss of each step, (steps,) each; only finite losses."""

    rates: np.ndarray
    losses: np.ndarray

    @property
    def smoothed(self) -> np.ndarray:
        """(steps,) means over neighbouring steps, by Hann weights. Unlike a running mean they do not lag behind."""
        weights = np.hanning(2 * REACH + 3)[1:-1]
        padded = np.pad(self.losses, REACH)
        counts = np.pad(np.ones(len(self.losses)), REACH)
        return np.asarray(np.convolve(padded, weights, "valid") / np.convolve(counts, weights, "valid"))

    def write(self, path: Path) -> None:
        """Write the curve as a CSV."""
        text = io.StringIO()
        rows = zip(range(1, len(self.rates) + 1), self.rates, self.losses, self.smoothed, strict=True)
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.getvalue().encode())


def read_curve(path: Path) -> LrCurve:
    """The curve that `LrCurve.write` wrote."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rates, losses = (np.array([float(row[name]) for row in rows]) for name in ("lr", "loss"))
    return LrCurve(rates=rates, losses=losses)


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """`lr` is suggested; the smoothed loss falls fastest at `steepest`, and is lowest at `lowest`."""

    lr: float
    steepest: float
    lowest: float


def suggest(curve: LrCurve) -> Suggestion:
    """The learning rate between the steepest descent and the lowest loss: their geometric mean, in two digits.

    Both marks are fastai's (`steep` and `minimum`). On the demo chips the steepest descent is a 15th of the LR that is
    known to be good for AdamW, and the lowest loss 10 times the one for SGD; the mean is within a factor of 4 of both.

    Raises:
        UserError: the loss did not fall.
    """
    smoothed = curve.smoothed
    lowest = int(np.argmin(smoothed))
    if lowest < 2:
        raise UserError(
            f"LR=find: the loss did not fall between {curve.rates[0]:.0e} and {curve.rates[-1]:.0e}, so no learning "
            "rate is suggested. Look at labels and bands with `make preview`."
        )
    slopes = np.gradient(smoothed[: lowest + 1], np.log(curve.rates[: lowest + 1]))
    steepest = int(np.argmin(slopes))
    mean = float(np.sqrt(curve.rates[steepest] * curve.rates[lowest]))
    return Suggestion(
        lr=float(f"{mean:.1e}"), steepest=float(curve.rates[steepest]), lowest=float(curve.rates[lowest])
    )  # fmt: skip


def lr_lines(request: TrainRequest, suggestion: Suggestion) -> list[str]:
    """What is suggested and how it was chosen, and the command of the training."""
    words = [word for word in request.words() if word.partition("=")[0] not in ("RUN_FILE", "STORE", "LR")]
    words += [f"STORE={near(request.config.store)}", f"LR={suggestion.lr:g}"]
    return [
        f"Suggested: LR={suggestion.lr:g}, between {suggestion.steepest:.1e} (the loss falls fastest) and",
        f"{suggestion.lowest:.1e} (the loss is lowest). It is the start of a search, good to a factor of about 4:",
        " ".join(["make train", *map(shlex.quote, words)]),
    ]
