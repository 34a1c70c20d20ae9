"""PNG and JPEG files, and files per band, as other programs write them."""

import io
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image


def colours(seed: int = 0, height: int = 24, width: int = 20, samples: int = 3) -> np.ndarray:
    """(height, width, samples) uint8, as smooth as a photo."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, samples), dtype=np.uint8)
    bands = [Image.fromarray(small[..., k]).resize((width, height), Image.Resampling.BILINEAR) for k in range(samples)]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def encoded(values: np.ndarray, form: str, **options: object) -> bytes:
    """The bytes of a picture that Pillow writes; 3 samples are RGB, 4 are RGBA, 2 are grey and alpha."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, form, **options)  # type: ignore[arg-type]
    return file.getvalue()


def without_adobe(data: bytes) -> bytes:
    """A JPEG without its marker APP14."""
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def planet_jpeg(values: np.ndarray) -> bytes:
    """Four components without Adobe's marker, as Planet's JPEGs have them: red, green, blue and 255.

    Args:
        values: (height, width, 4) uint8.
    """
    return without_adobe(imagecodecs.jpeg8_encode(values, 95, colorspace="CMYK", outcolorspace="CMYK"))


def write_bands(folder: Path, name: str, bands: dict[str, np.ndarray], form: str = "{name}/{name}_{band}.tif") -> None:
    """A TIFF per band, as BigEarthNet has them."""
    for band, values in bands.items():
        path = folder / form.format(name=name, band=band)
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, values, photometric="minisblack")
