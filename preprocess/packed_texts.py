"""Many short texts in two arrays: about 20 bytes for a file name, where Python's own strings take 70.

In: texts, such as paths. Out: a sequence that makes each text when it is asked for, and texts found by a hash. Leaves
files to others.
"""

import hashlib
import json
import os
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import overload

import numpy as np
import xxhash

_BLOCK = 4096  # texts that are made at a time
_FEW = 1 << 16  # up to so many texts are sorted by Python: loading pyarrow takes 0.1 s and 33 MiB
_CODEC = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()  # those of os.fsencode, which takes twice as long


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedTexts(Sequence[str]):
    """Texts that all begin with `prefix`. Equal to any sequence of the same texts.

    data: uint8, what follows the prefix in each, one after another, as `os.fsencode` writes it. ends: (texts,) int64,
    where each one ends in `data`.
    """

    prefix: str
    data: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str]) -> "PackedTexts":
        """Pack texts. File names that are not UTF-8 stay as they are."""
        if isinstance(texts, PackedTexts):
            return texts
        prefix = os.path.commonprefix([min(texts), max(texts)]) if texts else ""  # noqa: RUF071  # of characters
        first = len(prefix)
        encoded = [os.fsencode(text[first:]) for text in texts]
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), dtype=np.int64)
        return cls(prefix=prefix, data=np.frombuffer(b"".join(encoded), np.uint8), ends=ends)

    @classmethod
    def collect(cls, texts: Iterable[str], prefix: str = "") -> "PackedTexts":
        """Pack texts as they come, so that they are never all in memory as Python's strings."""
        builder = TextBuilder(prefix)
        for text in texts:
            builder.append(text)
        return builder.packed()

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "PackedTexts": ...
    def __getitem__(self, index: int | slice) -> "str | PackedTexts":
        if isinstance(index, slice):
            return PackedTexts.collect(self.at(np.arange(*index.indices(len(self)))), self.prefix)
        place = range(len(self))[index]
        start = int(self.ends[place - 1]) if place else 0
        return self.prefix + self.data[start : int(self.ends[place])].tobytes().decode(*_CODEC)

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), _BLOCK):
            ends = self.ends[first : first + _BLOCK].tolist()
            offset, data = start, self.data[start : ends[-1]].tobytes()
            for end in ends:
                yield self.prefix + data[start - offset : end - offset].decode(*_CODEC)
                start = end

    def at(self, places: np.ndarray) -> Iterator[str]:
        """The texts at `places`, made in blocks: half the time of one after another."""
        data = self.data.data
        for first in range(0, len(places), _BLOCK):
            block = places[first : first + _BLOCK]
            starts = np.where(block > 0, self.ends[block - 1], 0).tolist()
            for start, end in zip(starts, self.ends[block].tolist(), strict=True):
                yield self.prefix + str(data[start:end], *_CODEC)

    def order(self) -> np.ndarray:
        """(texts,) int64: the positions of the texts in their order, equal ones as they come."""
        if len(self) > _FEW:
            import pyarrow
            import pyarrow.compute

            ends = np.concatenate([np.zeros(1, np.int64), self.ends])
            texts = pyarrow.LargeStringArray.from_buffers(
                len(self), pyarrow.py_buffer(ends), pyarrow.py_buffer(self.data)
            )
            with suppress(pyarrow.ArrowInvalid):  # not UTF-8: Python orders such texts by other bytes
                texts.validate(full=True)
                return np.asarray(pyarrow.compute.array_sort_indices(texts)).astype(np.int64)
        return np.array(sorted(range(len(self)), key=list(self).__getitem__), np.int64)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def take(self, rows: np.ndarray) -> "PackedTexts":
        """The texts at `rows`; itself if these are all of them, in order."""
        if len(rows) == len(self) and (rows == np.arange(len(self))).all():
            return self
        return PackedTexts.collect(self.at(rows), self.prefix)

    def sorted(self) -> "PackedTexts":
        """The texts in order."""
        return self.take(self.order())


class TextBuilder:
    """Packs texts that come one after another. All begin with `prefix`."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix, self._first = prefix, len(prefix)
        self._data, self._ends = bytearray(), array("q")

    def append(self, text: str) -> None:
        """Add a text."""
        self._data += text[self._first :].encode(*_CODEC)
        self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends)

    def has(self, place: int, text: str) -> bool:
        """Whether the text at `place` is `text`."""
        start = self._ends[place - 1] if place else 0
        return self._data[start : self._ends[place]] == text[self._first :].encode(*_CODEC)

    def packed(self) -> PackedTexts:
        """All texts so far. Nothing can be added afterwards."""
        data, ends = np.frombuffer(self._data, np.uint8), np.frombuffer(self._ends, np.int64)
        return PackedTexts(prefix=self._prefix, data=data, ends=ends)


class TextNumbers:
    """Numbers the different texts of a `TextBuilder` in the order in which they come first, and adds new ones. While
    texts come, 110 bytes for each."""

    def __init__(self, texts: TextBuilder) -> None:
        self._texts, self._last = texts, ("", -1)
        self._places: dict[int, int] = {}  # by hash
        self._others: dict[str, int] = {}  # texts whose hash is that of another text before them

    def number(self, text: str) -> int:
        """The number of a text; a new one if it is new."""
        if text != self._last[0] or self._last[1] < 0:
            # 60 bits: a Python integer of 32 bytes, with 64 bits it has 48.
            place = self._places.setdefault(_hash(text) >> 4, len(self._texts))
            if place < len(self._texts) and not self._texts.has(place, text):
                place = self._others.setdefault(text, len(self._texts))
            if place == len(self._texts):
                self._texts.append(text)
            self._last = text, place
        return self._last[1]


class HashIndex:
    """Finds the positions of a key among very many: 16 bytes per key, where a dict takes 100 and the key itself."""

    def __init__(self, keys: Iterable[str], count: int) -> None:
        hashes = np.fromiter(map(_hash, keys), np.uint64, count)
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    def find(self, key: str) -> list[int]:
        """Positions whose key has the same hash, ascending. The caller compares the keys: hashes of 64 bits differ in
        nearly all cases, not in all."""
        value = np.uint64(_hash(key))
        first = int(self._sorted.searchsorted(value))
        last = first
        while last < len(self._sorted) and self._sorted[last] == value:
            last += 1
        return [int(place) for place in self._order[first:last]]

    def find_all(self, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(number of the key, position) of all positions that `find` gives for each of `keys`, in this order."""
        hashes = np.fromiter(map(_hash, keys), np.uint64, len(keys))
        first = self._sorted.searchsorted(hashes)
        counts = self._sorted.searchsorted(hashes, side="right") - first
        numbers = np.repeat(np.arange(len(keys)), counts)
        within = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
        return numbers, self._order[first[numbers] + within]

    def first_of_each(self, keys: Iterable[str], count: int) -> np.ndarray:
        """(count,) int64: for each key the first position with the same hash, -1 where there is none."""
        hashes = np.fromiter(map(_hash, keys), np.uint64, count)
        places = np.minimum(self._sorted.searchsorted(hashes), max(0, len(self._sorted) - 1))
        if not len(self._sorted):
            return np.full(count, -1)
        return np.where(self._sorted[places] == hashes, self._order[places], -1)


def first_equal(texts: Sequence[str], key: Callable[[str], str] = str) -> np.ndarray:
    """(texts,) int64: for each text the position of the first one with an equal key."""
    hashes = np.fromiter((_hash(key(text)) for text in texts), np.uint64, len(texts))
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    result = np.asarray(first[inverse], np.int64)
    places: dict[str, int] = {}  # of keys whose hash is that of another key before them
    for place in np.flatnonzero(result != np.arange(len(texts))).tolist():
        if (own := key(texts[place])) != key(texts[int(result[place])]):
            result[place] = places.setdefault(own, place)
    return result


def positions(texts: Sequence[str], others: "PackedTexts", key: Callable[[str], str] = str) -> np.ndarray:
    """(texts,) int64: for each text the position in `others` of the first one with an equal key; -1 without one."""
    index = HashIndex(map(key, others), len(others))
    result = index.first_of_each(map(key, texts), len(texts))
    found = np.flatnonzero(result >= 0)
    for place, other in zip(found.tolist(), others.at(result[found]), strict=True):
        if (wanted := key(texts[place])) != key(other):
            result[place] = next((each for each in index.find(wanted) if key(others[each]) == wanted), -1)
    return result


def json_digest(texts: Iterable[str]) -> "hashlib._Hash":
    """SHA-256 of the list of all texts as `json.dumps` writes it, without that list in memory."""
    digest, separator = hashlib.sha256(b"["), ""
    for text in texts:
        digest.update((separator + json.dumps(text)).encode())
        separator = ", "
    digest.update(b"]")
    return digest


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))
