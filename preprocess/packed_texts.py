"""Many short texts in two arrays: about 20 bytes for a file name, where Python's own strings take 70.

In: texts, such as paths. Out: a sequence that makes each text when it is asked for. Leaves files to others.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedTexts(Sequence[str]):
    """Texts that all begin with `prefix`.

    data: uint8, what follows the prefix in each, one after another, as `os.fsencode` writes it. ends: (texts,) int64,
    where each one ends in `data`.
    """

    prefix: str
    data: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str]) -> "PackedTexts":
        """Pack texts. File names that are not UTF-8 stay as they are."""
        prefix = os.path.commonprefix([min(texts), max(texts)]) if texts else ""  # noqa: RUF071  # of characters
        first = len(prefix)
        encoded = [os.fsencode(text[first:]) for text in texts]
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), dtype=np.int64)
        return cls(prefix=prefix, data=np.frombuffer(b"".join(encoded), np.uint8), ends=ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[each] for each in range(*index.indices(len(self))))
        place = range(len(self))[index]
        start = int(self.ends[place - 1]) if place else 0
        return self.prefix + os.fsdecode(self.data[start : int(self.ends[place])].tobytes())

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))
