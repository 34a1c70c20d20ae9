"""Checks of pixels: constant, saturated, partly empty, outliers, different from the JPEG of the same name.

In: a store and its `Features`. Out: `Finding`s, with a reason per chip.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from analysis.features import Features
from analysis.findings import Check, Finding
from preprocess.band_names import true_colour
from preprocess.console import SHORTAGES, UserError
from preprocess.image_names import bare, stem
from preprocess.zarr_store import Store

MIN_SHARE = 0.01  # of a chip's pixels; less is a bright roof or a dark shadow
# Robust deviations (1.4826 times the median absolute deviation) from the median. Clouds reach 10 and more on real
# chips; this check is for chips in another unit or from another sensor.
MAX_DEVIATIONS = 20.0
MIN_JPEG_CORRELATION = 0.5  # of the 16 x 16 thumbnails; real pairs reach 0.96 to 0.99, wrong pairs about 0
JPEG_SUFFIXES = (".jpg", ".jpeg", ".JPG", ".JPEG")


def pixel_findings(store: Store, features: Features) -> list[Finding]:
    """Constant, saturated and partly empty chips. A constant chip is not listed again as saturated or empty."""
    bands, pixels = store.layout.bands, store.layout.height * store.layout.width
    flat = (features.low == features.high) & (store.valid_count > 0)
    constant = {
        int(chip): "all bands" if flat[chip].all() else ", ".join(np.array(bands)[flat[chip]].tolist())
        for chip in np.flatnonzero(flat.any(axis=1))
    }
    ceiling = features.high.max(axis=0)
    share = np.where(features.high == ceiling, features.at_high, 0) / pixels
    share[flat] = 0
    saturated = {}
    for chip in np.flatnonzero((share >= MIN_SHARE).any(axis=1)).tolist():
        shares = [f"{bands[b]} {100 * share[chip, b]:.0f} %" for b in np.flatnonzero(share[chip] >= MIN_SHARE)]
        saturated[chip] = ", ".join(shares)
    empty_share = features.empty / pixels
    empty = {
        int(chip): f"{100 * empty_share[chip]:.0f} % of the pixels"
        for chip in np.flatnonzero((empty_share >= MIN_SHARE) & ~flat.all(axis=1))
    }
    highest = ", ".join(f"{band} {value:.5g}" for band, value in zip(bands, ceiling.tolist(), strict=True))
    return [
        Finding.of_chips(Check.CONSTANT, "A band has only one value.", constant.items()),
        Finding.of_chips(
            Check.SATURATED,
            f"At least 1 % of the pixels in a band have the maximum of that band over all chips ({highest}).",
            saturated.items(),
        ),
        Finding.of_chips(Check.PARTLY_EMPTY, "At least 1 % of the pixels are 0 in all bands at once.", empty.items()),
    ]


def nodata_findings(store: Store) -> list[Finding]:
    """Chips with nodata, and chips with nothing else; none for a store without nodata."""
    nodata, pixels, bands = store.layout.nodata, store.layout.height * store.layout.width, store.layout.bands
    if nodata is None:
        return []
    missing = 1 - store.valid_count / pixels
    some = {
        chip: ", ".join(f"{bands[b]} {100 * missing[chip, b]:.3g} %" for b in np.flatnonzero(missing[chip]).tolist())
        for chip in np.flatnonzero((missing > 0).any(axis=1) & (missing < 1).any(axis=1)).tolist()
    }
    empty = dict.fromkeys(np.flatnonzero((missing == 1).all(axis=1)).tolist(), "all bands")
    return [
        Finding.of_chips(
            Check.ONLY_NODATA, f"Every pixel is nodata ({nodata}) in every band: nothing can be learnt.", empty.items()
        ),
        Finding.of_chips(
            Check.PARTLY_NODATA, f"Pixels are nodata ({nodata}): mean and std leave them out.", some.items()
        ),
    ]


def outliers(store: Store) -> Finding:
    """Chips whose mean in a band is far from the median chip's. Bands without a valid pixel are left out."""
    valid = store.valid_count
    means = np.divide(store.band_sum, valid, out=np.full(valid.shape, np.nan), where=valid > 0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered")  # a band without a valid pixel in any chip
        middle = np.nanmedian(means, axis=0)
        means = np.where(valid > 0, means, middle)
        spread = 1.4826 * np.nanmedian(np.where(valid > 0, np.abs(means - middle), np.nan), axis=0)
    deviations = np.divide(np.abs(means - middle), spread, out=np.zeros_like(means), where=spread > 0)
    reasons = {}
    for chip in np.flatnonzero((deviations > MAX_DEVIATIONS).any(axis=1)):
        band = int(deviations[chip].argmax())
        reasons[int(chip)] = (
            f"{store.layout.bands[band]}: mean {means[chip, band]:.5g}, median of all chips {middle[band]:.5g}"
        )
    about = (
        f"A band's mean differs from the median of all chips' means by more than {MAX_DEVIATIONS:.0f} robust standard "
        "deviations (1.4826 x the median absolute deviation)."
    )
    return Finding.of_chips(Check.OUTLIERS, about, reasons.items())


def jpeg_paths(store: Store, folder: Path | None) -> dict[int, Path] | None:
    """Chip -> path of its JPEG in `folder`, for chips that have one; None if no folder is given.

    Raises:
        UserError: `folder` is not a folder, or no chip has a JPEG in it.
    """
    if folder is None:
        return None
    if not folder.is_dir():
        raise UserError(
            f"JPEG={folder}: expected a folder of JPEGs, found {'a file' if folder.exists() else 'nothing'}."
        )
    paths = {}
    for chip, name in enumerate(store.names.tolist()):
        files = (folder / (base + suffix) for base in (stem(name), bare(name)) for suffix in JPEG_SUFFIXES)
        path = next((path for path in files if path.is_file()), None)
        if path is not None:
            paths[chip] = path
    if not paths:
        raise UserError(
            f"JPEG={folder}: expected JPEGs named like the chips ({store.names[0]}{JPEG_SUFFIXES[0]}), found none of "
            f"{store.num_chips:,}."
        )
    return paths


def jpeg_findings(store: Store, features: Features, paths: dict[int, Path] | None) -> Finding:
    """Chips that differ from the JPEG of the same name: files are mixed up, or one of them is damaged."""
    if paths is None:
        return Finding.not_made(Check.OTHER_JPEG, "needs JPEG=folder.")
    shown = [store.layout.bands.index(band) for band in true_colour(store.layout.bands) or store.layout.bands[:1]]
    reasons: dict[int, str] = {}
    for chip, path in paths.items():
        thumbnail = features.thumbnail[chip][shown].mean(axis=0)
        if reason := _difference(thumbnail, path, store.layout.height, store.layout.width):
            reasons[chip] = reason
    absent = store.num_chips - len(paths)
    about = (
        f"The JPEG cannot be read, has another shape, or its thumbnail correlates with the chip's by less than "
        f"{MIN_JPEG_CORRELATION}. {len(paths):,} of {store.num_chips:,} chips have a JPEG; the other {absent:,} "
        "were skipped."
    )
    return Finding.of_chips(Check.OTHER_JPEG, about, reasons.items())


def _difference(thumbnail: np.ndarray, path: Path, height: int, width: int) -> str:
    """How a JPEG differs from the chip of that size and `thumbnail`; "" if it does not."""
    try:
        with Image.open(path) as picture:
            if picture.width * height != picture.height * width:
                return f"{path.name} is {picture.height} x {picture.width} pixels, the chip {height} x {width}"
            # Planet's JPEGs have four components and open as CMYK; the conversion gives the colours.
            small = picture.convert("RGB").resize(thumbnail.shape[::-1], Image.Resampling.BOX)
            colours = np.asarray(small, np.float32)
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, OSError) and error.errno in SHORTAGES:
            raise
        return f"{path.name} cannot be read ({error})"
    correlation = _correlation(thumbnail, colours.mean(axis=-1))
    return f"correlation {correlation:.2f} with {path.name}" if correlation < MIN_JPEG_CORRELATION else ""


def _correlation(one: np.ndarray, two: np.ndarray) -> float:
    """Pearson's correlation; 1 if an image has no contrast, since there is nothing to compare."""
    a, b = (values.ravel() - values.mean() for values in (one, two))
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 1e-6 * len(a) else 1.0
