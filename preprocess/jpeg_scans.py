"""Check that the scans of a JPEG stream hold the whole picture: all components, all bits, all restarts.

In: the frame header, and each scan header with the number of its restart markers. Out: nothing, or a ValueError.
Without this, a stream that is cut between two scans or two restarts looks complete: libjpeg shows a blurred picture, or
grey. Leaves the data of the scans to `jpeg_stream`.
"""

import math

_LOSSLESS, _COEFFICIENTS = 0xC3, 64


class ScanCheck:
    """Follows the scans of one stream. Names are those of the standard (ITU-T T.81, section B.2)."""

    def __init__(self, frame: bytes) -> None:
        """`frame`: the frame header with its marker."""
        count = frame[9]
        if len(frame) < 10 + 3 * count or not count:
            raise ValueError("an incomplete frame in JPEG data")
        self._marker = frame[1]
        self._size = int.from_bytes(frame[7:9], "big"), int.from_bytes(frame[5:7], "big")  # width, height
        factors = [divmod(frame[11 + 3 * index], 16) for index in range(count)]
        self._factors = {frame[10 + 3 * index]: factors[index] for index in range(count)}
        self._most = [max(factor[axis] for factor in factors) for axis in range(2)]
        if len(self._factors) != count or not all(1 <= factor <= 4 for pair in factors for factor in pair):
            raise ValueError("a damaged frame in JPEG data")
        # Bits that are missing at the low end of each coefficient; None: of all its bits.
        self._missing: dict[int, list[int | None]] = {name: [None] * _COEFFICIENTS for name in self._factors}

    def add(self, scan: bytes, interval: int, num_restarts: int) -> None:
        """Note one scan.

        Args:
            scan: its header, with the marker.
            interval: units between two restarts; 0 without restarts.
            num_restarts: markers in its data.

        Raises:
            ValueError: the header is damaged, or there are more or fewer restarts than the picture needs.
        """
        count = scan[4] if len(scan) > 4 else 0
        if len(scan) != 8 + 2 * count or not all(name in self._factors for name in scan[5 : 5 + 2 * count : 2]):
            raise ValueError("a damaged scan in JPEG data")
        names = list(scan[5 : 5 + 2 * count : 2])
        first, last, low = scan[-3], scan[-2], scan[-1] & 15
        if self._marker == _LOSSLESS:
            first, last, low = 0, _COEFFICIENTS - 1, 0
        elif interval and num_restarts != -(-self._units(names) // interval) - 1:
            raise ValueError(f"{num_restarts} restarts in JPEG data of {self._units(names)} units")
        for name in names:
            self._missing[name][first : last + 1] = [low] * len(self._missing[name][first : last + 1])

    def finish(self) -> None:
        """Raise ValueError if a scan is missing."""
        if any(coefficients != [0] * _COEFFICIENTS for coefficients in self._missing.values()):
            raise ValueError("JPEG data without all of its scans")

    def _units(self, names: list[int]) -> int:
        """Units that restarts count: blocks in a scan of one component, else groups of blocks of all components."""
        sides = []
        for axis in range(2):
            factor = self._factors[names[0]][axis] if len(names) == 1 else None
            samples = self._size[axis] if factor is None else -(-self._size[axis] * factor // self._most[axis])
            sides.append(-(-samples // (8 * self._most[axis] if factor is None else 8)))
        return math.prod(sides)
