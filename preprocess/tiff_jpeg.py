"""Whether a JPEG stream is whole, which its decoder does not say.

In: the JPEG bytes of one strip or block of a TIFF. Out: its height and width, or a reason why it is not whole.
libjpeg only warns when the data ends too early, and returns grey for what is missing; imagecodecs drops the warning.
Leaves decoding to `tiff_segments`.
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
    """Height and width as the frame header says. `padded` is the stream with more bytes behind each scan.

    A decoder skips bytes between a complete scan and the next marker. It decodes them where the scan is incomplete.
    So `padded` decodes to the same pixels if, and only if, every scan is complete.
    """

    height: int
    width: int
    padded: bytes


def parse(data: bytes) -> Stream:
    """Walk through the markers of one JPEG stream.

    Raises:
        ValueError: no start, no frame, no scan or no end; an unknown marker; bytes behind the end.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("JPEG data without a start marker")
    out, at, size, scans = bytearray(data[:2]), 2, None, 0
    while True:
        if data[at : at + 1] != b"\xff" or at + 2 > len(data):
            raise ValueError(
                "JPEG data without an end marker" if at + 2 > len(data) else "a marker missing in JPEG data"
            )
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == _END:
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker not in (*_FRAMES, *_OTHERS, _SCAN) or length < 2 or at + 2 + length > len(data):
            raise ValueError(f"an unknown or cut marker {marker:#x} in JPEG data")
        if marker in _FRAMES:
            if size is not None or length < 8:
                raise ValueError("a second or cut frame in JPEG data")
            size = tuple(int.from_bytes(data[at + start : at + start + 2], "big") for start in (5, 7))
        out += data[at : at + 2 + length]
        at += 2 + length
        if marker == _SCAN:
            scans += 1
            at = _pad_scan(data, at, out)
    if size is None or not scans:
        raise ValueError("JPEG data without a frame or a scan")
    if data[at + 2 :].strip(b"\0\xff"):
        raise ValueError("more bytes behind the end of JPEG data")
    return Stream(height=size[0], width=size[1], padded=bytes(out + data[at : at + 2]))


def _pad_scan(data: bytes, at: int, out: bytearray) -> int:
    """Copy entropy-coded data from `at` on, with filler before each marker. Returns where the next marker begins."""
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
