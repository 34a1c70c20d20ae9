"""Undamaged stores for `stores`.

For each of KINDS a store of 11 chips (8 x 8, 2 bands, 2 chunks per band) in 3 shards; other versions of it (other
tags; other pixels in one chip; one chip fewer); and a foreign store with the same layout. Windows are cut from one
raster with coordinates.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import tifffile
from helpers.places import UTM_33N, geo_tags, write_geo

from fuzz.outcome import quiet
from preprocess import layout as layout_module
from preprocess.commands import ConversionSettings
from preprocess.convert import convert

BANDS, TAGS, CHIPS, SIDE = ("red", "nir"), ("clear", "road", "water"), 11, 8
BLOCK_KM = 0.2  # two windows of 10 m pixels and a half
OTHERS = ("tags", "pixels", "fewer", "foreign")


@dataclass(frozen=True)
class Kind:
    """Of a store. `nodata`: NODATA. `windows`: the chips are windows of a raster, which says where it lies."""

    codec: str
    dtype: str
    nodata: str | None = None
    windows: bool = False

    @property
    def name(self) -> str:
        """Of the folder."""
        words = [self.codec, self.dtype, self.nodata and f"nodata{self.nodata}", self.windows and "windows"]
        return "-".join(word for word in words if word)


KINDS = (
    Kind("lz4", "uint16"), Kind("none", "uint16"), Kind("lz4", "uint8"), Kind("none", "float32"),
    Kind("lz4", "float32", "-9999"), Kind("none", "float32", "nan", windows=True),
    Kind("lz4", "int16", "-32768", windows=True),
)  # fmt: skip


def make_bases(bases: Path) -> None:
    """Write all stores as BASES/lz4-uint16/base, .../tags, ..."""
    with mock.patch.multiple(layout_module, CHUNK_BYTES=64, MAX_SHARD_CHIPS=4):
        for kind in KINDS:
            for version in ("base", *OTHERS):
                _make(bases / kind.name, version, kind)


def _make(place: Path, version: str, kind: Kind) -> None:
    folder = place / f"{version}-tif"
    folder.mkdir(parents=True)
    chips, tags = _chips(version, kind)
    if kind.windows:
        write_geo(folder / "r.tif", np.concatenate(chips, axis=2), geo_tags(UTM_33N, side=(10.0, 10.0)))
        names = [f"r_r00000_c{SIDE * index:05}" for index in range(len(chips))]
    else:
        names = [f"chip_{index}" for index in range(len(chips))]
        for name, chip in zip(names, chips, strict=True):
            tifffile.imwrite(folder / f"{name}.tif", chip, photometric="minisblack", planarconfig="separate")
    with open(folder / "tags.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image_name", "tags"), ("absent", "road"), *zip(names, tags, strict=True)])
    request = ConversionSettings(
        data=folder, labels=folder / "tags.csv", store=place / version, bands=BANDS, classes=TAGS, codec=kind.codec,
        jobs=1, allow_missing=True, nodata=kind.nodata, window=SIDE if kind.windows else None,
    )  # fmt: skip
    quiet(lambda: convert(request))


def _chips(version: str, kind: Kind) -> tuple[list[np.ndarray], list[str]]:
    """(band, y, x) chips, and their tags."""
    rng = np.random.default_rng(version == "foreign")
    top = 10_000 if kind.dtype == "float32" else np.iinfo(kind.dtype).max
    chips, tags = [], []
    for index in range(CHIPS - (version == "fewer")):
        steps = rng.integers(-3, 4, (2, SIDE, SIDE)).cumsum(axis=-1) + int(rng.integers(top // 4, top // 2))
        tag = " ".join(tag for tag in TAGS if rng.random() < 0.5)
        if version == "pixels" and index == 5:
            steps[1, 3, 3] += 1
        chip = np.clip(steps, 0, top).astype(kind.dtype)
        if kind.nodata:
            chip[:, index % SIDE, 2:5] = float(kind.nodata)
        chips.append(chip)
        tags.append("road" if version == "tags" and index in (2, 3) else tag)
    return chips, tags
