"""The files of a prediction: scores, Kaggle's form, bounds, GeoJSON, bad files.

In: the finished blocks in OUT.partial, which `predict` writes. Out: the files, each written in OUT.partial and renamed;
OUT comes last. Reads one block at a time.
"""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from analysis import f2_thresholds
from analysis.chip_folder import Files
from analysis.finished_run import Run
from analysis.geojson import GeoJsonWriter
from analysis.tables import CsvWriter, tags_form
from preprocess.console import UserError, say
from preprocess.georeference import bounds
from preprocess.layout import Layout
from preprocess.zarr_store import write_atomic
from train.metrics import probabilities

MAX_LINES = 20  # of bad files on the terminal; OUT_bad.csv has all of them


@dataclass(frozen=True, kw_only=True)
class Output:
    """Files of a prediction: scores, Kaggle's form, bounds, GeoJSON (None: not asked for), bad files, and the folder of
    finished blocks."""

    scores: Path
    submission: Path
    bounds: Path
    geojson: Path | None
    bad: Path
    partial: Path


def output_files(out: Path, *, geojson: bool = False) -> Output:
    """The files that belong to OUT.

    Raises:
        UserError: OUT or another of its files exists. The others without OUT but with OUT.partial come from a stopped
            prediction and are overwritten.
    """
    output = Output(
        scores=out,
        submission=out.with_name(f"{out.stem}_submission{out.suffix}"),
        bounds=out.with_name(f"{out.stem}_bounds{out.suffix}"),
        geojson=out.with_name(f"{out.stem}.geojson") if geojson else None,
        bad=out.with_name(f"{out.stem}_bad{out.suffix}"),
        partial=out.with_name(out.name + ".partial"),
    )
    if output.geojson == out:
        raise UserError(f"OUT={out}: expected a CSV; GEOJSON=1 writes the GeoJSON beside it. Use OUT={out.stem}.csv.")
    others = [output.submission, output.bounds, *([output.geojson] if output.geojson else [])]
    for path in [output.scores, *([] if output.partial.exists() else others)]:
        if path.exists():
            raise UserError(f"OUT={out}: {path} exists. Choose another OUT, or remove the file.")
    return output


def finish(output: Output, run: Run, files: Files, layout: Layout, num_blocks: int) -> int:
    """Join the blocks into the files, block by block, and remove OUT.partial. Returns the number of bad files.

    Raises:
        UserError: every file is bad. Only the list of bad files is written.
    """
    tuning, _ = f2_thresholds.halves(len(run.labels))
    thresholds = f2_thresholds.tune(run.labels[tuning], run.logits[tuning])
    _, how = tags_form(run.classes)
    with contextlib.ExitStack() as stack:
        writer = _Writer(output, run.classes, layout, stack)
        for number in range(num_blocks):
            writer.add_block(_read(output, number), files.names, thresholds.values)
        writer.end()
    if writer.bad:
        _report_bad(output, writer.bad)
        if len(writer.bad) == len(files.names):  # OUT would refuse the next try, and it would hold no score
            shutil.rmtree(output.partial)
            raise UserError(
                f"{output.scores}: not written, because none of the {len(files.names)} files could be used. "
                f"{output.bad} has the reasons. Correct the files or DATA, and run the same command again."
            )
    else:
        output.bad.unlink(missing_ok=True)  # from an earlier prediction with this OUT
    located = writer.num_located > 0
    beside = [output.submission]
    if located:
        beside += [output.bounds, *([output.geojson] if output.geojson else [])]
    for path in (*beside, output.scores):  # OUT last: if it exists, all of the prediction does
        os.replace(output.partial / path.name, path)
    shutil.rmtree(output.partial)
    good = len(files.names) - len(writer.bad)
    say(f"{output.scores}: scores of {good} chips; {output.submission}: their tags at the thresholds tuned for F2{how}")
    for line in _place_lines(output, writer):
        say(line)
    return len(writer.bad)


@dataclass(frozen=True, kw_only=True)
class _Block:
    """(chips, classes) logits; reasons of bad chips and [crs, *transform] of chips with a place, by number."""

    logits: np.ndarray
    bad: dict[int, str]
    places: dict[int, list[Any]]


def _read(output: Output, number: int) -> _Block:
    with np.load(output.partial / f"{number}.npz", allow_pickle=False) as file:
        bad, places = (json.loads(str(file[name])) for name in ("bad", "places"))
        return _Block(
            logits=file["logits"], bad={int(chip): reason for chip, reason in bad.items()},
            places={int(chip): place for chip, place in places.items()},
        )  # fmt: skip


class _Writer:
    """Writes rows into temporary files in OUT.partial, which is removed as a whole: a kill here leaves nothing else."""

    def __init__(self, output: Output, classes: tuple[str, ...], layout: Layout, stack: contextlib.ExitStack) -> None:
        def open_text(path: Path) -> TextIO:
            file = open(output.partial / path.name, "w", newline="", encoding="utf-8")  # noqa: SIM115
            return stack.enter_context(file)

        self._classes, self._size = np.array(classes), (layout.height, layout.width)
        self._join_tags, _ = tags_form(classes)
        self._scores, self._form, self._bounds = (
            CsvWriter(open_text(path)) for path in (output.scores, output.submission, output.bounds)
        )
        self.geojson = GeoJsonWriter(open_text(output.geojson)) if output.geojson else None
        self._keys = [f"{name} (score)" if name in ("image_name", "tags") else name for name in classes]
        # A class called image_name would replace the chip's name in readers that know columns by their names.
        columns = [f"{name} (score)" if name == "image_name" else name for name in classes]
        self._scores.writerow(["image_name", *columns])
        self._form.writerow(["image_name", "tags"])
        self._bounds.writerow(["image_name", "crs", "left", "bottom", "right", "top"])
        self._first = 0
        self.bad: list[tuple[str, str]] = []
        self.num_located = 0

    def add_block(self, block: _Block, names: Sequence[str], thresholds: np.ndarray) -> None:
        """Add the chips of a block, which follow those of the block before."""
        values, predicted = probabilities(block.logits), block.logits > thresholds
        for row in range(len(block.logits)):
            chip = self._first + row
            if chip in block.bad:
                self.bad.append((names[chip], block.bad[chip]))
                continue
            # Python writes the shortest text that reads back as the same float64.
            scores, tags = values[row].tolist(), self._join_tags(self._classes[predicted[row]].tolist())
            self._scores.writerow([names[chip], *scores])
            self._form.writerow([names[chip], tags])
            if chip in block.places:
                self._add_place(names[chip], block.places[chip], scores, tags)
        self._first += len(block.logits)

    def _add_place(self, name: str, place: list[Any], scores: list[float], tags: str) -> None:
        crs, *transform = place
        self._bounds.writerow([name, crs, *bounds(transform, *self._size)])
        self.num_located += 1
        if self.geojson:
            properties = {"image_name": name, "tags": tags, **dict(zip(self._keys, scores, strict=True))}
            self.geojson.add(crs, transform, *self._size, properties)

    def end(self) -> None:
        """Write what is missing at the end."""
        if self.geojson:
            self.geojson.close()


def _place_lines(output: Output, writer: _Writer) -> Iterator[str]:
    if writer.num_located:
        yield f"{output.bounds}: where {writer.num_located} of these chips lie, in the coordinates of their files"
    if writer.geojson:
        if not writer.num_located:
            yield f"{output.geojson}: not written, because no file says where it lies"
            return
        yield f"{output.geojson}: polygons of {writer.geojson.count} chips, with their scores and tags"
        if line := writer.geojson.left_out_line():
            yield f"{output.geojson}: {line}"


def _report_bad(output: Output, bad: list[tuple[str, str]]) -> None:
    text = io.StringIO()
    CsvWriter(text).writerows([("image_name", "reason"), *bad])
    write_atomic(output.bad, text.getvalue().encode())
    for _, reason in bad[:MAX_LINES]:
        say(f"bad: {reason}")
    say(f"{output.bad}: {len(bad)} files could not be used and were skipped")
