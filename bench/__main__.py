"""`python -m bench --mode loader|io|convert`: interleaved rounds, a table, and a JSON record under bench/results/."""

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import record
from bench.chips import BANDS, make_chips
from preprocess.console import Parser, UserError, run, say

MODES = ("loader", "io", "convert")


def main() -> int:
    """Make the chips, run one mode, print and keep the result."""
    parser = Parser(prog="python -m bench", description=__doc__)
    parser.add_argument("--mode", default="loader", help=", ".join(MODES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path("bench/data"), help="where the chips are made and kept")
    args = parser.parse_args()
    if args.mode not in MODES:
        raise UserError(f"MODE={args.mode}: expected one of {', '.join(MODES)}.")
    make_chips(args.data)
    result = {**record.conditions(args.mode), "rounds": args.rounds}
    result |= loader(args.data, args.rounds) if args.mode == "loader" else storage(args.mode, args.data, args.rounds)
    print(record.table(result))
    say(f"{record.write(result)}: record")
    return 0


def storage(mode: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Modes io and convert: a dictionary of rates a round."""
    from bench.storage import convert_round, io_round

    work = io_round if mode == "io" else convert_round
    work(folder, 0)  # warm-up
    samples = [work(folder, number) for number in range(1, rounds + 1)]
    rows: list[dict[str, Any]] = []
    for name in samples[0]:
        rates = [sample[name] for sample in samples]
        rows.append({"name": name, "chips_per_s": statistics.median(rates), "samples": rates})
    median = {row["name"]: row["chips_per_s"] for row in rows}
    for row in rows:
        codec = str(row["name"]).rsplit("-", 1)[-1]
        own = f"zarr-python-{codec}" if mode == "io" else "zarr-python"
        row["ratio_to_zarr_python"] = row["chips_per_s"] / median[own]
        if mode == "convert":
            row["share_of_limit"] = row["chips_per_s"] / median["limit"]
    return {"rows": rows}


def loader(folder: Path, rounds: int) -> dict[str, Any]:
    """Mode loader: rows in their own processes, interleaved, with the machine's limits probed in every round."""
    from bench.limits import probe, speed_of_light
    from bench.measure import ALL, Process
    from bench.rows import BASELINE, CROP
    from preprocess import schema
    from preprocess.schema import open_store

    processes, limits = [], []
    try:
        for name in ALL:
            processes.append(Process(name, folder))
            say(f"{name}: {processes[-1].timed.workers} workers are its best")
        for number in range(rounds):
            limits.append(probe(folder / "lz4.zarr"))
            for process in processes:
                process.round(number)
    finally:
        for process in processes:
            process.close()
    cores = record.conditions("loader")["cores"]
    baseline = next(process.timed.median for process in processes if process.timed.name == BASELINE)
    rows = []
    for process in processes:
        timed, row = process.timed, ALL[process.timed.name]
        r_sol = None
        if row.codec is not None:
            store = open_store(folder / f"{row.codec}.zarr")
            share = len(row.bands) / len(BANDS)
            stored = schema.encoded_bytes(store.local_path, store.layout, store.num_tiles) / store.num_tiles * share
            pixels = CROP[0] * CROP[1] * len(row.bands)
            sol = [
                speed_of_light(
                    limit, stored=stored, raw=store.layout.tile_bytes * share, crop_in=2 * pixels, out=4 * pixels,
                    inflate=row.codec == "lz4",
                )
                for limit in limits
            ]  # fmt: skip
            r_sol = statistics.median(
                rate / (cores * light) for rate, light in zip(timed.chips_per_s, sol, strict=True)
            )
        rows.append(
            {
                "name": timed.name,
                "chips_per_s": timed.median,
                "ratio": timed.median / baseline,
                "r_sol": r_sol,
                "cpu_s_per_1000": statistics.median(timed.cpu_s_per_1000),
                "peak_mib": timed.peak_mib,
                "first_batch_s": timed.first_batch_s,
                "workers": timed.workers,
                "samples": timed.chips_per_s,
                "cpu_samples": timed.cpu_s_per_1000,
            }
        )
    return {"limits": [asdict(limit) for limit in limits], "rows": rows}


if __name__ == "__main__":
    run(main)
