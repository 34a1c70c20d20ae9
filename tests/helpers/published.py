"""Small made files in the layouts in which data sets are published."""

from pathlib import Path

import numpy as np
import pandas as pd
from tifffile import imwrite

from helpers.chips import smooth
from helpers.pictures import colours, encoded, planet_jpeg, write_bands
from preprocess.presets import PRESETS

# BigEarthNet: sides of the bands, and (scene, split, tags) of patches.
SIDES = {
    **dict.fromkeys(("B02", "B03", "B04", "B08"), 120), **dict.fromkeys(("B01", "B09"), 20),
    **dict.fromkeys(("B05", "B06", "B07", "B11", "B12", "B8A"), 60),
}  # fmt: skip
_SCENES = ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP", "S2B_MSIL2A_20180506T100029_N9999_R122_T34VER")
PATCHES = (
    (_SCENES[0], "train", ["Arable land", "Pastures"]),
    (_SCENES[0], "validation", ["Marine waters"]),
    (_SCENES[1], "test", ["Beaches, dunes, sands", "Marine waters"]),
    (_SCENES[1], "train", ["Moors, heathland and sclerophyllous vegetation"]),
)
# UC Merced: classes, with the sides and the tags of their chips.
UCMERCED = {
    "agricultural": ((256, 256), {"field", "trees"}),
    "airplane": ((255, 257), {"airplane", "cars", "pavement"}),
    "tenniscourt": ((257, 253), {"court"}),
}


def write_tiff(path: Path, bands: int, side: int = 16) -> np.ndarray:
    """Returns the values, (bands, side, side)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = smooth(np.random.default_rng(len(str(path))), (bands, side, side), "uint16")
    imwrite(path, np.moveaxis(values, 0, -1), photometric="minisblack", planarconfig=1)
    return values


def write_planet(data: Path, count: int = 2, side: int = 16) -> None:
    """The JPEGs and the CSV."""
    (data / "train-jpg").mkdir(parents=True)
    lines = ["image_name,tags"]
    for index in range(count):
        values = colours(index, side, side, 4)
        values[..., 3] = 255
        (data / "train-jpg" / f"train_{index}.jpg").write_bytes(planet_jpeg(values))
        lines.append(f"train_{index},{('clear primary', 'haze water')[index % 2]}")
    (data / "train_v2.csv").write_text("\n".join([*lines, ""]))


def write_bigearthnet(data: Path, count: int = len(PATCHES)) -> dict[str, dict[str, np.ndarray]]:
    """Version 2. Returns the bands of each patch."""
    rng = np.random.default_rng(0)
    rows = [PATCHES[index % len(PATCHES)] for index in range(count)]
    names = [f"{scene}_{index}_{index + 5}" for index, (scene, _, _) in enumerate(rows)]
    patches = {
        name: {band: smooth(rng, (1, side, side), "uint16")[0] for band, side in SIDES.items()} for name in names
    }
    for name, bands in patches.items():
        write_bands(data / "BigEarthNet-S2" / name.rsplit("_", 2)[0], name, bands)
        write_bands(data / "BigEarthNet-S1" / "S1A", f"{name}_S1", {"VV": bands["B02"].astype(np.float32)})
    columns = {
        "patch_id": names,
        "labels": [tags for _, _, tags in rows],
        "split": [split for _, split, _ in rows],
        "country": ["Austria"] * count,
        "s1_name": [f"{name}_S1" for name in names],
        "s2v1_name": names,
        "contains_seasonal_snow": [False] * count,
        "contains_cloud_or_shadow": [False] * count,
    }
    pd.DataFrame(columns).to_parquet(data / "metadata.parquet")
    return patches


def write_eurosat(folder: Path, count: int = 1, *, form: str = "jpg") -> None:
    """`count` chips of each of two classes: JPEGs, or TIFFs of 13 bands."""
    for name in ("Forest", "River"):
        for index in range(1, count + 1):
            path = folder / name / f"{name}_{index}.{form}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if form == "jpg":
                path.write_bytes(encoded(colours(index, 64, 64), "jpeg"))
            else:
                write_tiff(path, 13, 64)


def write_ucmerced(data: Path, count: int = 1) -> dict[str, set[str]]:
    """`count` chips of each class, and the file of the 17 labels. Returns the tags of each chip."""
    tags_of = {}
    for name, (sides, tags) in UCMERCED.items():
        for index in range(count):
            path = data / "UCMerced_LandUse/Images" / name / f"{name}{index:02d}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            imwrite(path, colours(index, *sides), photometric="rgb")
            tags_of[path.stem] = tags
    classes = PRESETS["ucmerced_multilabel"].classes
    lines = [["IMAGE\\LABEL", *classes]]
    lines += [[name, *("1" if tag in tags else "0" for tag in classes)] for name, tags in tags_of.items()]
    text = "".join("\t".join(line) + "\r\n" for line in lines)
    (data / "UCMerced_LandUse" / "LandUse_Multilabeled.txt").write_text(text, newline="")
    return tags_of
