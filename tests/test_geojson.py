"""GeoJSON of predictions, by RFC 7946 and by coordinates that are known from the definitions of UTM and of WGS 84."""

import io
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyproj
import pytest
from run_files import one_line

from analysis.commands import PredictSettings
from analysis.commands import predict as predict_command
from analysis.geojson import GeoJsonWriter, polygon

Ring = list[list[float]]


def feature(crs: str, transform: tuple[float, ...], height: int = 100, width: int = 200) -> dict[str, Any]:
    (one,) = collection([(crs, transform)], height, width)["features"]
    return one


def collection(places: list[tuple[str, tuple[float, ...]]], height: int = 100, width: int = 200) -> dict[str, Any]:
    text = io.StringIO()
    writer = GeoJsonWriter(text)
    for index, (crs, transform) in enumerate(places):
        writer.add(crs, transform, height, width, {"image_name": f"chip {index}", "tags": "a", "water": 0.5})
    writer.close()
    return json.loads(text.getvalue())


def area(ring: Ring) -> float:
    """Positive if counterclockwise."""
    return sum(x * y2 - x2 * y for (x, y), (x2, y2) in pairwise(ring)) / 2


def check_ring(ring: Ring) -> None:
    """Section 3.1.6: at least four positions, the last equals the first, counterclockwise."""
    assert len(ring) >= 4
    assert ring[0] == ring[-1]
    assert area(ring) > 0
    assert all(-180 <= lon <= 180 and -90 <= lat <= 90 for lon, lat in ring)


def test_the_corner_of_a_zone_of_utm_is_its_meridian_on_the_equator() -> None:
    one = feature("EPSG:32633", (10, 0, 500_000, 0, -10, 1000))
    assert one["type"] == "Feature"
    assert one["properties"] == {"image_name": "chip 0", "tags": "a", "water": 0.5}
    assert one["geometry"]["type"] == "Polygon"
    (ring,) = one["geometry"]["coordinates"]
    check_ring(ring)
    assert [15.0, 0.0] in ring  # easting 500 km and northing 0 of zone 33
    top = next(lat for lon, lat in ring if lon == 15.0 and lat)
    # 1 km along the meridian, of which UTM makes 0.9996 km: the radius there is a (1 - e^2).
    degrees = math.degrees(1000 / 0.9996 / (6_378_137 * (1 - 0.00669437999014)))
    assert top == pytest.approx(degrees, abs=1e-7)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3857", "EPSG:4326", "EPSG:25833", "EPSG:2056", "EPSG:3035"])
def test_every_corner_is_where_pyproj_has_it(crs: str) -> None:
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(8.5, 47.1)
    side = 1e-4 if crs == "EPSG:4326" else 10.0
    (ring,) = feature(crs, (side, 0, x, 0, -side, y))["geometry"]["coordinates"]
    check_ring(ring)
    back = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    points = np.array([back.transform(*point) for point in ring[:-1]])
    expected = np.array([(x + dx * side, y - dy * side) for dx, dy in ((0, 0), (0, 100), (200, 100), (200, 0))])
    tolerance = 2e-7 if crs == "EPSG:4326" else 0.03  # 7 digits of a degree
    assert np.abs(points - expected).max() < tolerance


def test_a_grid_with_rows_from_south_to_north_is_counterclockwise_too() -> None:
    (ring,) = feature("EPSG:4326", (0.01, 0, 10, 0, 0.01, 40))["geometry"]["coordinates"]
    check_ring(ring)
    assert sorted(ring[:-1]) == [[10.0, 40.0], [10.0, 41.0], [12.0, 40.0], [12.0, 41.0]]


def test_a_chip_across_the_antimeridian_is_two_polygons() -> None:
    """Section 3.1.9."""
    one = feature("EPSG:32660", (10, 0, 833_000, 0, -10, 1000))["geometry"]
    assert one["type"] == "MultiPolygon"
    (west,), (east,) = one["coordinates"]
    for ring in (west, east):
        check_ring(ring)
    assert max(lon for lon, _ in west) == 180
    assert min(lon for lon, _ in east) == -180
    degrees = 2000 / 6_378_137 * 180 / math.pi / (math.cos(0) * 0.9996)
    total = max(lon for lon, _ in east) + 180 + 180 - min(lon for lon, _ in west)
    assert total == pytest.approx(degrees, rel=0.01)
    square = [(179.0, 0.0), (-179.0, 0.0), (-179.0, 1.0), (179.0, 1.0)]
    assert polygon(square) == {
        "type": "MultiPolygon",
        "coordinates": [
            [[[179.0, 0.0], [180.0, 0.0], [180.0, 1.0], [179.0, 1.0], [179.0, 0.0]]],
            [[[-180.0, 0.0], [-179.0, 0.0], [-179.0, 1.0], [-180.0, 1.0], [-180.0, 0.0]]],
        ],
    }


def test_chips_of_a_crs_without_a_code_are_left_out_and_counted() -> None:
    text = io.StringIO()
    writer = GeoJsonWriter(text)
    for crs in ("user-defined", "My grid", "EPSG:4326", "My grid", "EPSG:1"):
        writer.add(crs, (0.1, 0, 0, 0, -0.1, 0), 10, 10, {"image_name": crs})
    writer.close()
    assert [one["properties"]["image_name"] for one in json.loads(text.getvalue())["features"]] == ["EPSG:4326"]
    assert writer.left_out_line() == (
        "4 chips are left out: pyproj cannot convert their CRS to WGS 84. It needs an EPSG code: My grid (2), "
        "user-defined (1), EPSG:1 (1)"
    )


def test_without_pyproj_the_setting_is_one_line_before_anything_is_loaded(tmp_path: Path) -> None:
    settings = PredictSettings(run=tmp_path / "none", data=tmp_path, geojson=True)
    with mock.patch("importlib.util.find_spec", return_value=None):
        line = one_line(lambda: predict_command(settings))
    assert line == (
        "GEOJSON=1 needs pyproj, which is not installed. `.venv/bin/pip install -c constraints.txt pyproj` installs it."
    )


def test_an_empty_collection_is_one() -> None:
    assert collection([]) == {"type": "FeatureCollection", "features": []}
