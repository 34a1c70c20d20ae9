"""Plan a conversion: check and decide everything that needs no pixels.

In: the user's `ConversionSettings`. Out: a `Plan` that fixes every byte of the store, and the part of it that worker
processes need. Leaves the work, and resuming it, to `convert`.
"""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from preprocess.addresses import Location, is_url
from preprocess.chip_reader import ChipFiles
from preprocess.commands import ConversionSettings
from preprocess.console import UserError, one_line
from preprocess.csv_rows import csv_line
from preprocess.file_matching import Files, match_files
from preprocess.file_patterns import FilePattern, read_pattern
from preprocess.first_chip import FirstChip, read_first, read_first_raster
from preprocess.header import version_of
from preprocess.label_settings import LabelSettings
from preprocess.labels import LabelTable, read_labels
from preprocess.layout import Layout, plan_layout
from preprocess.nodata import nodata_text
from preprocess.packed_texts import PackedTexts, json_digest
from preprocess.pattern_matching import match_pattern
from preprocess.plan_file import WorkPlan
from preprocess.preset_settings import with_preset
from preprocess.sources import etags_of, forget_objects
from preprocess.suffixes import FOLDERS
from preprocess.tiff_metadata import Facts
from preprocess.window_matching import match_windows


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides a store's bytes. Arrays have one row per chip.

    `files`: how the files of a chip are read, and what each must have. `source`: what the store keeps about the files:
    metadata of the first one, and settings. `notes`: lines to print. `corners`: see `ShardTask`. `etags`: see
    `sources.etags_of`.
    """

    store: Location
    layout: Layout
    classes: tuple[str, ...]
    num_csv_rows: int
    label_settings: LabelSettings
    names: Sequence[str]
    paths: Sequence[str]
    labels: np.ndarray
    csv_row: np.ndarray
    split: np.ndarray | None
    size: np.ndarray
    mtime_ns: np.ndarray
    files: ChipFiles
    source: dict[str, str]
    notes: tuple[str, ...]
    corners: np.ndarray | None = None
    etags: PackedTexts | None = None

    def work(self) -> WorkPlan:
        """The part of the plan that worker processes need."""
        paths = PackedTexts.of(self.paths)
        is_whole = paths[0].startswith("/") or is_url(paths[0])
        return WorkPlan(
            layout=self.layout, files=self.files, folder="" if is_whole else str(Path.cwd()),
            paths=paths, size=self.size, mtime_ns=self.mtime_ns, corners=self.corners,
            etags=self.etags,
        )  # fmt: skip

    def settings(self) -> dict[str, str]:
        """Everything that must be equal to resume a conversion, as comparable texts."""
        chips = json_digest(self.names)
        chips.update(self.labels.tobytes() + self.csv_row.tobytes())
        if self.split is not None:
            chips.update(self.split.tobytes())
        shape = (len(self.layout.bands), self.layout.height, self.layout.width)
        return {
            "store version": str(version_of(self.layout)),
            "CODEC": self.layout.codec,
            "AXES": self.source.get("axes", "as stored"),
            **{
                word: self.source[word.lower()]
                for word in ("FILES", "SIZE", "FIT", "WINDOW", "STRIDE")
                if word.lower() in self.source
            },
            **({"FIT": self.source["edges"]} if "edges" in self.source else {}),
            "BANDS": ",".join(self.layout.bands),
            "chip shape and dtype": f"{shape} {self.layout.dtype}",
            "classes": csv_line(self.classes),
            "how labels are read": json.dumps(self.label_settings.as_dict()),
            "number of chips": str(len(self.names)),
            "rows of the CSV": str(self.num_csv_rows),
            "chips and tags": chips.hexdigest()[:12],
            **({} if self.layout.nodata is None else {"NODATA": self.layout.nodata}),
        }


def make_plan(settings: ConversionSettings) -> Plan:
    """Check everything that can be checked without reading every chip, and lay out the store."""
    settings.check()
    forget_objects(settings.data, settings.labels)
    data = settings.data
    settings = with_preset(settings)
    if settings.labels is None:
        raise UserError(f"LABELS is not set, and no preset knows a CSV in DATA={data}. Give LABELS=file.csv.")
    labels = settings.data if settings.labels == FOLDERS else settings.labels
    table = read_labels(labels, settings.classes, settings.label_settings)
    bands = settings.bands
    pattern = read_pattern(settings.files, bands) if settings.files else None
    first, files, corners = _chips(settings, labels, table, pattern)
    facts = first.facts
    layout = _layout(settings, bands, first, files.paths[0])
    return Plan(
        store=settings.store,
        layout=layout,
        classes=table.classes,
        num_csv_rows=len(table.names),
        label_settings=settings.label_settings,
        names=PackedTexts.of(table.names).take(files.csv_row),
        paths=files.paths,
        labels=table.labels[files.csv_row],
        csv_row=files.csv_row,
        split=None if table.split is None else table.split[files.csv_row],
        size=files.size,
        mtime_ns=files.mtime_ns,
        files=_files(settings, first, layout),
        corners=corners,
        # The windows of a raster are read with the ETag that its header had.
        etags=etags_of(settings.data, files.paths, first.files.bands) if corners is None else None,
        source=_source(settings, first),
        notes=(
            *_label_notes(labels, table),
            *_notes(settings.store, files.paths[0], first, layout, unnamed=bands is None and not facts.is_rgb),
        ),
    )  # fmt: skip


def _chips(
    settings: ConversionSettings, labels: Location, table: LabelTable, pattern: FilePattern | None
) -> tuple[FirstChip, Files, np.ndarray | None]:
    """The first chip, the files of all, and the corners of windows."""
    if (cut := settings.cut) is not None:
        first, grids = read_first_raster(settings, pattern, cut)
        windows = match_windows(labels, table, settings.data, grids, allow_missing=settings.allow_missing)
        return first, windows.files, windows.corners
    if pattern:
        files = match_pattern(labels, table, settings.data, pattern, allow_missing=settings.allow_missing)
    else:
        files = match_files(labels, table, settings.data, allow_missing=settings.allow_missing)
    return read_first(files.paths[0], settings, pattern), files, None


def _files(settings: ConversionSettings, first: FirstChip, layout: Layout) -> ChipFiles:
    """How every chip is read. With NODATA=tag, each file must name the same value."""
    files = first.files
    if files.fit:
        files = replace(files, fit=replace(files.fit, nodata=layout.nodata))
    if files.cut:
        files = replace(files, cut=replace(files.cut, nodata=layout.nodata))
    if settings.nodata == "tag":
        expected = tuple(replace(expected, nodata=layout.nodata) for expected in files.expected)
        files = replace(files, expected=expected)
    return files


def _source(settings: ConversionSettings, first: FirstChip) -> dict[str, str]:
    """What the store keeps about its files."""
    facts = {"nodata": first.facts.nodata, "axes": first.facts.axes, "files": settings.files}
    known = {key: value for key, value in facts.items() if value is not None}
    changes = first.files.fit or first.files.cut
    return known | (changes.source() if changes else {})


def _label_notes(labels: Location, table: LabelTable) -> Iterator[str]:
    """What the labels file has and the store will not."""
    if table.split is None and "split" in table.columns and "split" not in table.classes:
        yield f"{labels}: the column split is not kept. SPLIT_COLUMN=split keeps it, for SPLIT=column."


def _notes(store: Location, path: str, first: FirstChip, layout: Layout, *, unnamed: bool) -> Iterator[str]:
    """Facts of the first file that a user should know."""
    facts = first.facts
    if first.note:
        yield f"{store}: {first.note}"
    if facts.guess:
        yield facts.guess
    if unnamed:
        example = "such as BANDS=blue,green,red,nir"
        if facts.descriptions:
            example = f"and {_offer(facts.descriptions)}"
        yield f"{store}: the bands have no names. Training needs names, {example}."
    if layout.nodata is None and facts.nodata is not None:
        setting = f"NODATA={'tag' if facts.nodata_tag else facts.nodata}"
        yield (
            f"{store}: the files mark {facts.nodata} as nodata. It counts as a value in the statistics. {setting} "
            "leaves it out."
        )
    if facts.zero_is_white:
        yield f"{path}: the files define 0 as white. Their values are stored unchanged."


def _offer(descriptions: tuple[str, ...]) -> str:
    """The bands' names in the files, as a setting if BANDS can hold them."""
    listed = ", ".join(one_line(name) for name in descriptions)
    value = ",".join(descriptions)
    usable = all(re.fullmatch(r"[\w.+:/ -]+", name) for name in descriptions) and value.isprintable()
    if usable and len(set(descriptions)) == len(descriptions):
        return f"the files have names: BANDS={shlex.quote(value)}"
    return f"the files have the names {listed}, which BANDS cannot hold"


def _layout(settings: ConversionSettings, bands: tuple[str, ...] | None, first: FirstChip, path: str) -> Layout:
    values, facts = first.values, first.facts
    count = len(values)
    if bands is None:
        # Three samples are red, green and blue only if the file says so. Four samples are never guessed: Planet's files
        # are B, G, R, NIR with the same tag, so a guess would be wrong without a warning.
        bands = ("red", "green", "blue") if facts.is_rgb else tuple(f"band{index + 1}" for index in range(count))
    if len(bands) != count:
        axes = _other_axes(values, len(bands), facts)
        raise UserError(
            f"{path}: expected {len(bands)} bands ({', '.join(bands)}), found {count}. "
            f"BANDS names each of them, in the file's order.{axes}"
        )
    height, width = first.size
    return plan_layout(
        bands=bands, height=height, width=width, dtype=values.dtype.name, codec=settings.codec,
        nodata=_nodata(settings, facts, values.dtype.name, path),
    )  # fmt: skip


def _nodata(settings: ConversionSettings, facts: Facts, dtype: str, path: str) -> str | None:
    """The value that NODATA marks, as the layout keeps it; None if it is not set."""
    text = settings.nodata
    if text is None:
        return None
    if text == "tag":
        text = facts.nodata_tag
        if text is None:
            raise UserError(f"NODATA=tag: {path} has no GDAL_NODATA. Name the value: NODATA=0")
    value = nodata_text(text, dtype)
    if value is None:
        of_tag = f" (GDAL_NODATA of {path})" if settings.nodata == "tag" else ""
        raise UserError(
            f"NODATA={settings.nodata}: expected a value that {dtype} can hold, found {one_line(text)}{of_tag}."
        )
    return value


def _other_axes(first: np.ndarray, num_bands: int, facts: Facts) -> str:
    """The AXES setting that would give `num_bands` bands, if there is one."""
    count, height, width = first.shape
    if count > 1 and (facts.order, num_bands) == ("SYX", width):
        return f" If the file is stored as rows, columns, bands: AXES=YXS reads {width} bands of {count} x {height}."
    if count > 1 and (facts.order, num_bands) == ("YXS", height):
        return f" If the file is stored as bands, rows, columns: AXES=SYX reads {height} bands of {width} x {count}."
    return ""
