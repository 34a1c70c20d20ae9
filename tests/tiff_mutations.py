"""Small TIFFs in every supported layout, and damaged copies of them.

In: a seed. Out: whole files with their values, as tifffile reads them, and damaged copies with the bytes that changed.
"""

import functools
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tifffile

HEIGHT, WIDTH = 48, 40


@dataclass(frozen=True)
class Whole:
    """`values` are (bands, height, width), as written. `pixels` are the (start, stop) of each strip or block."""

    name: str
    data: bytes
    values: np.ndarray
    lossy: bool
    pixels: tuple[tuple[int, int], ...]


@functools.cache
def whole_files(seed: int = 0) -> list[Whole]:
    """One file for each compression, byte order, segmentation and kind of page."""
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(rng.integers(-3, 4, (HEIGHT, WIDTH, 4)), axis=1) + 120
    chunky = {"uint8": np.clip(smooth, 0, 255).astype(np.uint8), "uint16": (smooth * 100).astype(np.uint16)}
    found = []
    codecs = [None, "lzw", "deflate", "zstd", "packbits", "lzma", "lerc", "jpeg", "webp", "png", "jpeg2000", "jpegxl"]
    for codec in codecs:
        dtype = "uint8" if codec in ("jpeg", "webp") else "uint16"
        bands = 3 if codec in ("jpeg", "webp", "png", "jpeg2000", "jpegxl") else 4
        values = chunky[dtype][..., :bands]
        planar = np.ascontiguousarray(np.moveaxis(values, -1, 0))
        color = {"photometric": "rgb", **({"extrasamples": ["unspecified"]} if bands == 4 else {})}
        lossless = {"lossless": True} if codec in ("webp", "jpegxl") else {"level": 0} if codec == "jpeg2000" else {}
        common = {"compression": codec, **({"compressionargs": lossless} if lossless else {})}
        kinds: dict[str, tuple[np.ndarray, dict]] = {
            "strip": (values, color),
            "strips": (values, {**color, "rowsperstrip": 16}),
            "tiles": (values, {**color, "tile": (16, 32)}),
        }
        if codec not in ("webp", "jpeg"):
            kinds["planes"] = (planar, {**color, "planarconfig": "separate", "rowsperstrip": 16})
            kinds["pages"] = (planar, {"photometric": "minisblack"})
        if codec in (None, "lzw", "deflate", "zstd"):
            kinds["big-endian"] = (values, {**color, "byteorder": ">", "rowsperstrip": 16})
            kinds["bigtiff"] = (values, {**color, "bigtiff": True, "rowsperstrip": 7})
        if codec in ("lzw", "deflate", "zstd"):
            kinds["predictor"] = (values, {**color, "predictor": True, "rowsperstrip": 16})
        for kind, (array, options) in kinds.items():
            file = io.BytesIO()
            options = {k: v for k, v in options.items() if k != "bigtiff"} | common
            tifffile.imwrite(file, array, bigtiff="bigtiff" in kind, **options)
            found.append(_whole(f"{codec}-{kind}", file.getvalue(), lossy=codec in ("jpeg",)))
    return found


def _whole(name: str, data: bytes, *, lossy: bool) -> Whole:
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        values, axes = tif.asarray(), tif.series[0].axes
        pixels = tuple(
            (offset, offset + count)
            for page in tif.pages
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        )
    return Whole(name, data, np.moveaxis(values, -1, 0) if axes == "YXS" else values, lossy, pixels)


def damage(whole: Whole, rng: np.random.Generator) -> tuple[str, bytes, list[tuple[int, int]]]:
    """Damage a file once: (kind of damage, the damaged bytes, the (start, stop) of changed bytes)."""
    data = bytearray(whole.data)
    kind = str(rng.choice(["bit", "bit", "bits", "tag", "tag", "tag", "zeros", "cut", "random", "copy", "append"]))
    touched = []
    if kind in ("bit", "bits"):
        for _ in range(1 if kind == "bit" else int(rng.integers(2, 6))):
            at = _place(whole, rng)
            data[at] ^= 1 << int(rng.integers(8))
            touched.append((at, at + 1))
    elif kind == "tag":
        start, stop, new = _edit_tag(bytes(data), rng)
        data[start:stop] = new
        touched.append((start, stop))
    elif kind in ("zeros", "random", "copy"):
        at, length = _place(whole, rng), int(rng.integers(1, 200))
        stop = min(at + length, len(data))
        source = int(rng.integers(0, len(data) - (stop - at) + 1))
        filler = {"zeros": bytes(stop - at), "random": rng.bytes(stop - at), "copy": whole.data[source:][: stop - at]}
        data[at:stop] = filler[kind]
        touched.append((at, stop))
    elif kind == "cut":
        stop = int(rng.integers(0, len(data)))
        touched.append((stop, len(data)))
        del data[stop:]
    else:
        touched.append((len(data), len(data) + 1))
        data += rng.bytes(int(rng.integers(1, 200)))
    return kind, bytes(data), touched


def only_pixels(whole: Whole, touched: list[tuple[int, int]]) -> bool:
    """Whether only bytes of strips or blocks were damaged."""
    return all(any(a <= start and stop <= b for a, b in _joined(whole.pixels)) for start, stop in touched)


def _joined(places: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(places):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


def _place(whole: Whole, rng: np.random.Generator) -> int:
    """A random byte; in half of the calls one outside the pixels."""
    if rng.integers(2):
        structure = np.ones(len(whole.data), bool)
        for start, stop in whole.pixels:
            structure[start:stop] = False
        return int(rng.choice(np.flatnonzero(structure)))
    return int(rng.integers(len(whole.data)))


def _entries(data: bytes) -> Iterator[tuple[int, int, str, bool]]:
    """(offset, entries, byte order, whether BigTIFF) of each page."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"\x2b\0", b"\0\x2b")
    word, number = ("Q", "Q") if big else ("I", "H")
    at = 8 if big else 4
    while True:
        (page,) = struct.unpack_from(order + word, data, at)
        if not page:
            return
        (count,) = struct.unpack_from(order + number, data, page)
        yield page + (8 if big else 2), count, order, big
        at = page + (8 + 20 * count if big else 2 + 12 * count)


def set_tag(
    data: bytes, code: int, value: int | None = None, *, count: int | None = None, page: int = 0, at: int = 0
) -> bytes:
    """A little-endian file with another value (the number `at` of them) or count of one tag."""
    first, entries, _, big = list(_entries(data))[page]
    assert data[:2] == b"II"
    assert not big
    changed = bytearray(data)
    for entry in range(first, first + 12 * entries, 12):
        found, kind, number = struct.unpack_from("<HHI", data, entry)
        if found == code:
            width = {3: 2, 4: 4}[kind]
            start = entry + 8 if number * width <= 4 else struct.unpack_from("<I", data, entry + 8)[0]
            if value is not None:
                struct.pack_into("<H" if width == 2 else "<I", changed, start + width * at, value)
            if count is not None:
                if number * width > 4 >= count * width:  # the values move into the entry
                    changed[entry + 8 : entry + 12] = changed[start : start + 4]
                struct.pack_into("<I", changed, entry + 4, count)
            return bytes(changed)
    raise KeyError(code)


def next_page(data: bytes, page: int, offset: int) -> bytes:
    """A little-endian file whose page is followed by the one at `offset`; 0 ends the chain."""
    first, entries, _, _ = list(_entries(data))[page]
    return data[: first + 12 * entries] + struct.pack("<I", offset) + data[first + 12 * entries + 4 :]


def _edit_tag(data: bytes, rng: np.random.Generator) -> tuple[int, int, bytes]:
    """Another code, type, count or value of one tag."""
    pages = list(_entries(data))
    first, count, order, big = pages[int(rng.integers(len(pages)))]
    size, word = (20, "Q") if big else (12, "I")
    entry = first + size * int(rng.integers(count))
    field = int(rng.integers(4))
    if field == 0:
        return entry, entry + 2, struct.pack(order + "H", int(rng.choice([254, 257, 273, 277, 279, 284, 317, 65000])))
    if field == 1:
        return entry + 2, entry + 4, struct.pack(order + "H", int(rng.choice([1, 2, 3, 4, 5, 7, 11, 12, 16, 99])))
    step = 8 if big else 4
    start = entry + 4 + (0 if field == 2 else step)
    extreme = [0, 1, 2, 3, 4, 5, 6, 8, 32, 255, 4096, 65535, 2**20, 2**31 - 1, 2**31, 2**32 - 1]
    value = int(rng.choice(extreme))
    if field == 3 and order == "<" and rng.integers(2):  # near the present value
        value = (int.from_bytes(data[start : start + step], "little") + int(rng.integers(-3, 4))) % 2**32
    return start, start + step, struct.pack(order + word, value)
