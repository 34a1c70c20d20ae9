"""List the chips below a folder: its TIFFs, or its PNGs and JPEGs if there is no TIFF.

In: a folder. Out: a `Listing`. Leaves the names of files to `image_names`.
"""

import numpy as np

from preprocess.addresses import Location
from preprocess.console import UserError
from preprocess.image_names import Listing, chip_name, is_picture, list_files
from preprocess.packed_texts import positions
from preprocess.suffixes import PICTURES, SUFFIXES


def list_chips(folder: Location) -> Listing:
    """Every TIFF below `folder`; every PNG and JPEG if there is no TIFF. `chip_name` gives their names.

    Pictures beside TIFFs of the same name are made from them, and are left out.

    Raises:
        UserError: a folder cannot be listed, or a picture beside TIFFs has no TIFF of its name.
    """
    listing = list_files(folder, (*SUFFIXES, *PICTURES))
    names = listing.names
    pictures = np.fromiter((is_picture(name) for name in names), bool, len(names))
    if not pictures.any() or pictures.all():
        return listing
    tiffs, others = (names.take(np.flatnonzero(kind)) for kind in (~pictures, pictures))
    if len(alone := np.flatnonzero(positions(others, tiffs, chip_name) < 0)):
        raise UserError(
            f"{folder}: expected a TIFF beside each PNG and JPEG, or no TIFF at all; found {min(tiffs)}, and no TIFF "
            f"for {min(others.at(alone))} ({len(alone)} such files). Move the files of one kind to another folder."
        )
    result = Listing(hidden=listing.hidden, dangling=listing.dangling)
    for name in tiffs:
        result.files.append(name)
    return result
