"""Values for TIFFs, and TIFFs as bytes."""

import io

import numpy as np
import tifffile

CHUNKY = np.random.default_rng(0).integers(0, 65536, (24, 20, 4), dtype=np.uint16)
PLANAR = np.ascontiguousarray(np.moveaxis(CHUNKY, -1, 0))


def written(values: np.ndarray, **options: object) -> bytes:
    """The bytes of a TIFF of these values."""
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)  # type: ignore[arg-type]
    return file.getvalue()


# 6 strips of 4 rows, LZW.
STRIPS = written(CHUNKY, photometric="rgb", extrasamples=["unspecified"], rowsperstrip=4, compression="lzw")
