"""Check the chunks of a PNG: libpng only warns about damaged pixels.

In: the bytes. Out: a `PngHeader`, or a ValueError. Leaves decoding to imagecodecs.
"""

import struct
import zlib
from dataclasses import dataclass

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Samples of each colour type.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


@dataclass(frozen=True, kw_only=True)
class PngHeader:
    """Size, bits per sample, samples per pixel.

    is_palette: values are indices into a table of colours. has_alpha: the last sample is alpha. transparent: the
    values of the colour that counts as transparent, one per sample, or ().
    """

    height: int
    width: int
    bits: int
    samples: int
    is_palette: bool
    has_alpha: bool
    transparent: tuple[int, ...]


def parse(data: bytes) -> PngHeader:
    """Compare the CRC-32 of each chunk, and read the header.

    Raises:
        ValueError: a chunk is damaged or missing.
    """
    if data[:8] != _SIGNATURE:
        raise ValueError("PNG data without its signature")
    at, header, transparent = 8, b"", b""
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data) or zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise ValueError(f"PNG chunk at byte {at} is damaged")
        if kind == b"IHDR":
            header = data[at + 8 : end - 4]
        elif kind == b"tRNS":
            transparent = data[at + 8 : end - 4]
        elif kind == b"IEND":
            return _header(header, transparent)
        at = end
    raise ValueError("PNG data without an end")


def _header(header: bytes, transparent: bytes) -> PngHeader:
    if len(header) != 13:
        raise ValueError("PNG data without a header")
    width, height, bits, colour = struct.unpack(">IIBB", header[:10])
    if colour not in _SAMPLES:
        raise ValueError(f"PNG data of colour type {colour}")
    samples = _SAMPLES[colour]
    values = struct.unpack(f">{samples}H", transparent) if colour in (0, 2) and len(transparent) == 2 * samples else ()
    return PngHeader(
        height=height, width=width, bits=bits, samples=samples, is_palette=colour == 3, has_alpha=colour in (4, 6),
        transparent=values,
    )  # fmt: skip
