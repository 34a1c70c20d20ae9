"""Faults that are put into the program on purpose: with one of them the fuzzer must find silent cases (FAULT=).

Leaves running the fuzzer with them to `tests/test_fuzz.py`.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from preprocess import labels, shard, tiff
from preprocess.console import UserError


def _any_shard(*arguments: Any) -> Any:
    return _parse_index(*arguments[:5])  # without the digest that ties a shard to its place


class _FillingReader(tiff.Reader):
    """Returns the previous chip for one that cannot be read."""

    def read(self, *arguments: Any, **more: Any) -> np.ndarray:
        try:
            self._last = super().read(*arguments, **more).copy()
        except tiff.ChipError:
            self._last = getattr(self, "_last", np.zeros((3, 16, 12), np.uint16))
        return self._last


def _lenient_labels(*arguments: Any) -> labels.LabelTable:
    try:
        return _read_labels(*arguments)
    except UserError:
        return labels.LabelTable(
            names=("a",), labels=np.ones((1, 1), np.uint8), classes=("clear",), lines=np.array([2]), padded=frozenset()
        )


_parse_index, _read_labels = shard.parse_index, labels.read_labels
FAULTS: dict[str, Callable[[], Any]] = {
    "shards": lambda: mock.patch.object(shard, "parse_index", _any_shard),
    "chips": lambda: mock.patch.object(tiff, "Reader", _FillingReader),
    "csv": lambda: mock.patch.object(labels, "read_labels", _lenient_labels),
}
