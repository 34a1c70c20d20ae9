"""`python -m analysis curves|reproduce|report`: the commands behind the Make targets of these names."""

from pathlib import Path

from preprocess.console import Parser, run, say


def main() -> int:
    """Parse the arguments and run one command."""
    parser = Parser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    curves = commands.add_parser("curves", help="draw a run's losses and mAP")
    curves.add_argument("--run", type=Path, required=True)
    reproduce = commands.add_parser("reproduce", help="predict the test part again and compare")
    reproduce.add_argument("--run", type=Path, required=True)
    reproduce.add_argument("--store", type=Path, help="if the store has moved")
    reproduce.add_argument("--gpu", help="another device than the run's: 0, cpu")
    report = commands.add_parser("report", help="one page about a run")
    report.add_argument("--run", type=Path, required=True)
    report.add_argument("--compare", default="", help="other runs, with commas: runs/task3,runs/task4")
    report.add_argument("--class", dest="wanted_class", help="whose best and worst chips; default: the highest AP")
    report.add_argument("--store", type=Path, help="if the store has moved")
    args = parser.parse_args()
    # Each command imports what it needs: a report loads neither torch nor DALI.
    if args.command == "report":
        from analysis.report import report as make_report

        others = tuple(Path(name.strip()) for name in args.compare.split(",") if name.strip())
        make_report(args.run, compare=others, wanted_class=args.wanted_class, store_path=args.store)
        return 0
    if args.command == "curves":
        from analysis.curves import draw_curves

        say(f"{draw_curves(args.run)}: learning curve")
        return 0
    from analysis.reproduce import reproduce as run_again

    return 0 if run_again(args.run, store=args.store, gpu=args.gpu) else 1


if __name__ == "__main__":
    run(main)
