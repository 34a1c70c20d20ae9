"""reproduce.json and reproduce.csv: what `make reproduce` found last, and its table of AP, which a report shows."""

import hashlib
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from preprocess.console import UserError
from preprocess.files import write_atomic
from train.contract.fields import Sha256, check_seal, decode, parse, read_bytes, sealed


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the scores were reproduced, in words, with which weights. `table` is the SHA-256 of reproduce.csv, empty
    where there is none; None in verdicts before it was kept."""

    reproduced: bool
    text: str
    model_sha256: Sha256
    table: str | None = None
    sha256: dict[str, str] = field(default_factory=dict)


def write_verdict(run: Path, *, reproduced: bool, text: str, model_sha256: str, table: bytes | None) -> None:
    """Write both files; a verdict that stands has its own table beside it, or none: never an earlier one's."""
    for name in ("reproduce.json", "reproduce.csv"):
        (run / name).unlink(missing_ok=True)
    if table is not None:
        write_atomic(run / "reproduce.csv", table)
    values = {
        "reproduced": reproduced, "text": text, "model_sha256": model_sha256,
        "table": "" if table is None else hashlib.sha256(table).hexdigest(),
    }  # fmt: skip
    write_atomic(run / "reproduce.json", (json.dumps(sealed(values), indent=1) + "\n").encode())


def read_verdict(run: Path) -> Verdict:
    """What `make reproduce` found.

    Raises:
        UserError: the file is damaged or altered.
    """
    where = str(run / "reproduce.json")
    try:
        values = parse(read_bytes(run / "reproduce.json"), where)
        if isinstance(values, dict) and ("sha256" in values or "table" in values):
            check_seal(values, where)
        verdict: Verdict = decode(Verdict, values, where)
    except (UserError, FileNotFoundError) as error:
        raise UserError(f"{error} {_again(run)}") from error
    return verdict


def read_verdict_table(run: Path, verdict: Verdict) -> bytes | None:
    """The bytes of reproduce.csv; None where `make reproduce` left none, because the chips were others.

    Raises:
        UserError: they are not those of the verdict.
    """
    path = run / "reproduce.csv"
    data: bytes | None
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        data = None
    found = "" if data is None else hashlib.sha256(data).hexdigest()
    if verdict.table is not None and found != verdict.table:
        raise UserError(f"{path}: expected the table of reproduce.json, found another. {_again(run)}")
    return data


def _again(run: Path) -> str:
    return f"Run `make reproduce RUN={shlex.quote(str(run))}` again."
