"""Chips as GeoJSON polygons (RFC 7946): WGS 84, longitude before latitude, exterior rings counterclockwise.

In: where chips lie, in the coordinates of their files, and properties. Out: a FeatureCollection with a line per chip.
pyproj, an optional package, converts the coordinates. It needs an EPSG code: chips of another CRS are left out and
counted. Leaves names and scores to `prediction_files`.
"""

import importlib.util
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from preprocess.console import UserError
from preprocess.georeference import corners

INSTALL_PYPROJ = "`.venv/bin/pip install -c constraints.txt pyproj` installs it."
DIGITS = 7  # of degrees: 1 cm
_MAX_SHOWN = 3

Ring = list[tuple[float, float]]
Transform = Callable[[Sequence[float], Sequence[float]], tuple[Sequence[float], Sequence[float]]]


def check_pyproj() -> None:
    """UserError without pyproj. Nothing is loaded."""
    if importlib.util.find_spec("pyproj") is None:
        raise UserError(f"GEOJSON=1 needs pyproj, which is not installed. {INSTALL_PYPROJ}")


class GeoJsonWriter:
    """Writes features to a text file. `count`: of them. `left_out`: chips without a polygon, by CRS."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._transforms: dict[str, Transform | None] = {}
        self.count = 0
        self.left_out: Counter[str] = Counter()
        file.write('{"type": "FeatureCollection", "features": [')

    def add(
        self, crs: str, transform: Sequence[float], height: int, width: int, properties: dict[str, Any]
    ) -> None:  # fmt: skip
        """Add one chip of `height` x `width` pixels. `crs` and `transform` are those of its `georeference.Place`."""
        if crs not in self._transforms:
            self._transforms[crs] = _to_wgs84(crs)
        to_wgs84, geometry = self._transforms[crs], None
        if to_wgs84 is not None:
            points = corners(transform, height, width)
            lon, lat = to_wgs84([x for x, _ in points], [y for _, y in points])
            geometry = polygon(list(zip(lon, lat, strict=True)))
        if geometry is None:
            self.left_out[crs] += 1
            return
        feature = {"type": "Feature", "geometry": geometry, "properties": properties}
        self._file.write(f"{',' if self.count else ''}\n{json.dumps(feature, ensure_ascii=False)}")
        self.count += 1

    def close(self) -> None:
        """Write the end."""
        self._file.write("\n]}\n")

    def left_out_line(self) -> str:
        """ "3 chips are left out, because their CRS has no EPSG code: ..."; "" if there are none."""
        if not self.left_out:
            return ""
        shown = ", ".join(f"{crs} ({count})" for crs, count in self.left_out.most_common(_MAX_SHOWN))
        more = f" and {len(self.left_out) - _MAX_SHOWN} more" if len(self.left_out) > _MAX_SHOWN else ""
        return (
            f"{self.left_out.total()} chips are left out: pyproj cannot convert their CRS to WGS 84. It needs an EPSG "
            f"code: {shown}{more}"
        )


def _to_wgs84(crs: str) -> Transform | None:
    """Coordinates (x, y) -> (longitude, latitude); None if the CRS is not known."""
    import pyproj

    if not crs.startswith("EPSG:"):
        return None
    try:
        transformer = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    except pyproj.exceptions.ProjError:
        return None
    transform: Transform = transformer.transform
    return transform


def polygon(ring: Ring) -> dict[str, Any] | None:
    """The geometry of a ring of (longitude, latitude), not closed; None if a number is not finite.

    A ring across the antimeridian becomes two polygons, as section 3.1.9 of the RFC says: its longitudes jump by more
    than 180 degrees.
    """
    if not all(math.isfinite(value) for point in ring for value in point):
        return None
    longitudes = [lon for lon, _ in ring]
    if max(longitudes) - min(longitudes) <= 180:
        return {"type": "Polygon", "coordinates": [_closed(ring)]}
    east = [(lon + 360 if lon < 0 else lon, lat) for lon, lat in ring]
    sides = [_cut(east, keep_lower=True), [(lon - 360, lat) for lon, lat in _cut(east, keep_lower=False)]]
    return {"type": "MultiPolygon", "coordinates": [[_closed(side)] for side in sides]}


def _cut(ring: Ring, *, keep_lower: bool) -> Ring:
    """The part of a convex ring on one side of the longitude 180."""
    part: Ring = []
    for (lon, lat), (next_lon, next_lat) in _edges(ring):
        if (lon <= 180) == keep_lower or lon == 180:
            part.append((lon, lat))
        if (lon - 180) * (next_lon - 180) < 0:
            part.append((180.0, lat + (next_lat - lat) * (180 - lon) / (next_lon - lon)))
    return part


def _edges(ring: Ring) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    return zip(ring, [*ring[1:], ring[0]], strict=True)


def _closed(ring: Ring) -> list[list[float]]:
    """Counterclockwise, with the first point again at the end."""
    area = sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in _edges(ring))
    points = ring if area > 0 else ring[::-1]
    rounded = [[round(lon, DIGITS) + 0.0, round(lat, DIGITS) + 0.0] for lon, lat in points]  # no -0.0
    return [*rounded, rounded[0]]
