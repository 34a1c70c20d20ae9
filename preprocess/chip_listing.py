"""List the chips below a folder: its TIFFs, or its PNGs and JPEGs if there is no TIFF.

In: a folder. Out: a `Listing`. Leaves the names of files to `image_names`.
"""

import numpy as np

from preprocess.addresses import Location
from preprocess.image_names import Listing, chip_name, is_picture, list_files, stem
from preprocess.packed_texts import PackedTexts, positions
from preprocess.suffixes import PICTURES, SUFFIXES


def list_chips(folder: Location) -> tuple[Listing, str]:
    """Every TIFF below `folder`; every PNG and JPEG if there is no TIFF. `chip_name` gives their names.

    Pictures beside TIFFs are often made from them, and are left out. The text names those in folders of `folder` that
    have no TIFF of their name; "" if there is none.

    Raises:
        UserError: a folder cannot be listed.
    """
    listing = list_files(folder, (*SUFFIXES, *PICTURES))
    names = listing.names
    pictures = np.fromiter((is_picture(name) for name in names), bool, len(names))
    if pictures.all() or not (pictures.any() or any(map(is_picture, listing.dangling))):
        return listing, ""
    tiffs, others = (names.take(np.flatnonzero(kind)) for kind in (~pictures, pictures))
    links = PackedTexts.collect(listing.dangling)
    lost = [
        name for name, at in zip(links, positions(links, tiffs, _key), strict=True) if at < 0 or not is_picture(name)
    ]
    result = Listing(hidden=listing.hidden, dangling=lost)
    for name in tiffs:
        result.files.append(name)
    alone = [name for name in others.at(np.flatnonzero(positions(others, tiffs, _key) < 0)) if "/" in name]
    if not alone:
        return result, ""
    return result, f"{min(tiffs)}, and no TIFF for {min(alone)} ({len(alone)} such files)"


def _key(file: str) -> str:
    """What a TIFF and a picture of it have in common: `a.tif`, `a.png` and `a.tif.png` are one chip."""
    return stem(chip_name(file))
