"""Which bands are red, green, blue and near infrared, by the names that this field uses.

In: names of bands. Out: names of bands. Leaves the values to others.
"""

from collections.abc import Iterable

COLOURS = ("red", "green", "blue")
# (red, green, blue, near infrared): plain names, Sentinel-2, and Landsat 8 and 9 of Collection 2.
_SENSORS = (
    (*COLOURS, "nir"),
    ("B04", "B03", "B02", "B08"),
    ("SR_B4", "SR_B3", "SR_B2", "SR_B5"),
)


def true_colour(bands: Iterable[str]) -> tuple[str, ...]:
    """The red, green and blue band; empty if one of them is missing or its name is not known."""
    has = set(bands)
    return next((names[:3] for names in _SENSORS if has.issuperset(names[:3])), ())


def near_infrared(bands: Iterable[str]) -> str:
    """The near infrared band; "" if it is missing or its name is not known."""
    has = set(bands)
    return next((names[3] for names in _SENSORS if names[3] in has), "")


def false_colour(bands: Iterable[str]) -> tuple[str, ...]:
    """Near infrared, red and green, shown as red, green and blue: vegetation is red. Empty if one is missing."""
    has = set(bands)
    return next(((nir, red, green) for red, green, _, nir in _SENSORS if has.issuperset((nir, red, green))), ())
