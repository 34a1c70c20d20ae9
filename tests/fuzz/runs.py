"""Damaged run folders: resume, reproduce, predict, report and curves are compared with their results on the undamaged
run.

Bases: a tiny finished run, one that was stopped in its second epoch, the same stopped one step earlier, and one with
another seed. All files are damaged except TensorBoard's and the drawn curve, which no command reads.

silent: the command succeeds with other weights, scores, tables or pictures. If reproduce says DIFFERENT, that counts as
refused.
"""

import io
import json
import os
import random
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.chips import to_store, write_chips
from tiny import Steps, outcome, tiny_networks

from analysis.curves import draw_curves
from analysis.predict import predict
from analysis.report import report
from analysis.reproduce import reproduce
from canopy.main import dispatch
from fuzz.damage import Content, Special, Tree, damage_bytes, damage_json, read_tree, special, write_entry
from fuzz.outcome import Case, Refused, attempt, quiet

GROWTH = True  # an idle child already holds torch: only memory beyond it counts
ACTIONS = {"resume": 30, "reproduce": 25, "predict": 25, "curves": 12, "report": 4}
SETTINGS = ("EPOCHS=2", "BATCH=20", "VAL=0.1", "EMA=0.9", "WEIGHTS=none", "GPU=cpu",
            "TASK=1", "CHECKPOINT_MINUTES=1e-9")  # fmt: skip


def make_bases(bases: Path) -> None:
    """Write BASES/done, stopped, earlier and foreign, the store, and chips without labels in new/."""
    torch.set_num_threads(1)
    store = quiet(lambda: to_store(write_chips(bases / "tif", count=112), bases / "chips.zarr"))
    write_chips(bases / "new", count=6, seed=1)
    with tiny_networks():
        for name, step, more in (
            ("done", 0, ()),
            ("stopped", 5, ()),
            ("earlier", 4, ()),
            ("foreign", 0, ("SEED=7",)),
        ):
            steps = Steps(lambda reached, step=step: os.kill(os.getpid(), signal.SIGTERM) if reached == step else None)
            with steps.watch:
                words = (f"STORE={store.path}", f"RUN={bases / name}", *SETTINGS, *more)
                if quiet(lambda words=words: _train(*words)) != (75 if step else 0):
                    raise RuntimeError(f"{name}: the base run failed")


def _train(*words: str) -> int:
    """Run a training. Of several words with one name, the last counts."""
    return dispatch("train", list({word.partition("=")[0]: word for word in words}.values()))


class Runs:
    """One or two operations on a run's folder, then one command."""

    def __init__(self, bases: Path, work: Path) -> None:
        torch.set_num_threads(1)
        self._networks = ExitStack()  # open until this process ends
        self._networks.enter_context(tiny_networks())
        self._bases, self._work, self._run = bases, work, work / "run"
        trees = {name: read_tree(bases / name) for name in ("done", "stopped", "earlier", "foreign")}
        self._trees = {
            name: {path: data for path, data in tree.items() if not path.startswith(("tensorboard/", "curves", "."))}
            for name, tree in trees.items()
        }
        self._action = "resume"
        self._expected: dict[str, Any] = {}

    def _tree(self) -> dict[str, bytes]:
        return self._trees["stopped" if self._action == "resume" else "done"]

    def _write(self, changed: Tree) -> None:
        for name, content in {**self._tree(), **changed}.items():
            write_entry(self._run, name, content)

    def draw(self, rng: random.Random, case: Case) -> None:
        """Choose a command, damage one or two files of its run."""
        self._action = rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        if self._action not in self._expected:
            self._write({})
            self._expected[self._action] = quiet(self._act)
            self.mend()
        case.operations.append(self._action)
        changed: Tree = {}
        for _ in range(rng.choice((1, 1, 1, 2))):
            case.operations.append(self._operate(rng, changed))
        self._write(changed)

    def _operate(self, rng: random.Random, changed: Tree) -> str:
        tree = self._tree()
        names = sorted(tree)
        name = rng.choice([*names, *[name for name in names if name.endswith((".json", ".npz"))] * 2])
        content: Content = changed.get(name, tree[name])
        data = content if isinstance(content, bytes) else b""
        choice = rng.random()
        if choice < 0.35:
            changed[name], text = damage_bytes(rng, data)
        elif choice < 0.65:
            changed[name], text = _inside(rng, name, tree[name])
        elif choice < 0.75:
            version = rng.choice(("earlier", "foreign", "done", "stopped"))
            others = self._trees[version]
            similar = [other for other in others if Path(other).suffix == Path(name).suffix]
            other = name if name in others else rng.choice(sorted(similar) or sorted(others))
            changed[name], text = others[other], f"{other} from the run {version!r}"
        elif choice < 0.82:
            other = rng.choice(names)
            changed[name], changed[other], text = tree[other], data, f"and {other} swapped"
        elif choice < 0.88:
            changed[name], text = Special("missing"), "deleted"
        elif choice < 0.94:
            other = _other_name(rng, name)
            changed[name], changed[other], text = Special("missing"), data, f"renamed to {other}"
        else:
            changed[name] = content = special(rng, [str(self._bases / "foreign" / "run.json")])
            text = f"a {content.kind} {content.target}"
        return f"{name}: {text}"

    def _act(self) -> Any:
        """Run the command; returns everything that must be equal."""
        run = self._run
        torch.set_num_threads(1)  # a command sets the number that run.json records
        if self._action == "resume":
            code = _train(f"RESUME={run}")
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            scores = [{key: line[key] for key in line if key.endswith(("_map", "_loss", "epoch"))} for line in lines]
            return {"exit code": code, "metrics": scores, **outcome(run)}
        if self._action == "reproduce":
            if not reproduce(run, store=None, gpu="cpu"):
                raise Refused(json.loads((run / "reproduce.json").read_text())["text"])
            return {"table": (run / "reproduce.csv").read_text()}
        if self._action == "predict":
            out = self._work / "scores.csv"
            predict(run, self._bases / "new", out, bands=None, gpu="cpu", tta=False)
            return {"scores": out.read_text(), "tags": out.with_name("scores_submission.csv").read_text()}
        if self._action == "curves":
            return {"picture": draw_curves(run).read_bytes()}
        report(run, compare=(), wanted_class=None, store_path=None)
        return {path.name: path.read_bytes() for path in sorted((run / "report" / "tables").iterdir())}

    def judge(self, case: Case) -> Case:
        """Run the command and compare."""
        try:
            result = attempt(self._act)
        except Refused as error:
            return case.to("refused", str(error))
        expected = self._expected[self._action]
        if result == expected:
            return case.to("equal")
        differs = [name for name in {**expected, **result} if result.get(name) != expected.get(name)]
        return case.to("silent", f"{self._action} succeeds with other {', '.join(differs)}")

    def mend(self) -> None:
        """Remove everything; the next case writes its run again."""
        for path in self._work.iterdir():
            if path.name != "stderr":
                write_entry(self._work, path.name, Special("missing"))


def _inside(rng: random.Random, name: str, data: bytes) -> tuple[bytes, str]:
    """An edit after which the file is well-formed and its own checksums match."""
    if name.endswith(".json"):
        return damage_json(rng, data)
    if name.endswith(".jsonl"):
        lines = data.splitlines(keepends=True)
        row = rng.randrange(len(lines))
        changed, text = damage_json(rng, lines[row])
        lines[row] = json.dumps(json.loads(changed)).encode() + b"\n"
        return b"".join(lines), f"line {row}: {text}"
    if name.endswith(".npz"):
        return _npz(rng, data)
    if name.endswith(".safetensors"):
        end = 8 + int.from_bytes(data[:8], "little")
        header, text = damage_json(rng, data[8:end])
        return len(header).to_bytes(8, "little") + header + data[end:], f"header: {text}"
    return damage_bytes(rng, data)


def _npz(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = rng.choice([*arrays, "depends_on", "depends_on"])
    array, what = arrays[name], rng.choice(("removed", "value", "value", "value", "shorter", "dtype"))
    if array.dtype.kind == "U" and array.ndim == 0:
        text, what = damage_json(rng, str(array).encode())
        arrays[name] = np.array(json.dumps(json.loads(text)))
    elif what == "removed":
        del arrays[name]
    elif what == "shorter" and array.ndim:
        arrays[name] = array[:-1]
    elif what == "dtype" and array.dtype.kind in "fiu":
        arrays[name] = array.astype(rng.choice(("float16", "int64", "float32", "complex64")))
    elif array.size:
        changed = array.copy().reshape(-1)
        at = rng.randrange(array.size)
        if array.dtype.kind == "U":
            changed[at] = str(changed[at])[::-1]
        else:
            changed[at] = rng.choice((0, 1, changed[at] + 1, changed[at] / 2))
        arrays[name], what = changed.reshape(array.shape), f"value {at} is {changed[at]}"
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **arrays)
    return out.getvalue(), f"array {name} {what}"


def _other_name(rng: random.Random, name: str) -> str:
    """The name with one digit changed, or with a suffix."""
    digits = [at for at, letter in enumerate(name) if letter.isdigit()]
    if digits and rng.random() < 0.8:
        at = rng.choice(digits)
        return f"{name[:at]}{rng.randrange(10)}{name[at + 1 :]}"
    return f"{name}{rng.choice(('.bak', '~', '.broken'))}"
