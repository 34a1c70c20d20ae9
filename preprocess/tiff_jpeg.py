"""Check that a JPEG stream is complete, which its decoder does not do.

In: the JPEG bytes of one strip or tile of a TIFF. Out: height and width, or the reason why the stream is incomplete.
libjpeg only warns if the data ends too early, and fills missing pixels with grey; imagecodecs drops the warning. Leaves
decoding to `tiff_segments`.
"""

from dataclasses import dataclass

_SCAN, _END = 0xDA, 0xD9
_RESTARTS = range(0xD0, 0xD8)
# Frame headers: baseline, extended, progressive and lossless Huffman. libjpeg reads no others without extras.
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3)
_OTHERS = (0xC4, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0))  # tables, intervals, comments, APPn
_FILLER = bytes((0xA5, 0x3C, 0x5A, 0x96)) * 16


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Height, width, and whether components differ in size, from the frame header.

    `padded` is the stream with extra bytes after each scan. A decoder skips bytes between a complete scan and the next
    marker, but decodes them if the scan is incomplete. So `padded` decodes to the same pixels if, and only if, every
    scan is complete.
    """

    height: int
    width: int
    is_subsampled: bool
    padded: bytes


def parse(data: bytes) -> Stream:
    """Parse the markers of one JPEG stream.

    Raises:
        ValueError: start, frame, scan or end is missing; a marker is unknown; bytes follow the end.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("JPEG data without a start marker")
    out, at, frame, scans = bytearray(data[:2]), 2, b"", 0
    while True:
        at, marker = _next_marker(data, at)
        if marker == _END:
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker not in (*_FRAMES, *_OTHERS, _SCAN) or length < 2 or at + 2 + length > len(data):
            raise ValueError(f"an unknown or incomplete marker {marker:#x} in JPEG data")
        if marker in _FRAMES:
            if frame or length < 8:
                raise ValueError("a second or incomplete frame in JPEG data")
            frame = data[at : at + 2 + length]
        out += data[at : at + 2 + length]
        at += 2 + length
        if marker == _SCAN:
            scans += 1
            at = _pad_scan(data, at, out)
    if not frame or not scans:
        raise ValueError("JPEG data without a frame or a scan")
    if data[at + 2 :].strip(b"\0\xff"):
        raise ValueError("extra bytes after the end of JPEG data")
    height, width = (int.from_bytes(frame[start : start + 2], "big") for start in (5, 7))
    sampling = frame[11::3]  # one byte per component
    padded = bytes(out + data[at : at + 2])
    return Stream(height=height, width=width, is_subsampled=len(set(sampling)) > 1, padded=padded)


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


def _pad_scan(data: bytes, at: int, out: bytearray) -> int:
    """Copy entropy-coded data from `at` on, with filler before each marker. Returns the position of the next marker."""
    while True:
        end = data.find(b"\xff", at)
        if end < 0 or end + 2 > len(data):
            raise ValueError("JPEG data without an end marker")
        out += data[at:end]
        following = data[end + 1]
        if following == 0:  # an escaped 0xFF of the coded data
            out += b"\xff\0"
            at = end + 2
        elif following == 0xFF:
            at = end + 1
        else:
            out += _FILLER
            if following not in _RESTARTS:
                return end
            out += data[end : end + 2]
            at = end + 2
