"""The forms of SPLIT that are not files: names and fractions. Needs no store, so that a mistake is found first.

In: the text of SPLIT. Out: fractions and a seed, or a UserError. Leaves dividing the chips to `splits`.
"""

from dataclasses import dataclass
from typing import Any

from preprocess.console import UserError
from preprocess.messages import did_you_mean, shown

NAMED = ("course", "blocked", "column")
SPLIT_NAMES = ("train", "val", "test")
BLOCK_KM = 10.0
NO_SPLIT = 255  # in place of a position in SPLIT_NAMES
_SPLIT_WORDS = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}  # of published files
_NUMERIC = set("0123456789.eE+-, @")  # Python's own numbers may hold other characters: 0_.5, digits of other scripts


@dataclass(frozen=True, kw_only=True)
class Fractions:
    """Fractions of (train, test) or (train, val, test), which add up to 1, and the seed of the random order."""

    fractions: tuple[float, ...]
    seed: int


def split_number(text: str) -> int | None:
    """Position in SPLIT_NAMES of a split as a labels file has it, such as validation; None for another word."""
    word = text.strip().casefold()
    word = _SPLIT_WORDS.get(word, word)
    return SPLIT_NAMES.index(word) if word in SPLIT_NAMES else None


def split_counts(split: Any) -> str:
    """ "70 train, 10 val, 20 test" for an array of positions in SPLIT_NAMES."""
    return ", ".join(f"{int((split == index).sum())} {name}" for index, name in enumerate(SPLIT_NAMES))


def check_rule(rule: str) -> None:
    """UserError if SPLIT is neither a name, a CSV file nor fractions."""
    if rule not in NAMED and not rule.lower().endswith(".csv"):
        read_fractions(rule)


def read_fractions(rule: str) -> Fractions:
    """ "0.7,0.1,0.2@5" -> its numbers.

    Raises:
        UserError: it is no such text, or the fractions do not add up to 1.
    """
    text, _, seed_text = rule.partition("@")
    try:
        if not set(rule) <= _NUMERIC:
            raise ValueError
        fractions = tuple(float(field) for field in text.split(","))
        seed = int(seed_text or 0)
    except ValueError:
        fractions, seed = (), -1
    adds_up = len(fractions) in (2, 3) and min(fractions) > 0 and abs(sum(fractions) - 1) < 1e-9
    if not adds_up or not 0 <= seed < 2**128:  # what Philox takes
        raise UserError(
            f"SPLIT={shown(rule)}: expected course, blocked, column, a .csv file, or fractions that add up to 1 "
            f"(0.8,0.2 or 0.7,0.1,0.2@seed){did_you_mean(rule, NAMED, 'SPLIT') or '.'}"
        )
    return Fractions(fractions=fractions, seed=seed)
