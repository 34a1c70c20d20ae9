"""Damaged files of labels: the program's reader is compared with another one.

In: intact files of one suffix. Out: damaged ones, and a verdict for each. Leaves both readers, and the damage that a
kind of file needs, to `csvs` and `tables`, whose heads say what each verdict means.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.damage import Special, damage_bytes, write_entry
from fuzz.outcome import Case, Refused, attempt


class LabelFiles(ABC):
    """Damage to labels files of one suffix, one to three operations per case."""

    suffix = ""

    def __init__(self, bases: Path, work: Path) -> None:
        self._bases = {path.stem: path.read_bytes() for path in sorted(bases.glob(f"*{self.suffix}"))}
        self._tables = {name: self.read(bases / f"{name}{self.suffix}") for name in self._bases}
        self._path, self._name = work / f"tags{self.suffix}", ""

    def operations(self) -> tuple[Callable[[random.Random, bytes], tuple[bytes, str]], ...]:
        """How the file is damaged."""
        return (damage_bytes,)

    @abstractmethod
    def read(self, path: Path) -> list[Any]:
        """The rows as the program finds them: (name, tags, ...)."""

    @abstractmethod
    def strict(self, path: Path) -> list[Any]:
        """The rows as another reader finds them. Any exception: it refuses the file."""

    def draw(self, rng: random.Random, case: Case) -> None:
        """Choose a file and damage it."""
        self._name = rng.choice(list(self._bases))
        data = self._bases[self._name]
        case.operations.append(self._name)
        if rng.random() < 0.01:
            write_entry(self._path.parent, self._path.name, content := Special(rng.choice(("folder", "missing"))))
            case.operations.append(f"a {content.kind}")
            return
        for _ in range(rng.choice((1, 1, 2, 3))):
            data, text = rng.choice(self.operations())(rng, data)
            case.operations.append(text)
        write_entry(self._path.parent, self._path.name, data)

    def judge(self, case: Case) -> Case:
        """Read it with the program and with the other reader."""
        try:
            table = attempt(lambda: self.read(self._path))
        except Refused as error:
            return case.to("refused", str(error))
        if table == self._tables[self._name]:
            return case.to("equal")
        if odd := sorted(tag for row in table for tag in row[1] if not tag.isprintable()):
            return case.to("silent", f"accepts {odd[0]!r} as a class")
        try:
            expected = self.strict(self._path)
        except Exception as error:  # pyarrow raises many types on damaged input
            return case.to("silent", f"{len(table)} rows; the other reader refuses: {error}")
        if table == expected:
            return case.to("altered")
        differs = next((pair for pair in zip(table, expected, strict=False) if pair[0] != pair[1]), None)
        return case.to("silent", f"{len(table)} rows; the other reader: {len(expected)}; first difference: {differs}")

    def mend(self) -> None:  # noqa: B027  # nothing to do is right for every file
        """Nothing to restore: the next case writes a new file."""
