"""Runs whose files a test changes as if they had been written so: every digest fits again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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
    (`lines`), and arrays (None: left out). A changed AP is that of all epochs, in metrics.jsonl too."""
    values = json.loads((run / "run.json").read_text())
    record(values)
    both(values)
    found = read_arrays(run)
    depends = json.loads(str(found.pop("depends_on")))
    made(depends)
    both(depends)
    found |= {name: np.asarray(array) for name, array in (arrays or {}).items() if array is not None}
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in history:
        lines(line)
        line.pop("digest", None)
        if arrays and "AP" in arrays:
            names = list(line["test_ap"])
            line["test_ap"] = {n: None if np.isnan(v) else v for n, v in zip(names, found["AP"].tolist(), strict=True)}
            line["test_map"] = None if np.isnan(found["mAP"]) else float(found["mAP"])
    if arrays and "AP" in arrays:
        found["testperfs"] = np.stack([found["AP"]] * len(history))
    found = {
        name: array for name, array in found.items() if name not in (arrays or {}) or (arrays or {})[name] is not None
    }
    if "version" in values:
        values = sealed(values | {"identity": identity_of(values)})
        chain = digests(values["identity"], history)
        history = [line | {"digest": each} for line, each in zip(history, chain, strict=True)]
        kept = {name: array_digest(array) for name, array in found.items()}
        depends = sealed(depends | {"identity": values["identity"], "lines": chain, "arrays": kept})
    (run / "run.json").write_text(json.dumps(values))
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    np.savez(run / "results.npz", **found, depends_on=np.array(json.dumps(depends)))  # type: ignore[arg-type]
    return run
