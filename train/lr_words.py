"""The word LR=find, and what it cannot stand beside. Imports nothing heavy."""

from typing import Any

from preprocess.console import UserError

FIND_LR = "LR=find"


def check_find_lr(values: dict[str, Any]) -> None:
    """UserError for settings of a run: LR=find makes none."""
    for name in ("lr", "resume", "run", "nodes"):
        if name in values:
            raise UserError(f"{FIND_LR}: {name.upper()} is given, too. {FIND_LR} makes no run. Leave one of them out.")
    if "," in values.get("gpu", ""):
        raise UserError(f"{FIND_LR}: expected one GPU, found GPU={values['gpu']}.")
