"""A large TIFF: read windows of it, block by block.

In: the path of a TIFF of any size, and windows by their first row and column. Out: their pixels, exactly the file's
values; or, for each window with a damaged block, the reason. A block is a tile or strip. Each block that the windows
need is decoded once per call and copied into all of them, so memory is one block and the windows. A file without
compression has no such blocks: its rows are read in pieces. Leaves the header to `tiff_header`, decoding to
`tiff_segments`, and which windows there are to `window_grid`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from preprocess import tiff_segments
from preprocess.expected import Expected
from preprocess.georeference import read_place
from preprocess.raster_file import open_raster
from preprocess.tiff import PageCheck, bands_first_shape, damage_named, open_checked
from preprocess.tiff_header import Header, Segment, complaints_are_errors
from preprocess.tiff_page import ChipError

PIECE_BYTES = 1 << 20  # of rows that are read at once from a file without compression


class Raster:
    """The checked header of a raster. No file stays open, so several threads can read from one object.

    shape: (bands, height, width). dtype, facts, place, state: of the file.

    Raises:
        ChipError: as `tiff.Reader.read` does, but the raster may be larger than a chip.
        OSError: raised by the operating system.
    """

    def __init__(self, path: str, check_page: PageCheck | None, expected: Expected) -> None:
        self.path = path
        with open_raster(path) as self._opened:
            file, self.state = self._opened.file, self._opened.state
            opened = open_checked(file, path, check_page, replace(expected, is_raster=True))
            header, self.facts, self._order = opened.header, opened.facts, opened.axes
            with damage_named(file, path), complaints_are_errors():
                self.place = read_place(header.pages[0])
                for page in header.pages:  # tifffile reads them from the file when they are first used
                    page.decode, page.jpegtables  # noqa: B018
        self.shape = bands_first_shape(header.shape, opened.axes)
        self.dtype = header.dtype
        if expected.count is not None and self.shape[0] != expected.count:
            raise ChipError(path, f"{expected.count} bands", f"{self.shape[0]}", "Convert it, or take it out of DATA.")
        self._pages, self._axes = header.pages, header.axes
        self._segments = tuple(_pieces(header))
        self._first, self._end = _boxes(self._segments, header.axes, self.shape, opened.axes)

    def read(self, corners: np.ndarray, out: Sequence[np.ndarray]) -> dict[int, ChipError]:
        """Read windows.

        Args:
            corners: (N, 2), first row and first column of each.
            out: N arrays of (bands, height, width), to be filled. Pixels outside the raster are left as they are.

        Returns:
            The reason for each window that needs a damaged block, by its number.

        Raises:
            ChipError: the file has changed since its header was read.
            OSError: raised by the operating system.
        """
        first = np.column_stack([np.zeros(len(corners), np.int64), corners])
        end = first + np.array([window.shape for window in out])
        errors: dict[int, ChipError] = {}
        touched = {number: self._touched(number, first, end) for number in self._near(first, end)}
        needed = [number for number in touched if touched[number]]
        segments = [self._segments[number] for number in needed]
        with open_raster(self.path, self._opened) as opened:
            pieces = opened.pieces([(segment.offset, segment.count) for segment in segments])
            for number, segment, data in zip(needed, segments, pieces, strict=True):
                windows = touched[number]
                lowest, highest = np.maximum(first, self._first[number]), np.minimum(end, self._end[number])
                try:
                    with damage_named(opened.file, self.path), complaints_are_errors():
                        values = self._decode(data, segment)
                except ChipError as error:
                    errors = dict.fromkeys(windows, error) | errors
                    continue
                for window in windows:
                    source = _box(lowest[window] - self._first[number], highest[window] - self._first[number])
                    out[window][_box(lowest[window] - first[window], highest[window] - first[window])] = values[source]
        return errors

    def _near(self, first: np.ndarray, end: np.ndarray) -> list[int]:
        """Blocks that touch the smallest box around all windows."""
        near = (self._first < end.max(axis=0)) & (self._end > first.min(axis=0))
        return [int(number) for number in np.flatnonzero(near.all(axis=1))]

    def _touched(self, number: int, first: np.ndarray, end: np.ndarray) -> list[int]:
        """The windows that touch a block."""
        touched: list[int] = np.flatnonzero(
            ((first < self._end[number]) & (end > self._first[number])).all(axis=1)
        ).tolist()
        return touched

    def _decode(self, data: bytes, segment: Segment) -> np.ndarray:
        """(bands, rows, columns) of one block."""
        if len(data) != segment.count:
            raise ValueError("the file ended early")
        values = tiff_segments.decode(self._pages[segment.page], data, segment.index, segment.shape)
        stored = values if self._axes == "YXS" else np.moveaxis(values, -1, 0)
        return np.moveaxis(stored, -1, 0) if self._order == "YXS" else stored


def _box(first: np.ndarray, end: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in zip(first.tolist(), end.tolist(), strict=True))


def _pieces(header: Header) -> Iterator[Segment]:
    """The segments. One without compression can be the whole raster: it is divided into groups of rows."""
    for segment in header.segments:
        rows, columns, samples = segment.shape
        page = header.pages[segment.page]
        row_bytes = segment.count // rows
        step = max(1, PIECE_BYTES // max(row_bytes, 1))
        if page.compression != tiff_segments.NONE or rows <= step:
            yield segment
            continue
        for top in range(0, rows, step):
            count = min(step, rows - top)
            yield replace(
                segment, offset=segment.offset + top * row_bytes, count=count * row_bytes, y=segment.y + top,
                shape=(count, columns, samples),
            )  # fmt: skip


def _boxes(
    segments: tuple[Segment, ...], stored_axes: str, shape: tuple[int, int, int], order: str
) -> tuple[np.ndarray, np.ndarray]:
    """(first, end): (segments, 3) positions in (band, row, column) of each segment, without padding at the edges."""
    chunky = stored_axes == "YXS"
    first = [(one.y, one.x, 0) if chunky else (one.page + one.plane, one.y, one.x) for one in segments]
    sides = [one.shape if chunky else (1, *one.shape[:2]) for one in segments]
    start, side = np.array(first, np.int64), np.array(sides, np.int64)
    if order == "YXS":  # stored as rows, columns, bands
        start, side = start[:, [2, 0, 1]], side[:, [2, 0, 1]]
    return start, np.minimum(start + side, shape)
