"""The description of a network that a run writes into the metadata of its model file.

In: `NetworkInfo` or JSON. Out: the other. Leaves the tensors to `weights`.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

KEY = "canopy"  # of `NetworkInfo` as JSON in the metadata of a file
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class NetworkInfo:
    """The description of a network in the model file of one of our runs.

    bands: of each trunk, in the order of conv1's channels. input: the run's INPUT. pool: whether max pooling follows
    conv1. stem: one of `resnet.STEMS`. mean, std: of each channel in the order of all trunks' bands, in the units of
    the values; empty in files of earlier versions.
    """

    arch: str
    task: int
    bands: tuple[tuple[str, ...], ...]
    input: str
    pool: bool
    classes: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    stem: str = "imagenet"

    def text(self) -> str:
        """As JSON. Equal descriptions give equal bytes."""
        values = {name: value for name, value in asdict(self).items() if value != _LATER.get(name)}
        return json.dumps({"version": VERSION, **values}, sort_keys=True)


# Fields that earlier versions did not write, and their values then. Those are not written now either.
_LATER: dict[str, Any] = {"mean": (), "std": (), "stem": "imagenet"}


def parse_info(text: str) -> NetworkInfo:
    """The inverse of `NetworkInfo.text`.

    Raises:
        ValueError: the text is no such description; the message gives the reason.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("expected a JSON object")
    version = values.pop("version", None)
    if version != VERSION:
        raise ValueError(f"expected version {VERSION}, found {version!r}: it was written by another version of canopy")
    if set(values) - set(_LATER) != {field.name for field in fields(NetworkInfo)} - set(_LATER):
        raise ValueError(f"expected {', '.join(field.name for field in fields(NetworkInfo))}")
    bands, classes = values["bands"], values["classes"]
    words = isinstance(bands, list) and len(bands) > 0 and all(map(_is_words, bands)) and _is_words(classes)
    distinct = words and all(len(set(group)) == len(group) for group in bands)
    kinds = {"arch": str, "task": int, "input": str, "pool": bool}
    if not distinct or any(type(values[name]) is not kind for name, kind in kinds.items()):
        raise ValueError("a value is of another type")
    if values.get("stem", "imagenet") not in ("imagenet", "small"):
        raise ValueError("a value is of another type")
    numbers = {name: values.pop(name) for name in ("mean", "std") if name in values}
    if not all(map(_is_numbers, numbers.values())):
        raise ValueError("a value is of another type")
    values |= {name: tuple(value) for name, value in numbers.items()}
    return NetworkInfo(**{**values, "bands": tuple(map(tuple, bands)), "classes": tuple(classes)})


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(word, str) for word in value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(type(number) is float for number in value)
