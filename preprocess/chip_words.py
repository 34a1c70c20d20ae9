"""The settings that say what a chip is: files below a folder, or windows of large rasters.

Out: `ChipWords`, which the commands that read chips share. Imports nothing heavy.
"""

from typing import ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from preprocess.addresses import Address, Location
from preprocess.console import UserError
from preprocess.file_patterns import BAND, check_pattern
from preprocess.settings import Settings, setting
from preprocess.window_cut import Cut


class ChipWords(Settings):
    """Where the chips are, and how their files are read."""

    heading: ClassVar[str] = "Chips"

    data: Location = setting(
        ...,
        "Folder of TIFFs, or of PNGs or JPEGs, or its address, such as s3://bucket/chips.",
        hint="folder",
        example="DATA=folder LABELS=file.csv",
    )
    files: str | None = setting(
        None,
        "Where the files of a chip are below DATA. {name} is its name in the CSV. {band} is each of BANDS, for a file "
        "per band. * is any folder.",
        hint="{name}/{name}_{band}.tif",
        default_text="one file per chip, found by its name",
    )
    bands: tuple[str, ...] | None = setting(
        None,
        "Names of the bands, in the order in which each TIFF stores them.",
        hint="blue,green,red,nir",
        default_text="the preset's; else red,green,blue if the files say RGB; else band1,band2,...",
    )
    axes: Literal["YXS", "SYX"] | None = setting(
        None,
        "Order of the dimensions inside each TIFF: rows, columns, bands (YXS) or bands, rows, columns (SYX).",
        default_text="as the files say",
    )
    window: int | None = setting(
        None,
        "Cut chips of this height and width from large TIFFs. The CSV names them by raster, first row and first "
        "column, such as scene_r00512_c00256; `make windows` lists the names. With FIT=pad windows may pass the edges.",
        hint="pixels",
        ge=1,
        le=65536,
        default_text="a file is a chip",
    )
    stride: int | None = setting(
        None,
        "Rows and columns from one window to the next. Smaller than WINDOW, windows overlap.",
        hint="pixels",
        ge=1,
        le=65536,
        default_text="WINDOW",
    )
    fit: Literal["crop", "pad", "resize"] | None = setting(
        None,
        "crop: the centre. pad: reflect the edges of smaller chips (with NODATA: add nodata), crop larger ones. "
        "resize: the mean of blocks of pixels if SIZE divides the size, else cubic. With a file per band and "
        "without SIZE, resize brings all bands to the size of the largest band.",
    )

    @field_validator("files")
    @classmethod
    def _pattern_can_be_read(cls, text: str | None) -> str | None:
        if text is not None:
            check_pattern(text)
        return text

    @field_validator("bands")
    @classmethod
    def _bands_differ(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and (len(set(names)) != len(names) or not all(names)):
            raise ValueError("a different name for each band")
        return names

    @model_validator(mode="after")
    def _files_and_windows_can_be_read(self) -> Self:
        if self.axes is not None and self.files is not None and BAND in self.files:
            raise UserError(f"AXES={self.axes} has no effect with {{band}} in FILES; leave it out.")
        if self.window is None and self.stride is not None:
            raise UserError(
                f"STRIDE={self.stride}: WINDOW is not set. Add the size of the windows, such as WINDOW=256."
            )
        if self.window is not None and self.fit not in (None, "pad"):
            raise UserError(
                f"FIT={self.fit} cannot be used with WINDOW={self.window}. FIT=pad adds windows that pass the edges."
            )
        return self

    @property
    def cut(self) -> Cut | None:
        """How windows are cut; None without WINDOW."""
        if self.window is None:
            return None
        return Cut(window=self.window, stride=self.stride or self.window, pad=self.fit == "pad")


def check_folder(data: Location) -> None:
    """UserError if DATA is no folder. An address is listed when the conversion is planned."""
    if isinstance(data, Address):
        return
    if not data.is_dir():
        found = "a file" if data.exists() else "nothing"
        raise UserError(f"DATA={data}: expected a folder of TIFFs, found {found}.")
