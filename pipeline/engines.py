"""Which engine makes a loader's images: `ENGINES` says what each can do, `choose_engine` takes the first that fits.

In: a `View` (what a batch shows), a `Reading` (how it is made), the chips' layout. Out: a `Choice`, and the engine
itself (`make_engine`). Leaves the plans of an epoch to `plans`, labels to `loader`.

All engines make the same images: direct and dali to the bit on the CPU, and on a GPU within rounding. The table is
therefore in order of speed. On a CPU the direct engine comes first: 5,900 chips/s from LZ4 and 16,200 from CODEC=none,
where DALI's graph made 3,150 and 4,530 (docs/log.md).
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from pipeline.cache import device_values, host_reader
from pipeline.chunks import MAX_INFLATE_CHUNKS, ChunkReader
from pipeline.dali_source import ChipReader
from pipeline.direct import DirectEngine
from pipeline.gather import GatherEngine
from pipeline.plans import BatchPlan
from pipeline.view import CACHES, Reading, View
from preprocess.codecs import CODECS
from preprocess.console import ArgumentError, say_once
from preprocess.layout import Layout
from preprocess.zarr_store import Store


class Engine(Protocol):
    """Makes the images of planned batches. `device_bytes`: GPU memory that it takes at most, 0 on the CPU."""

    device_bytes: int

    def epoch(self, plans: Iterable[BatchPlan]) -> Iterator[tuple[BatchPlan, torch.Tensor]]:
        """Each plan with its images (B, channels, height, width), on the device, in channels-last memory."""

    def close(self) -> None:
        """End its threads."""


FLOAT32, FLOATS = (torch.float32,), (torch.float32, torch.float16)
RAW, KINDS = ("raw",), ("raw", "course")
CENTER, TESTS = (None, "center"), (None, "center", "resize")  # None: training
STORE, READER = ("store",), ("store", "files")
INFLATES = tuple(name for name, codec in CODECS.items() if codec.inflates)
FEW, MANY = range(MAX_INFLATE_CHUNKS + 1), range(sys.maxsize)


@dataclass(frozen=True, kw_only=True, eq=False)
class EngineRow:
    """One row of `ENGINES`: what an engine can do.

    device: makes the images. decode: LZ4 chunks are decoded on the "host" or the "device". cache: "none" reads the
    store in every epoch. source: "files" means that any `ChipReader` will do, such as that of `make predict`. chunks:
    LZ4 chunks in a batch.
    """

    engine: str
    device: str
    decode: str
    dtype: tuple[torch.dtype, ...]
    inputs: tuple[str, ...]
    test: tuple[str | None, ...]
    cache: tuple[str, ...]
    source: tuple[str, ...]
    codec: tuple[str, ...] = tuple(CODECS)
    chunks: range = MANY

    @property
    def name(self) -> str:
        """Engine, device and decode place."""
        return f"{self.engine} ({self.device}, decode on the {self.decode})"

    def missing(self, request: dict[str, Any]) -> dict[str, str]:
        """The columns of a request that this engine cannot do, each with what the engine needs, in words."""
        can = vars(self) | {"device": (self.device,), "decode": ("auto", self.decode), "engine": ("auto", self.engine)}
        return {column: _need(column, can[column]) for column, value in request.items() if value not in can[column]}


# The first row that can do all that is requested is chosen.
# fmt: off
ENGINES = (
    EngineRow(engine="gather", device="cuda", decode="host", dtype=FLOATS, inputs=RAW, test=CENTER,
              cache=("device",), source=STORE),
    EngineRow(engine="dali", device="cuda", decode="device", dtype=FLOATS, inputs=KINDS, test=TESTS,
              cache=("none",), source=STORE, codec=INFLATES, chunks=FEW),
    EngineRow(engine="dali", device="cuda", decode="host", dtype=FLOATS, inputs=KINDS, test=TESTS,
              cache=("none", "host"), source=READER),
    EngineRow(engine="direct", device="cpu", decode="host", dtype=FLOAT32, inputs=RAW, test=CENTER,
              cache=("none", "host"), source=STORE),
    EngineRow(engine="dali", device="cpu", decode="host", dtype=FLOATS, inputs=KINDS, test=TESTS,
              cache=("none", "host"), source=READER),
)
# fmt: on
_WORDS = {
    "cuda": "a GPU",
    "cpu": "the CPU",
    torch.float32: "float32 images",
    "raw": "raw inputs",
    "center": "no resizing",
    "lz4": "an LZ4 store",
    "store": "a store",
}
_CHUNKS = f"at most {MAX_INFLATE_CHUNKS:,} LZ4 chunks in a batch"


def _need(column: str, can: Any) -> str:
    if column == "chunks":
        return _CHUNKS
    values = [value for value in can if value not in ("auto", None)]
    return " or ".join(_WORDS.get(value, f"{column}={value}") for value in values)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The row of `ENGINES` that was chosen, and the cache, which may be smaller than requested.

    reasons: why the other rows were not chosen, by their names. notes: lines for the user.
    """

    row: EngineRow
    cache: str
    reasons: dict[str, str]
    notes: tuple[str, ...]


def choose_engine(view: View, reading: Reading, layout: Layout, batch_size: int, source: str = "store") -> Choice:
    """Choose from `ENGINES`. A cache that no engine can use falls back, from "device" to "host" to "none".

    `source`: "store", or "files" for chips from another reader.

    Raises:
        ArgumentError: the requested engine, or decode="device", cannot do the rest of the request.
    """
    chunks_per_chip = len(view.inputs.stored_bands) * layout.chunks_per_band
    request = {
        "engine": reading.engine, "device": reading.device.type, "decode": reading.decode, "dtype": view.dtype,
        "inputs": view.inputs.kind, "test": view.test, "source": source, "codec": layout.codec,
        "chunks": batch_size * chunks_per_chip,
    }  # fmt: skip
    largest = MAX_INFLATE_CHUNKS // chunks_per_chip
    limit = f"A batch of {batch_size} chips has {batch_size * chunks_per_chip:,}; {largest} chips fit"
    notes: list[str] = []
    for cache in CACHES[CACHES.index(reading.cache) :: -1]:
        missing = {row: row.missing(request | {"cache": cache}) for row in ENGINES}
        chosen = next((row for row in ENGINES if not missing[row]), None)
        if chosen is not None:
            if any(list(columns) == ["chunks"] for columns in missing.values()):
                notes.append(f"LZ4 is decoded on the host: decoding on the GPU needs {_CHUNKS}. {limit}.")
            reasons = {
                row.name: f"needs {_listed(columns)}" if columns else f"{chosen.name} comes first"
                for row, columns in missing.items()
                if row is not chosen
            }
            return Choice(row=chosen, cache=cache, reasons=reasons, notes=tuple(notes))
        if cache != "none":
            needs = min((missing[row] for row in ENGINES if cache in row.cache), key=len)
            smaller = CACHES[CACHES.index(cache) - 1]
            notes.append(f"cache={cache} needs {_listed(needs)}; using cache={smaller} instead.")
    argument = "decode" if reading.decode == "device" else "engine"
    needs = next(missing[row] for row in ENGINES if vars(row)[argument] == request[argument])
    text = f"needs {_listed(needs)}. {f'{limit}. ' if 'chunks' in needs else ''}Choose auto."
    raise ArgumentError(argument, request[argument], text)


def _listed(needs: dict[str, str]) -> str:
    *first, last = needs.values()
    return f"{', '.join(first)} and {last}" if first else last


def make_engine(source: Store | ChipReader, view: View, reading: Reading, batch_size: int) -> tuple[Engine, Choice]:
    """Choose an engine and make it. A cache that does not fit into memory falls back, too.

    Raises:
        ArgumentError: see `choose_engine`.
    """
    layout, kind = source.layout, "store" if isinstance(source, Store) else "files"
    while True:
        choice = choose_engine(view, reading, layout, batch_size, kind)
        for note in choice.notes:
            say_once(note)
        engine = _make(choice, source, view, reading, batch_size)
        if engine is not None:
            return engine, choice
        reading = replace(reading, cache=CACHES[CACHES.index(choice.cache) - 1])


def _make(
    choice: Choice, source: Store | ChipReader, view: View, reading: Reading, batch_size: int
) -> Engine | None:  # fmt: skip
    """The chosen engine; None if the chips do not fit into the cache."""
    bands, workers, layout = view.inputs.stored_bands, reading.workers, source.layout
    if choice.row.engine == "gather":
        assert isinstance(source, Store)  # its row says so
        values = device_values(source, bands, workers, reading.device)
        if values is None:
            return None
        return GatherEngine(values, view.inputs, crop=view.crop, dtype=view.dtype, nodata=layout.nodata)
    if not isinstance(source, Store):
        reader: ChipReader | None = source
    elif choice.cache == "none":
        reader = ChunkReader(source, bands, page_cache=reading.page_cache)
    else:
        reader = host_reader(source, bands, workers)
    if reader is None:
        return None
    if isinstance(reader, ChunkReader) and choice.row.engine == "direct":
        return DirectEngine(reader, view.inputs, batch_size=batch_size, crop=view.crop, workers=workers)
    # Imported here: it takes a second, which a CPU's first batch need not wait for.
    from pipeline.dali import DaliEngine
    from pipeline.graph import GraphSpec

    spec = GraphSpec(
        layout=reader.layout, inputs=view.inputs, crop=view.crop, flips=view.flips, test=view.test or "center",
        decode=choice.row.decode, dtype=str(view.dtype).removeprefix("torch."), batch_size=batch_size, threads=workers,
        device_id=reading.device.index if reading.device.type == "cuda" else None,
    )  # fmt: skip
    return DaliEngine(reader, spec, train=view.test is None)
