"""The commands that make and look at stores: their settings, and what runs them.

To add a setting, add a field here and use it where it acts. Imports nothing heavy before a command runs.
"""

import os
import re
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from preprocess.addresses import Location
from preprocess.chip_words import ChipWords, check_folder
from preprocess.cluster_words import ClusterWords, ShareWords
from preprocess.console import UserError
from preprocess.file_patterns import BAND
from preprocess.files import partial_path
from preprocess.label_settings import LabelSettings
from preprocess.settings import Settings, setting
from preprocess.shares import shard_share
from preprocess.split_rules import BLOCK_KM, check_rule
from preprocess.suffixes import FOLDERS, is_csv

CORES = len(os.sched_getaffinity(0))


class LabelWords(Settings):
    """How the labels are written. Its values as texts; `label_settings` are the checked ones."""

    heading: ClassVar[str] = "The labels"

    labels: Location | None = setting(
        None,
        "Table with a row per chip: the name of its file, and its tags. A CSV, JSON lines (.jsonl) or parquet, or its "
        "address, such as s3://bucket/tags.csv. folders: no table; the tag of a chip is the folder that holds it.",
        hint="file.csv|file.jsonl|file.parquet|folders",
        default_text="the preset's; without PRESET it must be set",
    )
    labels_format: Literal["tags", "list", "onehot", "long"] = setting(
        "tags",
        "tags: several tags in a field, or a list that the file itself holds (JSON, parquet). list: a JSON or Python "
        "list as text in a field. onehot: a column of 0 and 1 per class. long: a row per chip and tag.",
    )
    tags_separator: Literal["space", " ", ",", ";", "|"] = setting(
        "space",
        "Character between the tags of a field: space, a comma, ; or |. Quote it for the shell.",
        hint="text",
        expected="space, a comma, ; or |",
    )
    name_column: str = setting("image_name", "Column of file names.")
    tags_column: str = setting("tags", "Column of tags.")
    split_column: str | None = setting(
        None,
        "Column that says train, val (or validation) or test for each chip. The store keeps it, and SPLIT=column uses "
        "it.",
        default_text="no split column",
    )
    csv_separator: Literal[",", ";", "|", "tab", "\t"] = setting(
        ",",
        "Character between the fields of a row: a comma, ;, | or tab. Quote it for the shell.",
        hint="text",
        expected="a comma, ;, | or tab",
        default_text="a comma",
    )

    @model_validator(mode="after")
    def _label_settings_fit(self) -> Self:
        self.label_settings  # noqa: B018  # refuses what does not fit together
        return self

    @property
    def label_settings(self) -> LabelSettings:
        """How the labels are read."""
        if self.labels is not None and not is_csv(self.labels) and self.csv_separator != ",":
            raise UserError(f"CSV_SEPARATOR has no effect with LABELS={self.labels}; leave it out.")
        if self.labels == FOLDERS and self.labels_format != "tags":
            raise UserError("LABELS_FORMAT has no effect with LABELS=folders; leave it out.")
        return LabelSettings.of(
            {
                "format": "folders" if self.labels == FOLDERS else self.labels_format,
                "tags_separator": self.tags_separator,
                "name_column": self.name_column,
                "tags_column": self.tags_column,
                "csv_separator": self.csv_separator,
                "split_column": self.split_column,
            }
        )


class StoreWords(ChipWords):
    """What is converted, and how it is stored."""

    heading: ClassVar[str] = "Conversion"

    store: Location = setting(
        Path("chips.zarr"), "The store: a folder, or an address such as s3://bucket/chips.zarr.", hint="folder"
    )
    preset: Literal["planet", "bigearthnet", "eurosat", "ucmerced", "ucmerced_multilabel"] | None = setting(
        None,
        "A published data set that canopy knows: its folders, labels, bands and classes are used where you do not set "
        "them.",
    )
    classes: tuple[str, ...] | None = setting(
        None,
        "The classes, in the order that they will have in the store. Other tags are refused.",
        default_text="the preset's; else those of the CSV, sorted (onehot: in the order of the columns)",
    )
    codec: Literal["lz4", "none"] = setting("lz4", "Compression of the store. none loads faster and needs more disk.")
    size: int | None = setting(
        None, "Height and width of every chip in the store. FIT says how they get it.", hint="pixels", ge=1, le=65536
    )
    nodata: str | None = setting(
        None,
        "Pixels without a measurement: those with this value, those that are NaN (nan), or those with the value that "
        "GDAL_NODATA of the files names (tag). They are left out of mean and std, and the network gets the mean.",
        hint="value|nan|tag",
        default_text="every value counts",
    )
    jobs: int = setting(CORES, "Number of worker processes.", ge=1, default_text="one per core")
    allow_missing: bool = setting(False, "1: leave out rows of the CSV that have no file.")

    @model_validator(mode="after")
    def _size_and_fit_belong_together(self) -> Self:
        if self.size is not None and self.fit is None:
            raise UserError(f"SIZE={self.size}: FIT is not set. Add FIT=crop, FIT=pad or FIT=resize.")
        resizes_bands = self.fit == "resize" and self.files is not None and BAND in self.files
        if self.fit is not None and self.size is None and not resizes_bands and self.window is None:
            raise UserError(f"FIT={self.fit}: SIZE is not set. Add the size of the chips, such as SIZE=256.")
        return self

    @model_validator(mode="after")
    def _windows_have_no_other_size(self) -> Self:
        if self.window is None:
            return self
        if self.size is not None:
            raise UserError(f"SIZE={self.size} has no effect with WINDOW={self.window}; leave it out.")
        if self.preset is not None:
            raise UserError(f"PRESET={self.preset} cannot be used with WINDOW={self.window}: its chips are files.")
        return self

    @field_validator("nodata")
    @classmethod
    def _nodata_can_be_read(cls, text: str | None) -> str | None:
        words = None if text is None else text.strip().lower()
        if words not in (None, "nan", "tag") and not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", words):
            raise ValueError("a number, nan or tag")
        return words

    @field_validator("classes")
    @classmethod
    def _classes_differ(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and (len(set(names)) != len(names) or not all(names)):
            raise ValueError("a different name for each class")
        return names


class ConversionSettings(LabelWords, StoreWords):
    """A conversion of TIFFs and a CSV to a store."""

    @model_validator(mode="after")
    def _class_folders_have_one_file_per_chip(self) -> Self:
        if self.labels == FOLDERS and self.files is not None:
            raise UserError(f"FILES={self.files} has no effect with LABELS=folders; leave it out.")
        if self.labels == FOLDERS and self.window is not None:
            raise UserError(f"WINDOW={self.window} cannot be used with LABELS=folders. Give a table: LABELS=file.csv.")
        return self

    def check(self) -> None:
        """Refuse a DATA that is no folder, and a STORE that is a file."""
        check_folder(self.data)
        if isinstance(self.labels, Path) and self.labels != FOLDERS and not self.labels.is_file():
            found = "a folder" if self.labels.exists() else "nothing"
            advice = " LABELS=folders reads class folders below DATA." if self.labels.is_dir() else ""
            kind = "a CSV file" if is_csv(self.labels) else "a file"
            raise UserError(f"LABELS={self.labels}: expected {kind}, found {found}.{advice}")
        if isinstance(self.store, Path) and self.store.exists() and not self.store.is_dir():
            raise UserError(f"STORE={self.store}: is a file. Choose another name.")


class ZarrSettings(ConversionSettings, ShareWords):
    """A conversion, and who takes part in it."""

    def check(self) -> None:
        """Refuse files and folders that are wrong, and CLUSTER without Dask."""
        ConversionSettings.check(self)
        ShareWords.check(self)


class MadeStore(Settings):
    """The store of a command that reads it."""

    store: Location = setting(
        ..., "The store: a folder, or an address such as s3://bucket/chips.zarr.", hint="folder",
        example="STORE=chips.zarr",
    )  # fmt: skip

    def check(self) -> None:
        """Refuse a STORE that is not there. An address is looked up when the command runs."""
        if not isinstance(self.store, Path):
            return
        if not self.store.exists() and not partial_path(self.store).exists():
            raise UserError(f"STORE={self.store}: expected a store, found nothing. `make zarr` makes one.")


class VerifySettings(MadeStore, ClusterWords):
    """A verification of every chip."""

    jobs: int = setting(CORES, "Number of worker processes.", ge=1, default_text="one per core")

    def check(self) -> None:
        """Refuse a STORE that is not there, and CLUSTER without Dask."""
        MadeStore.check(self)
        ClusterWords.check(self)


class InfoSettings(MadeStore):
    """A look at a store's contents."""

    split: str = setting(
        "course", "How chips are divided, as in training.", hint="course|blocked|column|0.8,0.2|file.csv"
    )
    block_km: float = setting(BLOCK_KM, "Side of the blocks of SPLIT=blocked, in km.", gt=0, le=20_000)

    @field_validator("split")
    @classmethod
    def _split_can_be_read(cls, rule: str) -> str:
        check_rule(rule)
        return rule


class WindowsSettings(ChipWords):
    """A list of the windows of large rasters."""

    window: int = setting(..., "Height and width of the windows.", hint="pixels", ge=1, le=65536, example="WINDOW=256")
    out: Path = setting(Path("windows.csv"), "The list, a CSV.", hint="file.csv")

    def check(self) -> None:
        """Refuse a DATA that is no folder, and an OUT in none."""
        check_folder(self.data)
        if not self.out.parent.is_dir():
            raise UserError(f"OUT={self.out}: expected a file in a folder, found no folder {self.out.parent}. Make it.")


class DemoSettings(Settings):
    """Synthetic chips with known classes."""

    out: Path = setting(Path("demo"), "Folder for the chips and their CSV.", hint="folder")
    chips: int = setting(900, "Number of chips.", ge=2, le=1_000_000)
    seed: int = setting(0, "Seed of the chips.", ge=0, le=2**63 - 1)


def zarr(settings: ZarrSettings) -> int:
    """Convert TIFFs and a CSV to a store."""
    from preprocess.convert import convert

    convert(settings, share=shard_share(settings.shards) if settings.shards else None, cluster=settings.cluster)
    return 0


def verify(settings: VerifySettings) -> int:
    """Verify every chip of a store; 1 if one is damaged."""
    from preprocess.verify import verify as verify_store

    return 1 if verify_store(settings.store, jobs=settings.jobs, cluster=settings.cluster) else 0


def info(settings: InfoSettings) -> int:
    """Print what is in a store."""
    from preprocess.info import info as print_info

    print_info(settings.store, settings.split, settings.block_km)
    return 0


def windows(settings: WindowsSettings) -> int:
    """List the windows of large rasters."""
    from preprocess.window_list import list_windows

    assert settings.cut is not None  # WINDOW must be set
    list_windows(
        settings.data, settings.out, settings.cut, files=settings.files, bands=settings.bands, axes=settings.axes
    )  # fmt: skip
    return 0


def demo(settings: DemoSettings) -> int:
    """Make demo chips."""
    from preprocess.demo import make_demo

    make_demo(settings.out, num_chips=settings.chips, seed=settings.seed)
    return 0
