"""What is odd about pixels: constant, saturated, partly empty, far from the others, or another picture than the JPEG.

In: a store and its `Features`. Out: `Finding`s, each chip with what is wrong with it.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from analysis.features import Features
from analysis.label_checks import Finding
from analysis.pictures import colour_bands
from preprocess.console import SHORTAGES, UserError
from preprocess.image_names import bare, stem
from preprocess.zarr_store import Store

MIN_SHARE = 0.01  # of a chip's pixels: below it, a bright roof or a dark shadow
# Robust deviations (1.4826 times the median absolute deviation) from the median. Clouds reach 10 and more on real
# chips; what this is to find are chips in another unit or of another sensor.
MAX_DEVIATIONS = 20.0
MIN_JPEG_CORRELATION = 0.5  # of the 16 x 16 thumbnails; real pairs reach 0.96 to 0.99, other chips' about 0
JPEG_SUFFIXES = (".jpg", ".jpeg", ".JPG", ".JPEG")


def _chips(title: str, about: str, found: dict[int, str]) -> Finding:
    chips = sorted(found)
    return Finding(title=title, about=about, chips=np.array(chips, np.int64).reshape(-1, 1),
                   said=[found[chip] for chip in chips])  # fmt: skip


def pixel_findings(store: Store, features: Features) -> list[Finding]:
    """Constant, saturated and partly empty chips. A constant chip is not named again as saturated or empty."""
    bands, pixels = store.layout.bands, store.layout.height * store.layout.width
    flat = features.low == features.high
    constant = {
        int(chip): "all bands" if flat[chip].all() else ", ".join(np.array(bands)[flat[chip]].tolist())
        for chip in np.flatnonzero(flat.any(axis=1))
    }
    ceiling = features.high.max(axis=0)
    share = np.where(features.high == ceiling, features.at_high, 0) / pixels
    share[flat] = 0
    saturated = {}
    for chip in np.flatnonzero((share >= MIN_SHARE).any(axis=1)).tolist():
        said = [f"{bands[b]} {100 * share[chip, b]:.0f} %" for b in np.flatnonzero(share[chip] >= MIN_SHARE)]
        saturated[chip] = ", ".join(said)
    empty_share = features.empty / pixels
    empty = {
        int(chip): f"{100 * empty_share[chip]:.0f} % of the pixels"
        for chip in np.flatnonzero((empty_share >= MIN_SHARE) & ~flat.all(axis=1))
    }
    highest = ", ".join(f"{band} {value:.5g}" for band, value in zip(bands, ceiling.tolist(), strict=True))
    return [
        _chips("Constant", "A band that has one value only.", constant),
        _chips(
            "Saturated", f"At least 1 % of a band's pixels have the highest value of the store ({highest}).", saturated
        ),
        _chips("Partly empty", "At least 1 % of the pixels are 0 in every band.", empty),
    ]


def outliers(store: Store) -> Finding:
    """Chips whose mean in a band lies far from the other chips' means."""
    means = store.band_sum / (store.layout.height * store.layout.width)
    middle = np.median(means, axis=0)
    spread = 1.4826 * np.median(np.abs(means - middle), axis=0)
    deviations = np.divide(np.abs(means - middle), spread, out=np.zeros_like(means), where=spread > 0)
    found = {}
    for chip in np.flatnonzero((deviations > MAX_DEVIATIONS).any(axis=1)):
        band = int(deviations[chip].argmax())
        found[int(chip)] = f"{store.layout.bands[band]}: mean {means[chip, band]:.5g}, median chip {middle[band]:.5g}"
    about = f"The mean of a band lies more than {MAX_DEVIATIONS:.0f} robust deviations from the median chip's."
    return _chips("Far from the others", about, found)


def jpeg_paths(store: Store, folder: Path | None) -> dict[int, Path] | None:
    """The JPEG of each chip that has one in `folder`; None where no folder is given.

    Raises:
        UserError: it is no folder, or no chip has a JPEG there.
    """
    if folder is None:
        return None
    if not folder.is_dir():
        raise UserError(
            f"JPEG={folder}: expected a folder of JPEGs, found {'a file' if folder.exists() else 'nothing'}."
        )
    found = {}
    for chip, name in enumerate(store.names.tolist()):
        files = (folder / (base + suffix) for base in (stem(name), bare(name)) for suffix in JPEG_SUFFIXES)
        path = next((path for path in files if path.is_file()), None)
        if path is not None:
            found[chip] = path
    if not found:
        raise UserError(
            f"JPEG={folder}: expected JPEGs of the chips' names ({store.names[0]}{JPEG_SUFFIXES[0]}), found none of "
            f"{store.num_chips:,}."
        )
    return found


def jpeg_findings(store: Store, features: Features, paths: dict[int, Path] | None) -> Finding:
    """Chips that do not look like the JPEG of their name: files mixed up, or one of them damaged."""
    title = "Unlike its JPEG"
    if paths is None:
        return Finding(title=title, about="", missing="JPEG=folder is needed.")
    shown = [store.layout.bands.index(band) for band in colour_bands(store)]
    found: dict[int, str] = {}
    for chip, path in paths.items():
        if said := _unlike(features.thumbnail[chip][shown].mean(axis=0), path, store.layout.height, store.layout.width):
            found[chip] = said
    absent = store.num_chips - len(paths)
    return _chips(title, f"{len(paths):,} of {store.num_chips:,} chips have a JPEG; {absent:,} have none and were not "
                         f"looked at. Correlation below {MIN_JPEG_CORRELATION} of thumbnails.", found)  # fmt: skip


def _unlike(own: np.ndarray, path: Path, height: int, width: int) -> str:
    """What is wrong with the JPEG of a chip of that size whose thumbnail is `own`; "" for nothing."""
    try:
        with Image.open(path) as picture:
            if picture.width * height != picture.height * width:
                return f"{path.name} is {picture.height} x {picture.width} pixels, the chip {height} x {width}"
            # Planet's JPEGs have four components and open as CMYK; converted they are the colours.
            small = picture.convert("RGB").resize(own.shape[::-1], Image.Resampling.BOX)
            colours = np.asarray(small, np.float32)
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, OSError) and error.errno in SHORTAGES:
            raise
        return f"{path.name} cannot be read ({error})"
    correlation = _correlation(own, colours.mean(axis=-1))
    return f"correlation {correlation:.2f} with {path.name}" if correlation < MIN_JPEG_CORRELATION else ""


def _correlation(one: np.ndarray, two: np.ndarray) -> float:
    """Pearson's; 1 where a picture has no contrast, for then there is nothing to compare."""
    a, b = (values.ravel() - values.mean() for values in (one, two))
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 1e-6 * len(a) else 1.0
