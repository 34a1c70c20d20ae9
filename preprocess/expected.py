"""The properties that a file of a chip must have.

In: shape and dtype of a file, from its header. Out: nothing, or a ChipError. Leaves reading them to `tiff` and
`image_file`.
"""

from dataclasses import dataclass
from pathlib import Path

from preprocess.console import one_line
from preprocess.nodata import nodata_text
from preprocess.tiff_page import ChipError


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Properties that a file must have; None accepts any.

    `shape`: (bands, height, width). `dtype`: a name. `example`: the path from which these come. `axes`: order of the
    stored dimensions ("YXS" or "SYX"). `num_bands` helps to read a file while `shape` is unknown. `is_rgb`: the file
    must not declare its samples as anything but red, green and blue. `zero_is_white`: whether the file must declare 0
    as white. `nodata`: GDAL_NODATA of the file must be this value, as `nodata.nodata_text` writes it.
    `is_raster`: windows are cut from the file, so it may be larger than a chip.
    """

    shape: tuple[int, int, int] | None = None
    dtype: str | None = None
    example: str = ""
    axes: str | None = None
    num_bands: int | None = None
    is_rgb: bool = False
    zero_is_white: bool | None = None
    nodata: str | None = None
    is_raster: bool = False

    @property
    def count(self) -> int | None:
        """The number of bands, if it is known."""
        return self.shape[0] if self.shape else self.num_bands

    def check(self, path: str | Path, shape: tuple[int, int, int], dtype: str) -> None:
        """Compare with the (bands, height, width) and the dtype of a file.

        Raises:
            ChipError: they differ.
        """
        if (self.shape or shape, self.dtype or dtype) == (shape, dtype):
            return
        as_in = f" as in {self.example}" if self.example else ""
        expected = f"{self.shape} {self.dtype} (bands, height, width){as_in}" if self.shape else f"{self.dtype}{as_in}"
        only_sizes = self.shape is not None and (self.shape[0], self.dtype or dtype) == (shape[0], dtype)
        advice = (_OTHER_SIZE if only_sizes else _OTHER_KIND) if self.example else ""
        raise ChipError(path, expected, f"{shape} {dtype}" if self.shape else dtype, advice)

    def check_nodata(self, path: str | Path, tag: str | None, dtype: str) -> None:
        """Compare with GDAL_NODATA of a file; `tag` None: it has none.

        Raises:
            ChipError: it names another value.
        """
        if self.nodata is not None and (tag is None or nodata_text(tag, dtype) != self.nodata):
            raise ChipError(
                path, f"GDAL_NODATA {self.nodata} as in {self.example}", "none" if tag is None else one_line(tag),
                f"NODATA={self.nodata} marks this value in all files, whatever they say.",
            )  # fmt: skip


ANY = Expected()
_OTHER_KIND = "All chips of a store have one shape and dtype: convert the file, or remove it from the CSV."
_OTHER_SIZE = (
    "All chips of a store have one size: SIZE=256 FIT=resize (or crop, pad) changes all to one. Or remove the file "
    "from the CSV."
)
