"""Check that a JPEG stream is complete, which its decoder does not do.

In: the JPEG bytes of a file, or of one strip or tile of a TIFF. Out: a `Stream`, or the reason why it is incomplete.
libjpeg only warns if the data ends too early, and fills missing pixels with grey; imagecodecs drops the warning. Leaves
decoding to `image_file` and `tiff_segments`.
"""

import re
from dataclasses import dataclass, field

from preprocess.jpeg_scans import ScanCheck

_SCAN, _END = 0xDA, 0xD9
_END_BYTES = bytes((0xFF, _END))
_RESTARTS = range(0xD0, 0xD8)
# Frame headers: baseline, extended, progressive and lossless Huffman. libjpeg reads no others without extras.
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3)
_BASELINE, _APP14, _RESTART_INTERVAL = (0xC0, 0xC1), 0xEE, 0xDD
_OTHERS = (0xC4, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0))  # tables, intervals, comments, APPn
_FILLER = bytes((0xA5, 0x3C, 0x5A, 0x96)) * 16
# In the coded data of a scan: 0xFF that is not escaped by a 0 behind it.
_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Height, width, bits per sample, and number of components, from the frame header.

    `is_subsampled`: components differ in size. `is_adobe`: the file says how Adobe's programs stored the colours.
    `in_one_scan`: one Huffman-coded scan without restarts holds the whole picture, from top to bottom. `data`: up to
    the end marker. `ends`: where the coded data of a scan, or of the part before a restart, ends.
    """

    height: int
    width: int
    bits: int
    num_components: int
    is_subsampled: bool
    is_adobe: bool
    in_one_scan: bool
    data: bytes
    ends: tuple[int, ...]

    @property
    def padded(self) -> bytes:
        """The stream with extra bytes after each scan.

        A decoder skips bytes between a complete scan and the next marker, but decodes them if the scan is incomplete.
        So this decodes to the same pixels if, and only if, every scan is complete.
        """
        starts = (0, *self.ends)
        return _FILLER.join(self.data[start:end] for start, end in zip(starts, (*self.ends, None), strict=True))


def parse(data: bytes, *, is_file: bool = False) -> Stream:
    """Parse the markers of one JPEG stream. With `is_file`, other data may follow it, as cameras write it.

    Chips of one data set often have the same bytes in front of their only scan. They are not parsed again, which takes
    half the time.

    Raises:
        ValueError: start, frame, end, a scan or a part of one is missing; a marker is unknown; bytes follow the end.
    """
    global _known
    stream = _as_known(data, *_known) if _known else None
    if stream is None:
        segments, start, end = _parse_all(data)
        _check_end(data, end, is_file)
        stream = segments.stream(data[:end])
        _known = (data[:start], stream) if len(stream.ends) == 1 and stream.ends[0] == end - 2 else None
    else:
        _check_end(data, len(stream.data), is_file)
    return stream


def _check_end(data: bytes, end: int, is_file: bool) -> None:
    if not is_file and data[end:].strip(b"\0\xff"):
        raise ValueError("extra bytes after the end of JPEG data")


_known: tuple[bytes, Stream] | None = None  # the previous stream, if it had one part, and its bytes in front of that


def _as_known(data: bytes, header: bytes, known: Stream) -> Stream | None:
    """The stream if it has this header and one part, as `known` had; else None."""
    if not data.startswith(header):
        return None
    ends = _ends_of_scan(data, len(header))
    if len(ends) > 1 or data[ends[0] : ends[0] + 2] != _END_BYTES:
        return None
    return Stream(
        height=known.height, width=known.width, bits=known.bits, num_components=known.num_components,
        is_subsampled=known.is_subsampled, is_adobe=known.is_adobe, in_one_scan=known.in_one_scan,
        data=data[: ends[0] + 2], ends=tuple(ends),
    )  # fmt: skip


def _parse_all(data: bytes) -> tuple["_Segments", int, int]:
    """All segments, where the coded data of the last scan begins, and the end of the stream."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("JPEG data without a start marker")
    segments, at, start = _Segments(), 2, 0
    while True:
        at, marker = _next_marker(data, at)
        if marker == _END:
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker not in (*_FRAMES, *_OTHERS, _SCAN) or length < 2 or at + 2 + length > len(data):
            raise ValueError(f"an unknown or incomplete marker {marker:#x} in JPEG data")
        segment = data[at : at + 2 + length]
        at += len(segment)
        if marker == _SCAN:
            start, ends = at, _ends_of_scan(data, at)
            segments.add_scan(segment, ends)
            at = ends[-1]
        else:
            segments.add(marker, segment)
    return segments, start, at + 2


@dataclass(kw_only=True)
class _Segments:
    """What the segments of a stream say so far."""

    frame: bytes = b""
    check: ScanCheck | None = None
    restart_interval: int = 0
    ends: list[int] = field(default_factory=list)
    is_adobe: bool = False

    def add(self, marker: int, segment: bytes) -> None:
        if marker in _FRAMES:
            if self.check or len(segment) < 10:
                raise ValueError("a second or incomplete frame in JPEG data")
            self.frame, self.check = segment, ScanCheck(segment)
        elif marker == _RESTART_INTERVAL:
            self.restart_interval = int.from_bytes(segment[4:6], "big")
        elif marker == _APP14:
            self.is_adobe |= segment[4:9] == b"Adobe"

    def add_scan(self, segment: bytes, ends: list[int]) -> None:
        if self.check is None:
            raise ValueError("JPEG data without a frame before its first scan")
        self.ends += ends
        self.check.add(segment, self.restart_interval, len(ends) - 1)

    def stream(self, data: bytes) -> Stream:
        if self.check is None:
            raise ValueError("JPEG data without a frame")
        self.check.finish()
        frame = self.frame
        height, width = (int.from_bytes(frame[start : start + 2], "big") for start in (5, 7))
        return Stream(
            height=height, width=width, bits=frame[4], num_components=frame[9],
            is_subsampled=len(set(frame[11::3])) > 1,  # one byte per component
            is_adobe=self.is_adobe, in_one_scan=len(self.ends) == 1 and frame[1] in _BASELINE, data=data,
            ends=tuple(self.ends),
        )  # fmt: skip


def _next_marker(data: bytes, at: int) -> tuple[int, int]:
    """(position, marker) from `at` on, without fill bytes."""
    while True:
        if at + 2 > len(data):
            raise ValueError("JPEG data without an end marker")
        if data[at] != 0xFF:
            raise ValueError("a marker missing in JPEG data")
        if data[at + 1] != 0xFF:
            return at, data[at + 1]
        at += 1


def _ends_of_scan(data: bytes, at: int) -> list[int]:
    """Positions of the restart markers in the coded data from `at` on, and of the marker behind it."""
    ends = []
    for match in _MARKER.finditer(data, at):
        end = match.start()
        while data[end - 1] == 0xFF and end > at:  # fill bytes
            end -= 1
        ends.append(end)
        if match[1][0] not in _RESTARTS:
            return ends
    raise ValueError("JPEG data without an end marker")
