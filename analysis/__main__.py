"""`python -m analysis curves|reproduce|report|audit|predict|export`: the commands behind these Make targets."""

from pathlib import Path

from preprocess.console import Parser, run, say
from preprocess.files import local_store, store_place


def main() -> int:
    """Parse the arguments and run one command."""
    parser = Parser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    curves = commands.add_parser("curves", help="draw a run's losses and mAP")
    curves.add_argument("--run", type=Path, required=True)
    reproduce = commands.add_parser("reproduce", help="predict the test split again and compare")
    reproduce.add_argument("--run", type=Path, required=True)
    reproduce.add_argument("--store", type=store_place, help="if the store has moved")
    reproduce.add_argument("--gpu", help="another device than the run's: 0, cpu")
    report = commands.add_parser("report", help="one page about a run")
    report.add_argument("--run", type=Path, required=True)
    report.add_argument("--compare", default="", help="other runs, with commas: runs/task3,runs/task4")
    report.add_argument("--class", dest="wanted_class", help="whose best and worst chips; default: the highest AP")
    report.add_argument("--store", type=store_place, help="if the store has moved")
    audit = commands.add_parser("audit", help="what is odd about a store")
    audit.add_argument("--store", type=local_store, required=True)
    audit.add_argument("--labels", type=Path, help="the CSV it was made from: repeated tags")
    audit.add_argument("--jpeg", type=Path, help="folder of the chips' JPEGs")
    audit.add_argument("--run", type=Path, help="a run on it: the labels that its model doubts")
    audit.add_argument("--split", help="whose train and test are compared; default: the run's, else course")
    audit.add_argument("--exclusive", help="classes of which a chip has exactly one; default: the preset's")
    predict = commands.add_parser("predict", help="score a folder of TIFFs without labels")
    predict.add_argument("--run", type=Path, required=True)
    predict.add_argument("--data", type=Path, required=True, help="folder of TIFFs")
    predict.add_argument("--out", type=Path, default=Path("predictions.csv"))
    predict.add_argument("--bands", help="of the files, in their order; default: as in the run's store")
    predict.add_argument("--gpu", help="another device than the run's: 0, cpu")
    predict.add_argument("--tta", action="store_true", help="mean of the logits of all 8 symmetries")
    export = commands.add_parser("export", help="the network as ONNX and torch.export, raw chips in")
    export.add_argument("--run", type=Path, required=True)
    export.add_argument("--store", type=store_place, help="if the store has moved")
    args = parser.parse_args()
    # Each command imports what it needs: a report loads neither torch nor DALI.
    if args.command == "report":
        from analysis.report import report as make_report

        others = tuple(Path(name.strip()) for name in args.compare.split(",") if name.strip())
        make_report(args.run, compare=others, class_name=args.wanted_class, store_path=args.store)
        return 0
    if args.command == "audit":
        from analysis.audit import audit as look_through
        from preprocess.csv_rows import split_names

        exclusive = split_names("EXCLUSIVE", args.exclusive) if args.exclusive else None
        look_through(
            args.store,
            labels=args.labels,
            jpeg=args.jpeg,
            run_path=args.run,
            split_rule=args.split,
            exclusive=exclusive,
        )
        return 0
    if args.command == "predict":
        from analysis.predict import predict as score

        bands = tuple(band.strip() for band in args.bands.split(",")) if args.bands else None
        return 1 if score(args.run, args.data, args.out, bands=bands, gpu=args.gpu, tta=args.tta) else 0
    if args.command == "export":
        from analysis.export import export as write_network

        write_network(args.run, store_path=args.store)
        return 0
    if args.command == "curves":
        from analysis.curves import draw_curves

        say(f"{draw_curves(args.run)}: learning curve")
        return 0
    from analysis.reproduce import reproduce as run_again

    return 0 if run_again(args.run, store=args.store, gpu=args.gpu) else 1


if __name__ == "__main__":
    run(main)
