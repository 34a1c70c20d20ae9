"""Read one PNG or JPEG as a (bands, height, width) array of exactly the decoder's values.

In: a PNG of 8 or 16 bits, or a JPEG of 8 bits. Out: a C-contiguous uint8 or uint16 array, or a ChipError. The first
bytes of a file decide which of the two it is, not its name. A file that is damaged or cut is refused. Leaves the checks
of the bytes to `png_chunks` and `jpeg_stream`, decoding to imagecodecs.

A fourth sample that is opaque everywhere is dropped: programs add it to colours without being asked. Planet's JPEGs
have one, too. Some programs take their four components for inverted cyan, magenta, yellow and black (none: 255). If
they save them so, with Adobe's marker, no value changes.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np

from preprocess import jpeg_stream, png_chunks
from preprocess.console import UserError
from preprocess.expected import ANY, Expected
from preprocess.files import open_regular
from preprocess.jpeg_stream import Stream
from preprocess.png_chunks import PngHeader
from preprocess.tiff_header import MAX_CHIP_BYTES, MAX_SIDE, complaints_are_errors
from preprocess.tiff_metadata import Facts
from preprocess.tiff_page import ChipError

OpenFile = Callable[[str | Path], BinaryIO]
_ADVICE = "Fetch it again, or remove it from the CSV."
_UNFINISHED = 128  # the value that libjpeg gives to pixels for which a stream has no data


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """The bytes of a file and what its header says. `samples` includes alpha."""

    data: bytes
    header: PngHeader | Stream
    samples: int
    dtype: str

    @property
    def decoded_shape(self) -> tuple[int, ...]:
        """(height, width), and samples if there are several. The decoder turns a transparent colour into alpha."""
        samples = self.samples + (isinstance(self.header, PngHeader) and bool(self.header.transparent))
        return self.header.height, self.header.width, *((samples,) if samples > 1 else ())

    @property
    def may_drop(self) -> bool:
        """Whether the last sample is no band if it is opaque."""
        return self.samples == 4 or (isinstance(self.header, PngHeader) and self.header.has_alpha)


class ImageReader:
    """Reads chips into memory that is reused: in fresh memory, decoding a JPEG takes 1.6 times as long."""

    def __init__(self, open_file: OpenFile = open_regular) -> None:
        self._open_file = open_file
        self._decoded: np.ndarray = np.empty(0, np.uint8)
        self._planes: np.ndarray = np.empty(0, np.uint8)

    def read(self, path: str | Path, expected: Expected = ANY) -> np.ndarray:
        """Read one chip.

        Returns:
            (bands, height, width) uint8 or uint16, C-contiguous; valid until the next call.

        Raises:
            ChipError: the file is neither PNG nor JPEG, is damaged, has a palette, transparent pixels, or another dtype
                or shape.
            OSError: raised by the operating system.
        """
        with _damage_named(path):
            picture = _parse(_file_bytes(path, self._open_file), path)
            shape = _expected_shape(picture, expected)
            expected.check(path, shape, picture.dtype)
            if (self._decoded.shape, self._decoded.dtype.name) != (picture.decoded_shape, picture.dtype):
                self._decoded = np.empty(picture.decoded_shape, picture.dtype)
            with complaints_are_errors():
                _decode(picture, self._decoded)
        from preprocess.planes import copy_to_planes  # here: it needs numba, which takes 0.3 s

        values = self._decoded.reshape(*shape[1:], -1)
        planes = (values.shape[2], *shape[1:])
        if (self._planes.shape, self._planes.dtype) != (planes, values.dtype):
            self._planes = np.empty(planes, values.dtype)
        copy_to_planes(values, self._planes)
        _check_dropped(picture, self._planes[shape[0] : picture.samples], path)
        return self._planes[: shape[0]]


def read_facts(path: str | Path, expected: Expected = ANY, open_file: OpenFile = open_regular) -> Facts:
    """Read only the header; raises like `ImageReader.read`."""
    with _damage_named(path):
        picture = _parse(_file_bytes(path, open_file), path)
    colours = set(picture.header.transparent) if isinstance(picture.header, PngHeader) else set()
    return Facts(
        is_rgb=_expected_shape(picture, expected)[0] == 3, is_other_than_rgb=False, zero_is_white=False,
        descriptions=(), nodata=str(colours.pop()) if len(colours) == 1 else None, order="YXS", axes=None, guess="",
    )  # fmt: skip


@contextmanager
def _damage_named(path: str | Path) -> Iterator[None]:
    """Turn every error of the parsers and decoders into a ChipError that names the file."""
    try:
        yield
    except (UserError, MemoryError, OSError):
        raise
    except Exception as error:  # each codec has an error of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ChipError(path, "a valid PNG or JPEG", f"a file that is damaged ({reason})", _ADVICE) from error


def _file_bytes(path: str | Path, open_file: OpenFile) -> bytes:
    """The bytes of a file, if a chip can have so many."""
    with open_file(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > 2 * MAX_CHIP_BYTES:
            raise ChipError(path, f"a chip of at most {MAX_CHIP_BYTES // 2**20} MiB", f"a file of {size >> 20} MiB")
        return os.pread(file.fileno(), size, 0)  # read() makes five calls of the system


def _parse(data: bytes, path: str | Path) -> _Picture:
    """Check the bytes of a file, and read what the reader must know before it decodes."""
    if data[:4] == b"\x89PNG":
        picture = _png(data, path)
    elif data[:2] == b"\xff\xd8":
        picture = _jpeg(data, path)
    elif not data.strip() or data.lstrip()[:1] == b"<":  # what a failed download leaves
        kind = "a web page or XML" if data.strip() else "an empty file"
        raise ChipError(path, "a PNG or JPEG", kind, "Fetch it again, or remove it from the CSV.")
    else:
        kind = "a TIFF" if data[:2] in (b"II", b"MM") else "a file of another kind"
        raise ChipError(path, "a PNG or JPEG", kind, "Give the file the ending of its kind, or remove it from the CSV.")
    height, width = picture.header.height, picture.header.width
    num_bytes = picture.samples * height * width * np.dtype(picture.dtype).itemsize
    if min(height, width) < 1:
        raise ValueError(f"an image of {height} x {width} pixels")
    if num_bytes > MAX_CHIP_BYTES or max(height, width) > MAX_SIDE:
        raise ChipError(
            path, f"a chip of at most {MAX_CHIP_BYTES // 2**20} MiB decoded, sides of {MAX_SIDE} pixels",
            f"{num_bytes / 2**20:.0f} MiB ({picture.samples} x {height} x {width} {picture.dtype})",
            "Cut it into chips (gdal_retile.py -ps 256 256), or fetch it again if it should be smaller.",
        )  # fmt: skip
    return picture


def _png(data: bytes, path: str | Path) -> _Picture:
    header = png_chunks.parse(data)
    if header.is_palette:
        raise ChipError(
            path, "values", "a palette, whose values are indices into a table of colours",
            "Expand it: gdal_translate -expand rgb in.png out.png",
        )  # fmt: skip
    if header.bits not in (8, 16):
        raise ChipError(path, "8 or 16 bits per sample", f"{header.bits}", "Convert it: gdal_translate in.png out.tif")
    return _Picture(data=data, header=header, samples=header.samples, dtype=f"uint{header.bits}")


def _jpeg(data: bytes, path: str | Path) -> _Picture:
    stream = jpeg_stream.parse(data, is_file=True)
    if stream.bits != 8 or stream.num_components not in (1, 3, 4):
        found = f"{stream.num_components} components of {stream.bits} bits"
        raise ChipError(
            path, "a JPEG of 1, 3 or 4 components of 8 bits", found, "Convert it: gdal_translate in out.tif"
        )
    return _Picture(data=data, header=stream, samples=stream.num_components, dtype="uint8")


def _expected_shape(picture: _Picture, expected: Expected) -> tuple[int, int, int]:
    """(bands, height, width). Alpha is a band only if the user names so many bands."""
    samples = picture.samples
    bands = samples - 1 if picture.may_drop and expected.count != samples else samples
    return bands, picture.header.height, picture.header.width


def _decode(picture: _Picture, out: np.ndarray) -> None:
    """Decode into `out` (height, width) or (height, width, samples); the decoders refuse another shape."""
    header = picture.header
    if isinstance(header, PngHeader):
        imagecodecs.png_decode(picture.data, out=out)
        return
    imagecodecs.jpeg8_decode(picture.data, out=out)
    # Most streams are decoded once. Where data ran out, the last pixel is grey.
    if not _surely_complete(out, header) and not np.array_equal(out, imagecodecs.jpeg8_decode(header.padded)):
        raise ValueError("JPEG data that ends too early")


def _surely_complete(values: np.ndarray, stream: Stream) -> bool:
    """Whether the pixels alone prove that the data reached the last block of 8 x 8 pixels.

    libjpeg leaves every block grey from the point on at which a scan ran out of data. In a size that is no multiple of
    8 the last pixel mixes with its neighbours, and proves nothing. Data that ends inside the last block is not noticed.
    """
    whole = stream.height % 8 == 0 and stream.width % 8 == 0
    last: int | list[int] = values[-1, -1].tolist()
    return stream.in_one_scan and whole and last not in (_UNFINISHED, [_UNFINISHED] * stream.num_components)


def _check_dropped(picture: _Picture, dropped: np.ndarray, path: str | Path) -> None:
    """Refuse a chip whose dropped sample is not opaque everywhere, and four colours for printing."""
    if not dropped.size and picture.samples != 4:
        return
    most = np.iinfo(dropped.dtype).max
    is_opaque = dropped.size > 0 and int(dropped.min()) == most
    if isinstance(picture.header, Stream) and picture.header.is_adobe and picture.samples == 4 and not is_opaque:
        raise ChipError(
            path, "red, green and blue", "the printing colours cyan, magenta, yellow and black",
            "Convert it: magick in.jpg -colorspace sRGB out.png",
        )  # fmt: skip
    if dropped.size and not is_opaque:
        raise ChipError(
            path, f"a last sample of {most} everywhere (opaque)", f"values from {dropped.min()} on",
            "If it is a band, name all: BANDS=red,green,blue,nir. Else remove it: gdal_translate -b 1 -b 2 -b 3 in out",
        )  # fmt: skip
