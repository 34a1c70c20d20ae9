"""Presets for published data sets: bands, classes in order, location of the files.

In: a preset's name. Out: a `Preset`. A preset only fills in settings that the user did not give. No other file knows a
data set by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tifffile


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Facts about one data set. `folders` and `csv_names` are tried below DATA in this order.

    A chip has exactly one of the classes in `exclusive`.
    """

    bands: tuple[str, ...]
    classes: tuple[str, ...]
    folders: tuple[str, ...]
    csv_names: tuple[str, ...]
    check_page: Callable[[tifffile.TiffPage], str | None] | None = None
    exclusive: tuple[str, ...] = ()


def planet_v1_page(page: tifffile.TiffPage) -> str | None:
    """The reason why a page is one of Planet's withdrawn v1 chips (some are corrupt), or None.

    v1 files have the names of the v2 files, but strips of 4 rows and ExtraSamples 2.
    """
    extra = tuple(int(value) for value in page.extrasamples)
    if page.rowsperstrip == 4 and extra == (2,):
        return "one of Planet's withdrawn v1 files (4 rows per strip, ExtraSamples 2); use train-tif-v2"
    return None


PRESETS = {
    "planet": Preset(
        bands=("blue", "green", "red", "nir"),
        # Order and spelling of the data set, used in every published table of results.
        classes=(
            "clear", "cloudy", "haze", "partly_cloudy", "agriculture", "artisinal_mine", "bare_ground", "blooming",
            "blow_down", "conventional_mine", "cultivation", "habitation", "primary", "road", "selective_logging",
            "slash_burn", "water",
        ),
        folders=("train-tif-v2/train-tif-v2", "train-tif-v2", "."),
        csv_names=("train_v2.csv", "train_v2.csv/train_v2.csv"),
        check_page=planet_v1_page,
        exclusive=("clear", "cloudy", "haze", "partly_cloudy"),
    ),
}  # fmt: skip


def exclusive_classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The exclusive classes of the preset with exactly these classes; () without such a preset."""
    return next((preset.exclusive for preset in PRESETS.values() if preset.classes == classes), ())


def find(data: Path, preset: Preset) -> tuple[Path, Path | None]:
    """(folder of the TIFFs, CSV or None) in the layout of the preset's download below `data`."""
    folder = next((data / name for name in preset.folders if (data / name).is_dir()), data)
    around = (data, data.parent)
    csvs = [base / name for base in around for name in preset.csv_names if (base / name).is_file()]
    return folder, csvs[0] if csvs else None
