"""One mode of `make bench`: chips, interleaved rounds, a table, and a JSON record.

In: `BenchSettings`. Out: the table on the terminal and a record below RESULTS. Leaves each mode to its own module.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import record
from bench.chips import make_chips
from bench.commands import BenchSettings
from bench.work import Work
from preprocess.console import say


def measure(settings: BenchSettings) -> None:
    """Make the chips, run one mode, print and keep the result."""
    result = {**record.conditions(settings.mode), "rounds": settings.rounds, **_run(settings)}
    print(_table(result))
    say(f"{record.write(result, settings.results)}: record")


def _table(result: dict[str, Any]) -> str:
    if result["mode"] == "shapes":
        from bench.shapes import table as shapes

        return shapes(result)
    if result["mode"] == "cold":
        from bench.cold import table as cold

        return cold(result)
    return record.table(result)


def _run(settings: BenchSettings) -> dict[str, Any]:
    mode, rounds = settings.mode, settings.rounds
    if mode == "model":
        from bench.model import run as model

        return model(rounds)
    if mode == "scale":
        from bench.scale import run as scale

        return scale(settings.data / "scale", rounds)
    if mode == "shapes":
        from bench.shapes import run as shapes

        return shapes(settings.data / "shapes", rounds)
    work = _own_store(settings.store) if settings.store else make_chips(settings.data, settings.chips)
    what = {"chips": work.store().num_chips, "store": str(settings.store or "")}
    return {**what, **_on_chips(mode, settings.rows)(work, rounds)}


def _on_chips(mode: str, only: tuple[str, ...]) -> Callable[[Work, int], dict[str, Any]]:
    if mode in ("loader", "peers"):
        from bench.loader import run as loader

        return lambda work, rounds: loader(work, rounds, peers=mode == "peers", only=only)
    if mode == "e2e":
        from bench.e2e import run as e2e

        return e2e
    if mode == "cold":
        from bench.cold import run as cold

        return cold
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
