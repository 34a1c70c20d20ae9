"""Change the files of a run and compute all their digests again, as if the run had written them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from helpers.commands import ROOT, here

from preprocess.console import UserError
from train.contract.fields import sealed
from train.contract.metrics import digests
from train.contract.record import identity_of
from train.contract.results import array_digest

Change = Callable[[dict[str, Any]], object]


def nothing(values: dict[str, Any]) -> None:
    pass


def read_arrays(run: Path) -> dict[str, np.ndarray]:
    with np.load(run / "results.npz") as archive:
        return {name: archive[name] for name in archive.files}


def rewrite(
    run: Path, *, record: Change = nothing, made: Change = nothing, both: Change = nothing, lines: Change = nothing,
    arrays: dict[str, np.ndarray | None] | None = None,
) -> Path:  # fmt: skip
    """Change run.json (`record`), results.npz's depends_on (`made`), both of them, each line of metrics.jsonl
    (`lines`), and arrays (None: removed). A changed AP is used for all epochs, also in metrics.jsonl."""
    values = json.loads((run / "run.json").read_text())
    record(values)
    both(values)
    stored = read_arrays(run)
    depends = json.loads(str(stored.pop("depends_on")))
    made(depends)
    both(depends)
    stored |= {name: np.asarray(array) for name, array in (arrays or {}).items() if array is not None}
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in history:
        lines(line)
        line.pop("digest", None)
        if arrays and "AP" in arrays:
            names = list(line["test_ap"])
            line["test_ap"] = {n: None if np.isnan(v) else v for n, v in zip(names, stored["AP"].tolist(), strict=True)}
            line["test_map"] = None if np.isnan(stored["mAP"]) else float(stored["mAP"])
    if arrays and "AP" in arrays:
        stored["testperfs"] = np.stack([stored["AP"]] * len(history))
    stored = {
        name: array for name, array in stored.items() if name not in (arrays or {}) or (arrays or {})[name] is not None
    }
    if "version" in values:
        values = sealed(values | {"identity": identity_of(values)})
        chain = digests(values["identity"], history)
        history = [line | {"digest": each} for line, each in zip(history, chain, strict=True)]
        digest_of = {name: array_digest(array) for name, array in stored.items()}
        depends = sealed(depends | {"identity": values["identity"], "lines": chain, "arrays": digest_of})
    (run / "run.json").write_text(json.dumps(values))
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    np.savez(run / "results.npz", **stored, depends_on=np.array(json.dumps(depends)))  # type: ignore[arg-type]
    return run


def one_line(call: Callable[[], object]) -> str:
    """The message of a call that raises UserError; "" if it does not."""
    text = ""
    try:
        call()
    except UserError as error:
        text = str(error)
    assert "\n" not in text
    return text


def commands(run: Path) -> list[list[str]]:
    data, out = run.parent / "tif", run.parent / "out.csv"
    return [
        ["predict", f"RUN={run}", f"DATA={data}", f"OUT={out}", "GPU=cpu"],
        ["export", f"RUN={run}"],
        ["report", f"RUN={run}"],
        ["curves", f"RUN={run}"],
        ["reproduce", f"RUN={run}"],
        ["train", f"RESUME={run}"],
    ]


def refused_by_all(run: Path, message: str, *, but: tuple[str, ...] = ()) -> None:
    (run.parent / "tif").mkdir(exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", run.parent / "tif" / "a.tif")  # its content is not read
    for name, *words in commands(run):
        if name not in but:
            ended = here("", name, *words)
            assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), (name, ended)
            assert message in ended.stderr
