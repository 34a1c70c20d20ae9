"""`python -m bench --mode MODE`: interleaved rounds, a table, and a JSON record under bench/results/.

loader   batches: ours, the baseline, and the peers that need nothing installed
peers    the same with every peer library (`make bench MODE=peers` installs them)
io       stored bytes to decoded chips          convert  TIFFs to a store
model    a train step on one resident batch     e2e      the real loader under the real step; GPUs fed
scale    1,000, 10,000 and 100,000 chips
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import record
from bench.chips import NUM_CHIPS, make_chips
from bench.work import Work
from preprocess.console import Parser, UserError, run, say
from preprocess.files import local_store

MODES = ("loader", "peers", "io", "convert", "model", "e2e", "scale")
_STORE_MODES = ("loader", "io")


def main() -> int:
    """Make the chips, run one mode, print and keep the result."""
    parser = Parser(prog="python -m bench", description="A table and a JSON record of how fast this machine is.")
    parser.add_argument("--mode", default="loader", help=", ".join(MODES))
    parser.add_argument("--rounds", default="5", help="interleaved rounds; medians are reported")
    parser.add_argument("--store", type=local_store, help="your own store, for modes " + " and ".join(_STORE_MODES))
    parser.add_argument(
        "--rows", default="", help="only these rows of loader and peers: canopy-lz4,dataloader-tifffile"
    )
    parser.add_argument("--data", type=Path, default=Path("bench/data"), help="where the chips are made and kept")
    parser.add_argument("--chips", type=int, default=NUM_CHIPS, help="how many; another number wants another --data")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="where the record goes")
    args = parser.parse_args()
    if args.mode not in MODES:
        raise UserError(f"MODE={args.mode}: expected one of {', '.join(MODES)}.")
    if not args.rounds.isdecimal() or int(args.rounds) < 1:
        raise UserError(f"ROUNDS={args.rounds}: expected a number, 1 or more.")
    if args.store and args.mode not in _STORE_MODES:
        raise UserError(f"STORE is for MODE={' or '.join(_STORE_MODES)}; MODE={args.mode} makes its own chips.")
    rounds = int(args.rounds)
    result = {**record.conditions(args.mode), "rounds": rounds, **_run(args.mode, rounds, args)}
    print(record.table(result))
    say(f"{record.write(result, args.results)}: record")
    return 0


def _run(mode: str, rounds: int, args: Any) -> dict[str, Any]:
    if mode in ("model", "scale"):
        if mode == "model":
            from bench.model import run as model

            return model(rounds)
        from bench.scale import run as scale

        return scale(args.data / "scale", rounds)
    work = _own_store(args.store) if args.store else make_chips(args.data, args.chips)
    what = {"chips": work.store().num_chips, "store": str(args.store or "")}
    return {**what, **_on_chips(mode, tuple(filter(None, args.rows.split(","))))(work, rounds)}


def _on_chips(mode: str, only: tuple[str, ...]) -> Callable[[Work, int], dict[str, Any]]:
    if mode in ("loader", "peers"):
        from bench.loader import run as loader

        return lambda work, rounds: loader(work, rounds, peers=mode == "peers", only=only)
    if mode == "e2e":
        from bench.e2e import run as e2e

        return e2e
    from bench.storage import run as storage

    return lambda work, rounds: storage(mode, work, rounds)


def _own_store(path: Path) -> Work:
    from preprocess.zarr_store import open_store

    store = open_store(path)
    layout = store.layout
    say(f"{path}: {store.num_chips} chips; without their TIFFs there is no baseline, so no ratio.")
    return Work(
        folder=path.parent, stores={layout.codec: path}, tif=None, bands=layout.bands,
        height=layout.height, width=layout.width,
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
