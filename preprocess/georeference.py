"""Where a chip lies: the coordinate reference system (CRS) and the transform of a GeoTIFF.

In: the first page of a TIFF. Out: a `Place`, or None; and arrays of places, as a store keeps them. No pixel depends on
these tags, so a file whose tags are damaged or of another kind has no place, and is read all the same. Leaves what is
computed from places to `blocks`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tifffile

from preprocess.fit import Window

_DIRECTORY = 34735  # GeoKeyDirectoryTag
_MAX_EPSG = 32766  # 32767 is user-defined
_PROJECTED, _GEOGRAPHIC = 1, 2  # GTModelTypeGeoKey
_POINT = 2  # GTRasterTypeGeoKey
_LINEAR_UNITS = {9001: "metre", 9002: "foot", 9003: "US survey foot"}
_DEGREE = 9102
METRES = {"metre": 1.0, "foot": 0.3048, "US survey foot": 1200 / 3937}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a chip lies.

    transform: (a, b, c, d, e, f) as rasterio's Affine has them. The corner of pixel (row, column) that lies at the top
    left has x = a * column + b * row + c, and y = d * column + e * row + f. crs: such as EPSG:32633, else the text in
    which the file names the CRS, else "user-defined". unit: of x and y: degree, a key of METRES, or "" (not known).
    """

    transform: tuple[float, ...]
    crs: str
    unit: str


def read_place(page: tifffile.TiffPage) -> Place | None:
    """The place of a page's pixels; None if the page has no GeoKeys or no affine transform."""
    if _DIRECTORY not in page.tags:
        return None
    try:
        tags = page.geotiff_tags or {}
        transform = _transform(tags)
        if transform is None or not all(map(math.isfinite, transform)):
            return None
        return Place(transform=transform, crs=_crs(tags), unit=_unit(tags))
    except (ValueError, TypeError, LookupError, tifffile.TiffFileError):
        return None  # tifffile and the lines above meet damaged tags in these ways


def _transform(tags: dict[str, Any]) -> tuple[float, ...] | None:
    """Section 2.6.1 of the GeoTIFF specification: one tie point with a scale, or a matrix."""
    if "ModelPixelScale" in tags and "ModelTiepoint" in tags:
        across, down = map(abs, tags["ModelPixelScale"][:2])
        column, row, _, x, y, _ = np.ravel(tags["ModelTiepoint"])[:6].tolist()
        a, b, c, d, e, f = across, 0.0, x - column * across, 0.0, -down, y + row * down
    elif "ModelTransformation" in tags:
        (a, b, _, c), (d, e, _, f) = tags["ModelTransformation"][:2]
    else:
        return None
    if a * e == b * d:
        return None
    if tags.get("GTRasterTypeGeoKey") == _POINT:  # whole numbers of pixels are centres, not corners
        c, f = c - (a + b) / 2, f - (d + e) / 2
    return float(a), float(b), float(c), float(d), float(e), float(f)


def _crs(tags: dict[str, Any]) -> str:
    key = "ProjectedCSTypeGeoKey" if _model(tags) == _PROJECTED else "GeographicTypeGeoKey"
    if 0 < (code := int(tags.get(key, 0))) <= _MAX_EPSG:
        return f"EPSG:{code}"
    for name in ("PCSCitationGeoKey", "GTCitationGeoKey", "GeogCitationGeoKey"):
        if text := " ".join(str(tags.get(name, "")).split()):
            return text
    return "user-defined"


def _model(tags: dict[str, Any]) -> int:
    return int(tags.get("GTModelTypeGeoKey", _PROJECTED if "ProjectedCSTypeGeoKey" in tags else _GEOGRAPHIC))


def _unit(tags: dict[str, Any]) -> str:
    if _model(tags) == _PROJECTED:
        return _LINEAR_UNITS.get(int(tags.get("ProjLinearUnitsGeoKey", 9001)), "")
    if _model(tags) == _GEOGRAPHIC and int(tags.get("GeogAngularUnitsGeoKey", _DEGREE)) == _DEGREE:
        return "degree"
    return ""


def place_in(place: Place, window: Window) -> Place:
    """The place of the pixels that `window` makes of those at `place`."""
    a, b, c, d, e, f = place.transform
    c, f = c + a * window.left + b * window.top, f + d * window.left + e * window.top
    across, down = window.column_size, window.row_size
    return replace(place, transform=(a * across, b * down, c, d * across, e * down, f))


def place_arrays(places: Sequence[Place | None]) -> dict[str, np.ndarray]:
    """transform: (chips, 6) float64, NaN for a chip without a place. crs, crs_unit: (chips,) str, "" for it."""
    nowhere = Place(transform=(math.nan,) * 6, crs="", unit="")
    known = [place or nowhere for place in places]
    return {
        "transform": np.array([place.transform for place in known], np.float64),
        "crs": np.array([place.crs for place in known], str),
        "crs_unit": np.array([place.unit for place in known], str),
    }


def has_place(transform: np.ndarray) -> np.ndarray:
    """(chips,) bool: whether a chip of `place_arrays` has a place."""
    known: np.ndarray = ~np.isnan(transform[:, 0])
    return known


def unit_of_crs(crs: np.ndarray, units: np.ndarray) -> dict[str, str]:
    """The unit of each CRS; "" if files disagree."""
    known: dict[str, str] = {}
    for name, unit in sorted(set(zip(crs.tolist(), units.tolist(), strict=True)) - {("", "")}):
        known[name] = unit if name not in known else ""
    return known


def centres(transform: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of the middle of each chip; `transform` as in `place_arrays`."""
    a, b, c, d, e, f = transform.T
    return a * width / 2 + b * height / 2 + c, d * width / 2 + e * height / 2 + f


def bounds(transform: Sequence[float], height: int, width: int) -> tuple[float, float, float, float]:
    """(left, bottom, right, top) of the smallest upright rectangle around a chip."""
    points = corners(transform, height, width)
    x, y = [x for x, _ in points], [y for _, y in points]
    return min(x), min(y), max(x), max(y)


def corners(transform: Sequence[float], height: int, width: int) -> list[tuple[float, float]]:
    """(x, y) of the corners of a chip: upper left, lower left, lower right, upper right."""
    a, b, c, d, e, f = transform
    pixels = ((0, 0), (0, height), (width, height), (width, 0))
    return [(a * column + b * row + c, d * column + e * row + f) for column, row in pixels]


def places_line(transform: np.ndarray, crs: Iterable[str]) -> str:
    """ "11 of 12 (7 in EPSG:32633, 4 in EPSG:32634)" """
    names, counts = np.unique([name for name in crs if name], return_counts=True)
    shown = [f"{count} in {name}" for name, count in zip(names.tolist(), counts.tolist(), strict=True)][:_MAX_SHOWN]
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return f"{int(has_place(transform).sum())} of {len(transform)} ({', '.join(shown)}{more})"


_MAX_SHOWN = 5
