"""List the chips below a folder: its TIFFs, or its PNGs and JPEGs if there is no TIFF.

In: a folder. Out: a `Listing`. Leaves the names of files to `image_names`.
"""

import numpy as np

from preprocess.addresses import Location
from preprocess.image_names import Listing, chip_name, is_picture, list_files
from preprocess.packed_texts import positions
from preprocess.suffixes import PICTURES, SUFFIXES


def list_chips(folder: Location) -> tuple[Listing, str]:
    """Every TIFF below `folder`; every PNG and JPEG if there is no TIFF. `chip_name` gives their names.

    Pictures beside TIFFs are often made from them, and are left out. The text names those that have no TIFF of their
    name; "" if there is none.

    Raises:
        UserError: a folder cannot be listed.
    """
    listing = list_files(folder, (*SUFFIXES, *PICTURES))
    names = listing.names
    pictures = np.fromiter((is_picture(name) for name in names), bool, len(names))
    if not pictures.any() or pictures.all():
        return listing, ""
    tiffs, others = (names.take(np.flatnonzero(kind)) for kind in (~pictures, pictures))
    result = Listing(hidden=listing.hidden, dangling=listing.dangling)
    for name in tiffs:
        result.files.append(name)
    if not len(alone := np.flatnonzero(positions(others, tiffs, chip_name) < 0)):
        return result, ""
    return result, f"{min(tiffs)}, and no TIFF for {min(others.at(alone))} ({len(alone)} such files)"
