"""Damaged TIFFs: `preprocess.tiff.Reader` is compared with a fresh reader, the undamaged pixels and libtiff.

Bases: 16 x 12 chips with every compression that libtiff knows, chunky and planar, in strips and tiles, with both byte
orders, as BigTIFF, and with one page per band. The reader has always read another complete chip of the same layout
before.

Oracle. equal: the undamaged pixels. altered: other pixels, and libtiff reads the same ones (with imagecodecs, which
refuses if libtiff reports an error); most compressions have no checksum, so a byte of a pixel can change unnoticed.
silent: the result depends on the file that was read before; or it holds fill values where the file has no data; or
libtiff refuses the file or reads other pixels.
"""

import io
import random
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from fuzz.damage import Special, damage_bytes, write_entry
from fuzz.outcome import Case, Refused, attempt
from preprocess import tiff

HEIGHT, WIDTH = 16, 12
# Tags that decide where pixels lie and what they mean.
TAGS = (256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 338, 339)
_DTYPES = {3: "u2", 4: "u4", 16: "u8"}  # TIFF's SHORT, LONG, LONG8
COMPRESSIONS = (1, 2, 5, 6, 7, 8, 32773, 32946, 34712, 34887, 34925, 50000, 50001, 50002)


def _options() -> dict[str, tuple[dict[str, Any], str]]:
    """Name -> (tifffile's options, dtype)."""
    options: dict[str, tuple[dict[str, Any], str]] = {}
    for compression in (None, "lzw", "deflate", "zstd", "packbits", "lzma"):
        coded = {"compression": compression, "rowsperstrip": 4}
        for planar in ("contig", "separate"):
            plain = {**coded, "photometric": "minisblack", "planarconfig": planar}
            options[f"{compression}-{planar}"] = plain, "uint16"
        options[f"{compression}-tiles"] = {"compression": compression, "photometric": "rgb", "tile": (16, 16)}, "uint16"
        options[f"{compression}-big-endian"] = {**coded, "photometric": "rgb", "byteorder": ">"}, "uint16"
        options[f"{compression}-uint8"] = {**coded, "photometric": "rgb"}, "uint8"
        if compression in ("lzw", "deflate", "zstd"):
            options[f"{compression}-predictor"] = {**coded, "photometric": "rgb", "predictor": True}, "uint16"
    options["jpeg"] = {"compression": "jpeg", "photometric": "rgb", "rowsperstrip": 8}, "uint8"
    options["jpeg-ycbcr"] = {"compression": "jpeg", "photometric": "ycbcr", "tile": (16, 16)}, "uint8"
    lossless = {"compression": "webp", "compressionargs": {"lossless": True}}
    options["webp"] = {**lossless, "photometric": "rgb", "rowsperstrip": 8}, "uint8"
    options["bigtiff"] = {"photometric": "rgb", "bigtiff": True, "rowsperstrip": 4}, "uint16"
    options["one-strip"] = {"photometric": "rgb"}, "uint16"
    options["pages"] = {"photometric": "minisblack"}, "uint16"
    options["pages-lzw"] = {"photometric": "minisblack", "compression": "lzw"}, "uint16"
    return options


def _values(seed: int, dtype: str, samples: int, options: dict[str, Any]) -> np.ndarray:
    rng, top = np.random.default_rng(seed), np.iinfo(dtype).max
    steps = rng.integers(-9, 10, (samples, HEIGHT, WIDTH)).cumsum(axis=-1) + int(rng.integers(top // 4, top // 2))
    values = np.clip(steps, 0, top).astype(dtype)
    pages = options["photometric"] == "minisblack" and "rowsperstrip" not in options
    first = options.get("planarconfig", "separate" if pages else "contig") == "separate"
    return values if first else np.ascontiguousarray(np.moveaxis(values, 0, -1))


def make_bases(bases: Path) -> None:
    """Write BASES/lzw-contig.tif, and BASES/lzw-contig.other.tif with other pixels."""
    for name, (options, dtype) in _options().items():
        samples = 4 if dtype == "uint16" and options["photometric"] == "minisblack" else 3
        for seed, suffix in enumerate((".tif", ".other.tif")):
            tifffile.imwrite(bases / f"{name}{suffix}", _values(seed, dtype, samples, options), **options)


class Base:
    """An undamaged file, its pixels, and where its tags lie."""

    def __init__(self, path: Path) -> None:
        self.name, self.data, self.before = path.stem, path.read_bytes(), path.with_suffix(".other.tif")
        self.pixels = tiff.read(path).copy()
        with tifffile.TiffFile(path) as tif:
            self.order, self.big = tif.byteorder, tif.is_bigtiff
            self.tags = [
                (tag.code, tag.offset, tag.valueoffset, tag.count, _DTYPES.get(int(tag.dtype), "u1"))
                for page in tif.pages
                for tag in page.tags  # type: ignore[union-attr]
            ]


class Tiffs:
    """Damage to bytes and tags, one to three operations per case."""

    def __init__(self, bases: Path, work: Path) -> None:
        paths = sorted(path for path in bases.glob("*.tif") if not path.name.endswith(".other.tif"))
        self._bases, self._path = [Base(path) for path in paths], work / "chip.tif"
        self._base = self._bases[0]

    def draw(self, rng: random.Random, case: Case) -> None:
        """Choose a file and damage it."""
        self._base = rng.choice(self._bases)
        data = self._base.data
        case.operations.append(self._base.name)
        if rng.random() < 0.01:
            # No FIFO and no device: listing the chips leaves those out.
            content = rng.choice([Special("folder"), Special("missing"), Special("link", "nowhere")])
            case.operations.append(f"a {content.kind} {content.target}")
            write_entry(self._path.parent, self._path.name, content)
            return
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            data, text = self._tag(rng, data) if rng.random() < 0.6 else damage_bytes(rng, data)
            case.operations.append(text)
        write_entry(self._path.parent, self._path.name, data)

    def _tag(self, rng: random.Random, data: bytes) -> tuple[bytes, str]:
        base = self._base
        tags = [tag for tag in base.tags if tag[0] in TAGS]
        code, entry, at, count, letters = rng.choice(tags)
        field = rng.choices(("value", "count", "code", "type"), weights=(12, 3, 1, 1))[0]
        kind = np.dtype(base.order + letters)
        if field == "code":
            kind, at = np.dtype(base.order + "u2"), entry
        elif field == "type":
            kind, at = np.dtype(base.order + "u2"), entry + 2
        elif field == "count":
            kind, at = np.dtype(base.order + ("u8" if base.big else "u4")), entry + 4
        elif rng.random() < 0.1 and count > 1:  # all values of the tag
            values = np.zeros(count, kind)
            return _put(data, at, values.tobytes()), f"tag {code}: all {count} values 0"
        else:
            at += kind.itemsize * rng.randrange(count)
        if at + kind.itemsize > len(data):  # an earlier operation has cut the file
            return data, f"tag {code}: unchanged, because it was cut off"
        before = int(np.frombuffer(data, kind, 1, at)[0])
        near = [before + 1, before - 1, before * 2, before // 2, before ^ 1 << rng.randrange(8 * kind.itemsize)]
        few = [0, 1, 2, 3, 4, 8, 16, 32, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1, len(data)]
        codes = [rng.choice(TAGS)] if field == "code" else list(COMPRESSIONS) if code == 259 else []
        value = rng.choice([*near, *near, *few, *codes]) % 2 ** (8 * kind.itemsize)
        return _put(data, at, np.array(value, kind).tobytes()), f"tag {code} {field} at {at}: {before} -> {value}"

    def judge(self, case: Case) -> Case:
        """Read it with a reader that has read another chip before, and with a fresh one."""
        reader = tiff.Reader()
        reader.read(self._base.before)
        reused, refusal = self._read(reader)
        fresh, fresh_refusal = self._read(tiff.Reader())
        if (reused is None) != (fresh is None) or (reused is not None and not _same(reused, fresh)):
            return case.to(
                "silent", f"depends on the previous file: {refusal or 'read'}; alone: {fresh_refusal or 'read'}"
            )
        if reused is None:
            return case.to("refused", str(refusal))
        if _same(reused, self._base.pixels):
            return case.to("equal")
        reason = self._objection(reused)
        return case.to("altered") if reason is None else case.to("silent", reason)

    def _read(self, reader: tiff.Reader) -> tuple[np.ndarray | None, str | None]:
        try:
            return attempt(lambda: _file_errors(reader, self._path)).copy(), None
        except Refused as error:
            return None, str(error)

    def _objection(self, pixels: np.ndarray) -> str | None:
        """Why these pixels are not those of the file; None if they are."""
        data = self._path.read_bytes()
        plain = [self._by_tifffile(data, nodata) for nodata in (0, 171)]
        if all(values is not None for values in plain) and not _same(*plain):
            return f"shape {pixels.shape} with fill where the file has no data"
        try:
            reference = imagecodecs.tiff_decode(data)
            if reference.ndim == 2 and len(pixels) > 1:  # the other bands are pages
                reference = np.stack([imagecodecs.tiff_decode(data, index=band) for band in range(len(pixels))])
        except (imagecodecs.TiffError, ValueError) as error:
            return f"shape {pixels.shape}; libtiff refuses: {error}"
        except IndexError as error:
            # libtiff refuses a directory even for tags that no pixel depends on: then tifffile decides.
            if pixels.shape != self._base.pixels.shape or plain[0] is None:
                return f"shape {pixels.shape}; libtiff refuses: {error}"
            reference = plain[0]
        small = pixels.squeeze()
        chunky = np.moveaxis(pixels, 0, -1).squeeze()
        if any(_same(form, reference.squeeze()) for form in (small, chunky)):
            return None
        return f"shape {pixels.shape}; libtiff reads other pixels, of shape {reference.shape}"

    def _by_tifffile(self, data: bytes, nodata: int) -> np.ndarray | None:
        """The pixels that tifffile reads, with `nodata` where it finds no data; None if it refuses."""
        try:
            with tifffile.TiffFile(io.BytesIO(data)) as tif:
                tif.series[0].keyframe.nodata = nodata  # type: ignore[misc]  # computed once, kept in the instance
                return tif.series[0].asarray()
        except Exception:  # it raises a dozen exception types on damaged input
            return None

    def mend(self) -> None:
        """Nothing to restore: the next case writes a new file."""


def _file_errors(reader: tiff.Reader, path: Path) -> np.ndarray:
    """Read; an OSError becomes a ChipError, as the callers of `Reader.read` do it."""
    try:
        return reader.read(path)
    except OSError as error:
        raise tiff.ChipError(path, "a readable file", error.strerror or type(error).__name__) from error


def _put(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def _same(one: Any, other: Any) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one, other)
