"""Presets for published data sets: bands, classes in order, where the chips and the labels are, how labels are read.

In: a preset's name. Out: a `Preset`. No other file knows a data set by name. Leaves filling in settings to
`preset_settings`: worker processes load this file, and need no settings.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tifffile

from preprocess.addresses import Address, Location
from preprocess.csv_rows import is_file
from preprocess.image_names import list_files
from preprocess.suffixes import FOLDERS


@dataclass(frozen=True, kw_only=True)
class Download:
    """One form in which a data set is published.

    folders: tried below DATA in this order; a folder is the right one if it has a file with one of the `suffixes`.
    labels: names of the labels file, tried in and beside DATA and the folder; "folders" for class folders.
    settings: of the conversion. label_settings: the same, but only for the labels file above.
    """

    folders: tuple[str, ...]
    suffixes: tuple[str, ...] = (".tif",)
    labels: tuple[str, ...]
    settings: dict[str, Any]
    label_settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Facts about one data set. Of several downloads the first that DATA holds is used.

    A chip has exactly one of the classes in `exclusive`.
    """

    classes: tuple[str, ...]
    downloads: tuple[Download, ...]
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


# The 19 classes in the order of the CORINE nomenclature.
_BIGEARTHNET = (
    "Urban fabric", "Industrial or commercial units", "Arable land", "Permanent crops", "Pastures",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation", "Agro-forestry areas",
    "Broad-leaved forest", "Coniferous forest", "Mixed forest", "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation", "Transitional woodland, shrub", "Beaches, dunes, sands",
    "Inland wetlands", "Coastal wetlands", "Inland waters", "Marine waters",
)  # fmt: skip
_EUROSAT = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential",
    "River", "SeaLake",
)  # fmt: skip
_UCMERCED_17 = (
    "airplane", "bare-soil", "buildings", "cars", "chaparral", "court", "dock", "field", "grass", "mobile-home",
    "pavement", "sand", "sea", "ship", "tanks", "trees", "water",
)  # fmt: skip
_UCMERCED = (
    "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential", "forest",
    "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark", "overpass", "parkinglot",
    "river", "runway", "sparseresidential", "storagetanks", "tenniscourt",
)  # fmt: skip
PRESETS = {
    "planet": Preset(
        # Order and spelling of the data set, used in every published table of results.
        classes=(
            "clear", "cloudy", "haze", "partly_cloudy", "agriculture", "artisinal_mine", "bare_ground", "blooming",
            "blow_down", "conventional_mine", "cultivation", "habitation", "primary", "road", "selective_logging",
            "slash_burn", "water",
        ),
        downloads=(
            Download(
                folders=("train-tif-v2/train-tif-v2", "train-tif-v2", "."),
                labels=("train_v2.csv", "train_v2.csv/train_v2.csv"),
                settings={"bands": ("blue", "green", "red", "nir")},
            ),
            Download(
                folders=("train-jpg/train-jpg", "train-jpg", "."), suffixes=(".jpg",),
                labels=("train_v2.csv", "train_v2.csv/train_v2.csv"), settings={"bands": ("red", "green", "blue")},
            ),
        ),
        check_page=planet_v1_page,
        exclusive=("clear", "cloudy", "haze", "partly_cloudy"),
    ),
    # Version 2, Sentinel-2: BigEarthNet-S2/SCENE/PATCH/PATCH_B02.tif, of 120 px (10 m), 60 px (20 m) and 20 px (60 m).
    "bigearthnet": Preset(
        classes=_BIGEARTHNET,
        downloads=(
            Download(
                folders=("BigEarthNet-S2", "."),
                labels=("metadata.parquet",),
                settings={
                    "bands": ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"),
                    "files": "*/{name}/{name}_{band}.tif", "fit": "resize",
                },
                label_settings={"name_column": "patch_id", "tags_column": "labels", "split_column": "split"},
            ),
        ),
    ),
    "eurosat": Preset(
        classes=_EUROSAT,
        downloads=(
            Download(
                folders=("EuroSAT_MS", "ds/images/remote_sensing/otherDatasets/sentinel_2/tif", "."),
                labels=("folders",),
                # B8A is the last band of the files: its published mean (2,594) is near that of B08 (2,297), and the
                # tenth band has the mean of cirrus, B10 (12).
                settings={
                    "bands": (
                        "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A",
                    )
                },
            ),
            Download(
                folders=("EuroSAT_RGB", "2750", "."), suffixes=(".jpg",), labels=("folders",),
                settings={"bands": ("red", "green", "blue")},
            ),
        ),
        exclusive=_EUROSAT,
    ),
    "ucmerced": Preset(
        classes=_UCMERCED,
        downloads=(
            Download(
                folders=("UCMerced_LandUse/Images", "Images", "."), labels=("folders",),
                settings={"bands": ("red", "green", "blue"), "size": 256, "fit": "pad"},  # some chips are not 256 x 256
            ),
        ),
        exclusive=_UCMERCED,
    ),
    # The same chips with several labels each; their names in the file have no folder.
    "ucmerced_multilabel": Preset(
        classes=_UCMERCED_17,
        downloads=(
            Download(
                folders=("UCMerced_LandUse/Images", "Images", "."), labels=("LandUse_Multilabeled.txt",),
                settings={"bands": ("red", "green", "blue"), "size": 256, "fit": "pad", "files": "*/{name}.tif"},
                label_settings={"labels_format": "onehot", "csv_separator": "tab", "name_column": "IMAGE\\LABEL"},
            ),
        ),
    ),
}  # fmt: skip


def exclusive_classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The exclusive classes of the preset with exactly these classes, in any order; () without such a preset."""
    return next((preset.exclusive for preset in PRESETS.values() if set(preset.classes) == set(classes)), ())


def find(data: Location, preset: Preset) -> tuple[Download, Location]:
    """The download that `data` holds, and the folder of its chips. A named folder comes before `data` itself."""
    places = [(download, data / name) for download in preset.downloads for name in download.folders if name != "."]
    places += [(download, data) for download in preset.downloads]
    return next((place for place in places if _holds(place[1], place[0].suffixes)), places[-1])


def _holds(folder: Location, suffixes: tuple[str, ...]) -> bool:
    """Whether a file below the folder has one of the suffixes, in any case."""
    if isinstance(folder, Address):
        return bool(list_files(folder, suffixes).names)
    return any(name.lower().endswith(suffixes) for _, _, names in os.walk(folder) for name in names)


def find_labels(data: Location, folder: Location, download: Download) -> Location | None:
    """The labels of a download; None if there is no such file."""
    if "folders" in download.labels:
        return FOLDERS
    places = (base / name for base in (data, data.parent, folder, folder.parent) for name in download.labels)
    return next((place for place in places if is_file(place)), None)
