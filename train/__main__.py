"""`python -m train`: train one task on a store. `make train TASK=1 GPU=0` is the same with less to type."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from preprocess.console import Parser, UserError, run, say
from train.config import RECIPES, TASK_2, Config, make_config

# (flag, field of Config, how its text is read, help). What is not here is set by the recipe.
_FLAGS = (
    ("--gpu", "gpu", str, "0 (default), 0,1, or cpu"),
    ("--arch", "arch", str, "resnet18 (default) ... wide_resnet50_2"),
    ("--weights", "weights", str, "imagenet, none or a .safetensors file; default: imagenet where it can be had"),
    ("--finetune", "finetune", str, "full (default) or head"),
    ("--input", "input", str, "raw (default) or course"),
    ("--split", "split", str, "course (default), fractions such as 0.7,0.1,0.2@seed, or a .csv of image_name,part"),
    ("--val", "val", float, "fraction of train to choose the best epoch on; default 0: chosen on test"),
    ("--seed", "seed", int, "of order, augmentation and initial weights; default 0"),
    ("--test", "test", str, "center (default) or resize"),
    ("--crop", "crop", int, "pixels a side; default 7/8 of the chip"),
    ("--flips", "flips", str, "none, horizontal, both or dihedral"),
    ("--amp", "amp", str, "auto (default), off, bf16 or fp16"),
    ("--epochs", "epochs", int, ""),
    ("--batch", "batch", int, "chips a step"),
    ("--lr", "lr", float, "highest learning rate"),
    ("--loss", "loss", str, "bce (default) or soft_margin"),
    ("--workers", "workers", int, "reading threads; default: cores, at most 8"),
)


def main() -> int:
    """Parse, check, train."""
    parser = Parser(prog="python -m train", description=__doc__)
    parser.add_argument("--task", required=True, help="1: RGB, 3: RGB and NIR in two trunks, 4: RGB + NIR in one")
    parser.add_argument("--store", type=Path, required=True, help="made by `make zarr`")
    parser.add_argument("--run", help="folder of the run; default: the next free runs/task<N>")
    parser.add_argument("--recipe", default="default", help=", ".join(RECIPES))
    for flag, _, _, text in _FLAGS:
        parser.add_argument(flag, help=text)
    parser.add_argument("--deterministic", action="store_true", help="GPU kernels that repeat to the bit, slower")
    parser.add_argument(
        "--shuffle-labels", action="store_true", help="control: labels in random order within each part"
    )
    parser.add_argument("--run-file", type=Path, help="write the run's folder there (for scripts)")
    args = parser.parse_args()
    if args.task == "2":
        say(TASK_2)
        return 0
    config = _config(args)

    # Checked so far: words and numbers. Then the store and the run's name; torch and DALI load only after that.
    from train.runfolder import check_free

    check_free(args.run)
    from train.assemble import open_data

    data = open_data(config)
    from train.device import choose_device
    from train.loop import fit

    folder = fit(config, data, choose_device(config), args.run)
    if args.run_file:
        args.run_file.write_text(f"{folder}\n")
    check = f"make reproduce RUN={shlex.quote(str(folder))}"
    say(f"{folder}: model.safetensors, results.npz, metrics.jsonl, run.json. Check it: {check}")
    return 0


def _config(args: argparse.Namespace) -> Config:
    settings: dict[str, Any] = {"task": _read("task", int, args.task), "store": str(args.store.resolve())}
    for _, name, kind, _ in _FLAGS:
        text = getattr(args, name)
        if text is not None:
            settings[name] = _read(name, kind, text)
    if settings.get("split", "").endswith(".csv"):
        settings["split"] = str(Path(settings["split"]).resolve())
    if settings.get("weights", "").endswith(".safetensors"):
        settings["weights"] = str(Path(settings["weights"]).resolve())
    settings |= {"deterministic": args.deterministic, "shuffle_labels": args.shuffle_labels}
    return make_config(args.recipe, **settings)


def _read(name: str, kind: type, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{name.upper()}={text}: expected a number.") from None


if __name__ == "__main__":
    run(main)
