"""How a conversion read its files: the settings that a reader of new files must repeat.

In: the attribute `source` of a store. Out: its texts about reading, such as {"size": "256x256", "fit": "pad"}. Leaves
reading to `chip_reader` and `fit`.
"""

import re
from typing import Any

from preprocess.file_patterns import check_pattern

NOT_ABOUT_READING = ("labels", "crs_units", "nodata")  # the layout has the nodata that counts
_FORMS = {"size": r"[1-9]\d{0,5}x[1-9]\d{0,5}", "fit": "crop|pad|resize", "axes": "YXS|SYX", "window": r"[1-9]\d{0,4}",
          "stride": r"[1-9]\d{0,4}", "edges": "pad"}  # fmt: skip


def reading_of(source: dict[str, Any]) -> dict[str, str]:
    """All of `source` that is about reading files; {} if they were read as they are."""
    return {key: str(value) for key, value in source.items() if key not in NOT_ABOUT_READING}


def is_reading(reading: dict[str, str]) -> bool:
    """Whether the values are such as a conversion records. Keys that this version does not know are accepted."""
    if ("fit" in reading) != ("size" in reading):
        return False
    if "files" in reading:
        try:
            check_pattern(reading["files"])
        except ValueError:
            return False
    return all(re.fullmatch(form, reading[key]) for key, form in _FORMS.items() if key in reading)


def unknown_keys(reading: dict[str, str]) -> list[str]:
    """Keys of a newer version: files cannot be read in the same way without them."""
    return sorted(reading.keys() - _FORMS.keys() - {"files"})
