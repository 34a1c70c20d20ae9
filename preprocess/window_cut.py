"""How windows are cut from rasters: the settings WINDOW, STRIDE and FIT.

Out: a `Cut`, which says where windows begin. Imports nothing heavy. Leaves their names to `window_grid`.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How windows are cut from rasters.

    window: height and width. stride: pixels from one window to the next. pad: windows may pass the right and the lower
    edge. Pixels there get `nodata`, or without it they are reflected.
    """

    window: int
    stride: int
    pad: bool = False
    nodata: str | None = None

    def source(self) -> dict[str, str]:
        """As a store keeps it."""
        edges = {"edges": "pad"} if self.pad else {}
        return {"window": str(self.window), "stride": str(self.stride), **edges}

    def starts(self, side: int) -> range:
        """First rows (or columns) of the windows in a raster of `side` rows (or columns)."""
        if self.pad:
            # The last window begins where the one before it has not reached the edge.
            beyond = max(side - self.window, 0)
            return range(0, min(-(-beyond // self.stride) * self.stride + 1, side), self.stride)
        return range(0, side - self.window + 1, self.stride)

    def left_over(self, side: int) -> int:
        """Rows (or columns) behind the last window, which are in no chip."""
        starts = self.starts(side)
        return max(side - (starts[-1] + self.window), 0) if starts else side


def cut_of(source: Mapping[str, str], *, stride: int | None = None, nodata: str | None = None) -> Cut | None:
    """The `Cut` of a store's conversion; None if its chips are files. `stride` replaces its own."""
    if "window" not in source:
        return None
    return Cut(
        window=int(source["window"]), stride=stride or int(source["stride"]), pad=source.get("edges") == "pad",
        nodata=nodata,
    )  # fmt: skip
