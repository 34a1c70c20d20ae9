"""`python -m train`: train one task on a store. `make train TASK=1` is the same with less to type."""

import argparse
import math
import re
from pathlib import Path
from typing import Any

from preprocess.console import Parser, UserError, run, say
from preprocess.files import store_place
from preprocess.setting_specs import specs
from train.config import RUNTIME_SETTINGS, TASK_2, Config, check_effect, make_config
from train.flags import FLAGS
from train.recipes import RECIPES


def main() -> int:
    """Parse, check, train."""
    parser = Parser(prog="python -m train", description=__doc__)
    parser.add_argument("--task", help="1: RGB, 3: RGB and NIR in two trunks, 4: RGB + NIR in one")
    parser.add_argument("--store", type=store_place, help="made by `make zarr`")
    parser.add_argument("--run", help="folder of the run; default: the next free runs/task<N>")
    parser.add_argument("--resume", type=Path, help="folder of a run that was stopped: go on with it")
    parser.add_argument("--recipe", help=f"default, {', '.join(name for name in RECIPES if name != 'default')}")
    for flag, _, _, text in FLAGS:
        parser.add_argument(flag, help=text)
    parser.add_argument("--set", default="", help="other settings of the recipe: 'ema=0.999 optimizer=sgd'")
    parser.add_argument("--deterministic", action="store_true", help="GPU kernels that repeat to the bit, slower")
    parser.add_argument(
        "--shuffle-labels", action="store_true", help="control: labels in random order within each part"
    )
    parser.add_argument("--run-file", type=Path, help="write the run's folder there (for scripts)")
    args = parser.parse_args()
    if args.task == "2":
        say(TASK_2)
        return 0
    config = _resumed_config(args) if args.resume else _config(args)

    # Checked so far: words and numbers. Then the store and the run's name; torch and DALI load only after that.
    from train.run_folder import check_free

    check_free(args.run)
    from train.start import start

    return start(config, args.run, args.resume, args.run_file)


def _config(args: argparse.Namespace) -> Config:
    if args.task is None or args.store is None:
        raise UserError("--task and --store are needed (or --resume). See `python -m train --help`.")
    settings: dict[str, Any] = {"task": _read("task", int, args.task)}
    settings |= _given(args)
    if settings.get("split", "").endswith(".csv"):
        settings["split"] = str(Path(settings["split"]).resolve())
    if settings.get("weights", "").endswith(".safetensors"):
        settings["weights"] = str(Path(settings["weights"]).resolve())
    settings |= {"deterministic": args.deterministic, "shuffle_labels": args.shuffle_labels}
    return make_config(args.recipe or "default", **settings)


def _resumed_config(args: argparse.Namespace) -> Config:
    """The run's own configuration; only where it is computed may change."""
    from train.contract.record import read_record

    record = read_record(args.resume)
    if record.state == "done":
        raise UserError(f"RESUME={args.resume}: the run is done. `make reproduce RUN={args.resume}` checks it.")
    given = _given(args) | {name: True for name in ("deterministic", "shuffle_labels") if getattr(args, name)}
    given |= {name: getattr(args, name) for name in ("task", "run", "recipe") if getattr(args, name) is not None}
    if fixed := [name.upper() for name in given if name not in RUNTIME_SETTINGS]:
        may = ", ".join(name.upper() for name in RUNTIME_SETTINGS if name != "gpu_given")
        raise UserError(f"{', '.join(fixed)}: set by RESUME={args.resume}. With RESUME only {may} can be given.")
    config = record.config.replace(**given)
    check_effect(config, given)
    return config


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Settings on the command line, as their fields want them."""
    settings: dict[str, Any] = {"store": args.store} if args.store else {}
    for _, name, kind, _ in FLAGS:
        text = getattr(args, name)
        if text is not None:
            settings[name] = _read(name, kind, text)
    if "gpu" in settings:
        settings["gpu_given"] = True
    # What has a variable or a flag of its own is set by that.
    own = {
        "task",
        "store",
        "recipe",
        "deterministic",
        "shuffle_labels",
        "gpu_given",
        *(name for _, name, _, _ in FLAGS),
    }
    kinds = {name: spec.kind for name, spec in specs(Config).items() if name not in own}
    for word in args.set.split():
        name, equals, text = word.partition("=")
        if not equals or name not in kinds or name in settings:  # or given twice
            raise UserError(f"SET={word}: expected name=value, the name of a setting that has no variable of its own.")
        settings[name] = _read(name, kinds[name], text)
    return settings


def _read(name: str, kind: Any, text: str) -> Any:
    if kind is bool:
        kind = {"0": False, "1": True}.__getitem__
    try:
        # Python also reads 1_000, blanks around a number and other scripts' digits.
        if kind in (int, float) and not re.fullmatch(r"[-+.0-9a-zA-Z]+", text):
            raise ValueError
        value = kind(text)
        if value in (math.inf, -math.inf):  # 1e400
            raise ValueError
        return value
    except (KeyError, ValueError):
        raise UserError(f"{name.upper()}={text}: expected a number.") from None


if __name__ == "__main__":
    run(main)
