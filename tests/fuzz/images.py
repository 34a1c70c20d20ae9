"""Damaged PNGs and JPEGs: `preprocess.image_file.ImageReader` is compared with a fresh reader, the undamaged pixels and
Pillow.

Bases: 24 x 16 chips; PNG of 8 and 16 bits, grey, RGB and with alpha, interlaced; JPEG grey and RGB, subsampled,
progressive, with restarts, and with four components without Adobe's marker. The reader has always read another complete
chip of the same kind before.

Oracle. equal: the undamaged pixels. altered: other pixels of a JPEG, and Pillow reads the same ones: a JPEG has no
checksum. silent: the result depends on the file that was read before; or other pixels of a PNG, all of whose chunks
have a CRC-32; or Pillow refuses the file or reads other pixels.
"""

import io
import random
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from fuzz.damage import Special, damage_bytes, write_entry
from fuzz.outcome import Case, Refused, attempt
from preprocess.image_file import ImageReader
from preprocess.tiff_page import ChipError

HEIGHT, WIDTH = 24, 16
_JPEGS = {
    "plain": {}, "sampled": {"subsampling": 2}, "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 1, "subsampling": 2},
}  # fmt: skip


def _values(seed: int, samples: int, dtype: str) -> np.ndarray:
    rng, top = np.random.default_rng(seed), np.iinfo(dtype).max
    steps = rng.integers(-9, 10, (HEIGHT, WIDTH, samples)).cumsum(axis=0) * (top // 255) + top // 2
    values = np.clip(steps, 0, top).astype(dtype)
    if samples in (2, 4):
        values[..., -1] = top
    return values


def _encoded(seed: int) -> dict[str, bytes]:
    """Name -> file."""
    files = {}
    for samples in (1, 2, 3, 4):
        for dtype in ("uint8", "uint16"):
            files[f"{samples}-{dtype}.png"] = imagecodecs.png_encode(_values(seed, samples, dtype).squeeze())
    for name, options in _JPEGS.items():
        for samples in (1, 3):
            stream = io.BytesIO()
            Image.fromarray(_values(seed, samples, "uint8").squeeze()).save(stream, "jpeg", **options)
            files[f"{samples}-{name}.jpg"] = stream.getvalue()
    four = imagecodecs.jpeg8_encode(_values(seed, 4, "uint8"), 90, colorspace="CMYK", outcolorspace="CMYK")
    at = four.index(b"\xff\xee")
    files["4-planet.jpg"] = four[:at] + four[at + 2 + int.from_bytes(four[at + 2 : at + 4], "big") :]
    return files


def make_bases(bases: Path) -> None:
    """Write BASES/3-plain.jpg, and BASES/other/3-plain.jpg with other pixels."""
    for seed, folder in enumerate((bases, bases / "other")):
        folder.mkdir(exist_ok=True)
        for name, data in _encoded(seed).items():
            (folder / name).write_bytes(data)


class Images:
    """Damage to bytes, one to three operations per case. In a third of the PNGs, the CRC-32 of each chunk is corrected
    after it: then only the decoder can notice."""

    def __init__(self, bases: Path, work: Path) -> None:
        self._bases = sorted(path for path in bases.iterdir() if path.is_file())
        self._base, self._path, self._is_corrected = self._bases[0], work / "chip.png", False

    def draw(self, rng: random.Random, case: Case) -> None:
        """Choose a file and damage it."""
        self._base = rng.choice(self._bases)
        data, self._is_corrected = self._base.read_bytes(), False
        case.operations.append(self._base.name)
        if rng.random() < 0.01:
            content = rng.choice([Special("folder"), Special("missing"), Special("link", "nowhere")])
            case.operations.append(f"a {content.kind} {content.target}")
            write_entry(self._path.parent, self._path.name, content)
            return
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            data, text = damage_bytes(rng, data)
            case.operations.append(text)
        if self._base.suffix == ".png" and rng.random() < 0.33:
            data, self._is_corrected = _correct(data), True
            case.operations.append("corrected CRCs")
        write_entry(self._path.parent, self._path.name, data)

    def judge(self, case: Case) -> Case:
        """Read it with a reader that has read another chip before, and with a fresh one."""
        reader = ImageReader()
        reader.read(self._base.parent / "other" / self._base.name)
        reused, refusal = self._read(reader)
        fresh, fresh_refusal = self._read(ImageReader())
        if (reused is None) != (fresh is None) or (reused is not None and not _same(reused, fresh)):
            return case.to("silent", f"depends on the previous file: {refusal or 'read'}; {fresh_refusal or 'read'}")
        if reused is None:
            return case.to("refused", str(refusal))
        if _same(reused, ImageReader().read(self._base)):
            return case.to("equal")
        if self._base.suffix == ".png" and not self._is_corrected:
            return case.to("silent", "other pixels of a PNG")
        reason = self._objection(reused)
        return case.to("altered") if reason is None else case.to("silent", reason)

    def _read(self, reader: ImageReader) -> tuple[np.ndarray | None, str | None]:
        try:
            return attempt(lambda: _file_errors(reader, self._path)).copy(), None
        except Refused as error:
            return None, str(error)

    def _objection(self, pixels: np.ndarray) -> str | None:
        """Why these pixels are not those of the file; None if they are."""
        if pixels.dtype == np.uint16 and len(pixels) == 3:
            return None  # Pillow reads 8 bits of them
        try:
            with Image.open(self._path) as picture:
                values = np.asarray(picture.convert("RGB") if picture.mode in ("CMYK", "RGBA") else picture)
        except Exception as error:  # Pillow raises many types on damaged input
            return f"shape {pixels.shape}; Pillow refuses: {error}"
        reference = np.moveaxis(np.atleast_3d(values), -1, 0)[: len(pixels)]
        return None if np.array_equal(pixels, reference) else f"shape {pixels.shape}; Pillow reads other pixels"

    def mend(self) -> None:
        """Nothing to restore: the next case writes a new file."""


def _correct(data: bytes) -> bytes:
    """The same chunks, each with its right CRC-32."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        content = data[at + 4 : at + 8 + length]
        if at + 12 + length > len(data):
            break
        out += data[at : at + 4] + content + struct.pack(">I", zlib.crc32(content))
        at += 12 + length
    return out + data[at:]


def _file_errors(reader: ImageReader, path: Path) -> np.ndarray:
    """Read; an OSError becomes a ChipError, as the callers of `ImageReader.read` do it."""
    try:
        return reader.read(path)
    except OSError as error:
        raise ChipError(path, "a readable file", error.strerror or type(error).__name__) from error


def _same(one: np.ndarray, other: np.ndarray | None) -> bool:
    return other is not None and one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one, other)
