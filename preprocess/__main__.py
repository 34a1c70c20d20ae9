"""`python -m preprocess convert|verify|info|demo`: the commands behind `make zarr`, `verify`, `info`, `demo`."""

import os
from pathlib import Path

from preprocess.console import Parser, UserError, run
from preprocess.files import local_store

LABEL_FLAGS = {
    "--labels-format": "tags (default), list (JSON or Python), onehot (a column per class), long (a row per tag)",
    "--tags-separator": "between the tags of a field: a space (default), a comma, ; or |",
    "--name-column": "default: image_name",
    "--tags-column": "default: tags",
    "--csv-separator": "between the CSV's fields: a comma (default), ; | or tab",
}


def main() -> int:
    """Parse the arguments and run one command."""
    parser = Parser(prog="python -m preprocess", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    convert = commands.add_parser("convert", help="TIFFs and a CSV of tags -> a Zarr store")
    convert.add_argument("--data", type=Path, required=True, help="folder of TIFFs")
    convert.add_argument("--store", type=local_store, required=True, help="where the store goes")
    convert.add_argument("--labels", type=Path, help="CSV: image_name, tags")
    for flag, text in LABEL_FLAGS.items():
        convert.add_argument(flag, help=text)
    convert.add_argument("--preset", help="what is known of a published data set: planet")
    convert.add_argument("--bands", help="names in the files' order: blue,green,red,nir")
    convert.add_argument("--classes", help="in the order wanted, with commas; default: sorted")
    convert.add_argument("--codec", default="lz4", help="lz4 (default) or none")
    convert.add_argument("--axes", help="order of the stored dimensions: YXS or SYX; default: as the files say")
    convert.add_argument("--jobs", default=str(len(os.sched_getaffinity(0))), help="processes; default: cores")
    convert.add_argument("--allow-missing", action="store_true", help="leave out rows without a file")

    verify = commands.add_parser("verify", help="re-read a store and prove it whole")
    verify.add_argument("--store", type=local_store, required=True)
    verify.add_argument("--jobs", default=str(len(os.sched_getaffinity(0))), help="processes; default: cores")

    info = commands.add_parser("info", help="what is in a store")
    info.add_argument("--store", type=local_store, required=True)
    info.add_argument("--split", default="course", help="course, fractions or a .csv")

    demo = commands.add_parser("demo", help="make demo chips")
    demo.add_argument("--out", type=Path, required=True)
    demo.add_argument("--chips", type=int, default=900)
    demo.add_argument("--seed", type=int, default=0)

    args = parser.parse_args()
    # Each command imports what it needs: `--help` and refusals stay quick.
    if args.command == "convert":
        from preprocess.convert import convert as run_convert
        from preprocess.csv_rows import split_names
        from preprocess.labels import LabelSettings
        from preprocess.plan import Request

        classes = split_names("CLASSES", args.classes) if args.classes else None
        label_settings = LabelSettings.of(
            {
                "format": args.labels_format, "tags_separator": args.tags_separator, "name_column": args.name_column,
                "tags_column": args.tags_column, "csv_separator": args.csv_separator,
            }
        )  # fmt: skip
        run_convert(
            Request(
                data=args.data, store=args.store, labels=args.labels, label_settings=label_settings,
                preset=args.preset, bands=names(args.bands), classes=classes, codec=args.codec, axes=args.axes,
                jobs=integer("JOBS", args.jobs), allow_missing=args.allow_missing,
            )
        )  # fmt: skip
        return 0
    if args.command == "demo":
        from preprocess.demo import make_demo

        make_demo(args.out, num_chips=args.chips, seed=args.seed)
        return 0
    from preprocess import info as info_module
    from preprocess import verify as verify_module

    if args.command == "info":
        info_module.info(args.store, args.split)
        return 0
    return 1 if verify_module.verify(args.store, jobs=integer("JOBS", args.jobs)) else 0


def names(text: str | None) -> tuple[str, ...] | None:
    """ "a,b" -> ("a", "b"); nothing -> None."""
    return tuple(name.strip() for name in text.split(",")) if text else None


def integer(variable: str, text: str) -> int:
    """A whole number of at least 1, or a UserError that names the variable."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise UserError(f"{variable}={text}: expected a whole number, 1 or more.")
    return value


if __name__ == "__main__":
    run(main)
