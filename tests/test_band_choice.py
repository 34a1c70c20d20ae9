"""BANDS_IN, TRUNKS and BANDS_RGB: which bands a network is fed, and what is refused before torch is loaded."""

from collections.abc import Callable
from typing import Any

import pytest

from train.chip_checks import check_bands
from train.config import Config, make_config

S2 = ("B01", "B02", "B03", "B04", "B08", "B11", "B12")


def config(task: int = 1, **settings: Any) -> Config:
    return make_config("default", task=task, store="s.zarr", **settings)


@pytest.mark.parametrize(
    ("task", "settings", "stored", "named"),
    [
        (1, {}, (("red", "green", "blue"),), None),
        (3, {}, (("red", "green", "blue"), ("nir",)), None),
        (1, {"bands_rgb": "B04,B03,B02"}, (("B04", "B03", "B02"),), (("red", "green", "blue"),)),
        (4, {"bands_rgb": "c,b,a"}, (("c", "b", "a", "nir"),), (("red", "green", "blue", "nir"),)),
        (1, {"bands_in": "B11"}, (("B11",),), None),
        (4, {"bands_in": "B02,B08,B04"}, (("B02", "B08", "B04"),), None),
        (1, {"bands_in": "B08,B02,B03,B04", "bands_rgb": "B04,B03,B02"}, (("B08", "B02", "B03", "B04"),),
         (("B08", "blue", "green", "red"),)),
        (3, {"trunks": "B04,B03,B02;B08,B11;B12", "bands_rgb": "B04,B03,B02"},
         (("B04", "B03", "B02"), ("B08", "B11"), ("B12",)), (("red", "green", "blue"), ("B08", "B11"), ("B12",))),
        (1, {"bands_rgb": "nir,red,green"}, (("nir", "red", "green"),), (("red", "green", "blue"),)),
        (1, {"bands_in": " B04, B03 "}, (("B04", "B03"),), None),
    ],
)  # fmt: skip
def test_bands_of_the_store_and_their_names_in_the_network(
    task: int, settings: dict[str, str], stored: tuple, named: tuple | None
) -> None:
    made = config(task, **settings)
    assert made.band_groups == stored
    assert made.band_choice.named == (named or stored)
    check_bands(made, tuple({band for group in stored for band in group}), "s.zarr")


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (3, {"bands_in": "a,b"}, "BANDS_IN=a,b: expected TRUNKS=...;... with TASK=3"),
        (1, {"trunks": "a;b"}, "TRUNKS=a;b: expected TASK=3, which joins several networks; TASK=1 is one network"),
        (4, {"trunks": "a;b"}, "TRUNKS=a;b: expected TASK=3, which joins several networks; TASK=4 is one network"),
        (3, {"trunks": "a,b"}, "TRUNKS=a,b: expected the bands of two or more networks with ; between them"),
        (3, {"trunks": "a,b;b"}, "TRUNKS=a,b;b: expected a different name for each band"),
        (3, {"trunks": "a,b;"}, "TRUNKS=a,b;: expected a different name for each band"),
        (1, {"bands_in": "a,,b"}, "BANDS_IN=a,,b: expected a different name for each band"),
        (1, {"bands_in": "a;b"}, "BANDS_IN=a;b: expected bands with commas between them, and no ;"),
        (1, {"bands_rgb": "a,b"}, "BANDS_RGB=a,b: expected three bands: red, green, blue"),
        (1, {"bands_rgb": "a,b,c", "bands_in": "d"}, "BANDS_RGB=a,b,c has no effect: BANDS_IN has none of them."),
        (4, {"bands_rgb": "a,b,c", "bands_in": "a,b,c,red"}, "BANDS_RGB=a,b,c: two bands would be called red"),
        (1, {"bands_in": "a", "input": "course"}, "BANDS_IN=a: INPUT=course has bands of its own."),
        (1, {"bands_rgb": "a,b,c", "input": "course"}, "BANDS_RGB=a,b,c: INPUT=course has bands of its own."),
    ],
)
def test_bands_that_do_not_fit_the_task_are_refused(
    refused: Callable[..., str], task: int, settings: dict[str, str], message: str
) -> None:
    assert message in refused(lambda: config(task, **settings))


@pytest.mark.parametrize(
    ("task", "settings", "bands", "message"),
    [
        (1, {}, S2, "TASK=1: expected the bands red, green, blue, found B01, B02, B03, B04, B08, B11, B12 in s.zarr "
         "(red, green, blue is missing). Say which bands are red, green and blue (such as BANDS_RGB=B04,B03,B02), or "
         "choose the bands of the network (such as BANDS_IN=B01,B02,B03,B04,B08,B11), or name the bands at conversion "
         "(BANDS=blue,green,red,nir)."),
        (4, {}, ("red", "green", "blue"), "(nir is missing). Choose the bands of the network (such as BANDS_IN=red,"),
        (4, {}, S2, "Choose the bands of the network (such as BANDS_IN=B01,B02,B03,B04,B08,B11), or name"),
        (3, {}, S2, 'Choose the bands of each network (such as TRUNKS="B04,B03,B02;B01,B08,B11,B12"), or name'),
        (1, {}, ("VV", "VH"), "Choose the bands of the network (such as BANDS_IN=VV,VH), or name the bands"),
        (1, {"bands_rgb": "B4,B3,B2"}, S2, "BANDS_RGB=B4,B3,B2: expected bands of the chips, found B01, B02, "),
        (4, {"bands_rgb": "B04,B03,B02"}, S2, "(nir is missing). Choose the bands of the network"),
        (1, {"bands_in": "B04,B05"}, S2, "BANDS_IN=B04,B05: expected bands of the chips, found B01, "),
        (3, {"trunks": "B04;X"}, S2, "B12 in s.zarr (X is missing)."),
    ],
)  # fmt: skip
def test_bands_that_the_chips_lack_are_refused_with_an_offer_of_those_that_are_there(
    refused: Callable[..., str], task: int, settings: dict[str, str], bands: tuple[str, ...], message: str
) -> None:
    assert message in refused(lambda: check_bands(config(task, **settings), bands, "s.zarr"))
