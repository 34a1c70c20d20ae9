"""The commands that measure this machine and prove the program: their settings, and what runs them.

To add a setting, add a field here and use it where it acts. Imports nothing heavy before a command runs.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from preprocess.console import UserError
from preprocess.settings import Settings, setting

STORE_MODES = ("loader", "io")
ROWS_MODES = ("loader", "peers")


class BenchSettings(Settings):
    """A measurement: interleaved rounds, a table, and a record."""

    mode: Literal["loader", "peers", "io", "convert", "model", "e2e", "scale", "shapes", "cold"] = setting(
        "loader",
        "loader: batches, against a baseline. peers: against other libraries, which are installed into .venv-peers "
        "(1.3 GB). io: stored bytes to decoded chips. convert: TIFFs to a store. model: training steps on one batch in "
        "memory. e2e: loader and steps together. scale: speed, memory and first batch with 1,000 to 100,000 chips. "
        "shapes: batches of chips of 32 to 1024 pixels and four dtypes, against a baseline. cold: batches with an "
        "empty page cache, and from object storage with a latency of 20 ms, against batches with a full page cache.",
    )
    rounds: int = setting(
        5, "Number of rounds. In each round all rows are measured in turn; medians are reported.", ge=1, le=1000
    )
    rows: tuple[str, ...] = setting(
        (),
        "With MODE=loader or peers: measure only these rows.",
        hint="canopy-lz4,dataloader-tifffile",
        default_text="all",
    )
    store: Path | None = setting(None, "Your own store, for MODE=loader and MODE=io.", hint="folder")
    data: Path = setting(Path("bench/data"), "Folder where the chips are made and kept.", hint="folder")
    chips: int = setting(2048, "Number of chips. If you change it, choose a new DATA folder, too.", ge=1, le=1_000_000)
    results: Path = setting(Path("bench/results"), "Folder of the records.", hint="folder")

    @model_validator(mode="after")
    def _store_is_used(self) -> Self:
        if self.store and self.mode not in STORE_MODES:
            raise UserError(
                f"STORE has no effect with MODE={self.mode}, which makes its own chips. It is for MODE=loader and "
                "MODE=io."
            )
        return self


class BenchReportSettings(Settings):
    """Pictures of the newest records."""

    results: Path = setting(Path("bench/results"), "Folder of the records.", hint="folder")
    out: Path = setting(Path("docs/results"), "Folder of the pictures.", hint="folder")


class GpuCheckSettings(Settings):
    """The check of the GPU. It has no settings."""


class SoakSettings(Settings):
    """A test that kills a run at random moments."""

    kills: int = setting(200, "How often the run is killed.", ge=1, le=1_000_000)
    seed: int = setting(0, "Seed of the random moments at which the run is killed.", ge=0, le=2**63 - 1)


class FuzzSettings(Settings):
    """A test that damages files."""

    seconds: float = setting(60.0, "How long it runs.", gt=0, le=1e6)
    seed: int | None = setting(
        None, "Seed of the random damage.", ge=0, le=2**63 - 1, default_text="a new random seed each time"
    )
    only: tuple[str, ...] = setting((), "Damage only these kinds of files.", hint="tiffs,csvs", default_text="all")
    count: int | None = setting(None, "Cases of each kind, in place of SECONDS.", ge=1, le=1_000_000)
    jobs: int = setting(len(os.sched_getaffinity(0)), "Number of worker processes.", ge=1, default_text="one per core")
    case: str | None = setting(None, "Run this one case again, in the main process.", hint="kind:seed:number")
    keep: Path = setting(Path("fuzz-cases"), "Folder of the cases that went wrong.", hint="folder")
    fault: str | None = setting(
        None,
        "A test of fuzz itself: put this fault of fuzz.faults into the program. fuzz must then report bad cases.",
        hint="name",
    )


def bench(settings: BenchSettings) -> int:
    """Measure this machine."""
    if settings.mode == "peers":
        from bench.environments import install

        install()
    from bench.modes import measure

    measure(settings)
    return 0


def bench_report(settings: BenchReportSettings) -> int:
    """Draw the newest records."""
    from bench.report import draw

    draw(settings)
    return 0


def gpu_check(settings: GpuCheckSettings) -> int:
    """Check the GPU; 1 if something is wrong."""
    from bench.gpu_check import main

    return main()


def soak(settings: SoakSettings) -> int:
    """Kill a run at random moments."""
    _import_tests()
    main = importlib.import_module("soak").main
    return int(main(settings))


def fuzz(settings: FuzzSettings) -> int:
    """Damage files; 1 if one was read as something else."""
    _import_tests()
    main = importlib.import_module("fuzz.__main__").main
    return int(main(settings))


def _import_tests() -> None:
    """Let this process and its children import what lies in tests/."""
    folder = str(Path(__file__).resolve().parents[1] / "tests")
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
