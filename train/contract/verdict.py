"""reproduce.json and reproduce.csv: the last result of `make reproduce`, and its table of AP, which a report shows."""

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
    """Whether the scores were reproduced; `text` says it in words. `model_sha256` is of the weights.

    `table` is the SHA-256 of reproduce.csv, "" if there is none, and None in early verdicts.
    """

    reproduced: bool
    text: str
    model_sha256: Sha256
    table: str | None = None
    sha256: dict[str, str] = field(default_factory=dict)


def write_verdict(run: Path, *, reproduced: bool, text: str, model_sha256: str, table: bytes | None) -> None:
    """Write both files. The earlier ones are removed first, so a verdict is never beside the table of another one."""
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
    """The result of `make reproduce`.

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
    """The bytes of reproduce.csv; None if there is no table, because the chips were others.

    Raises:
        UserError: the table is not the one of the verdict.
    """
    path = run / "reproduce.csv"
    data: bytes | None
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        data = None
    sha256 = "" if data is None else hashlib.sha256(data).hexdigest()
    if verdict.table is not None and sha256 != verdict.table:
        raise UserError(f"{path}: expected the table of reproduce.json, found another. {_again(run)}")
    return data


def _again(run: Path) -> str:
    return f"Run `make reproduce RUN={shlex.quote(str(run))}` again."
