"""SHARDS=i/n: a share of a store's shards, for hosts that convert one store together without a scheduler of tasks.

In: the text of the setting. Out: a range of shards. Imports nothing heavy: settings are checked with it.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """SHARDS=i/n: share `number` (from 1) of `count`."""

    number: int
    count: int

    def of(self, num_shards: int) -> range:
        """The shards of the share. The shares of all numbers have each shard once."""
        first, end = ((number * num_shards) // self.count for number in (self.number - 1, self.number))
        return range(first, end)


def shard_share(text: str) -> Share:
    """The share that SHARDS=2/4 names.

    Raises:
        ValueError: the text has another form; says which one is expected.
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError("a share such as 1/4 (the first of four)")
    return Share(int(found[1]), int(found[2]))
