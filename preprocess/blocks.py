"""Square blocks of ground, for a split that keeps neighbours together.

In: a store with coordinates, and groups of chips. Out: groups in which every chip is once, and a line about them.
Leaves the fractions of the splits to `splits`.
"""

import math

import numpy as np

from preprocess.georeference import METRES, centres
from preprocess.zarr_store import Store

KM_PER_DEGREE = math.pi / 180 * 6371.0088  # of latitude; the mean radius of the Earth


def block_numbers(store: Store, block_km: float) -> np.ndarray | None:
    """(chips,) int64: the number of the block that holds the centre of a chip.

    -1: the chip has no coordinates, or their unit is not known. None: this holds for every chip. Blocks are squares of
    the coordinates of a CRS. Degrees of longitude are converted to km at the latitude of the middle of a block. Chips
    of different CRS are never in one block.
    """
    transform, crs = store.transform, store.crs
    if transform is None or crs is None:
        return None
    units: dict[str, str] = store.source.get("crs_units", {})
    x, y = centres(transform, store.layout.height, store.layout.width)
    places = np.zeros((store.num_chips, 3), np.int64)
    for number, name in enumerate(sorted(set(crs.tolist())), start=1):
        chips = np.flatnonzero(crs == name)
        unit = units.get(name, "")
        if unit == "degree":
            row, column = _degree_blocks(x[chips], y[chips], block_km)
        elif unit in METRES:
            row, column = (np.floor(side[chips] * METRES[unit] / (1000 * block_km)) for side in (y, x))
        else:
            continue
        places[chips] = np.stack([np.full(len(chips), number), row, column], axis=1)
    located = places[:, 0] > 0
    if not located.any():
        return None
    blocks = np.full(store.num_chips, -1)
    blocks[located] = np.unique(places[located], axis=0, return_inverse=True)[1].reshape(-1)
    return blocks


def _degree_blocks(longitude: np.ndarray, latitude: np.ndarray, block_km: float) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) of blocks."""
    row = np.floor(latitude * KM_PER_DEGREE / block_km)
    middle = np.clip((row + 0.5) * block_km / KM_PER_DEGREE, -90, 90)
    return row, np.floor(longitude * KM_PER_DEGREE * np.cos(np.radians(middle)) / block_km)


def joined(blocks: np.ndarray, groups: list[list[int]]) -> list[list[int]]:
    """All chips in groups: chips of one block, or of one of `groups`, are together. Ascending."""
    from scipy.sparse import coo_array  # here: every command that opens a store imports this module
    from scipy.sparse.csgraph import connected_components

    count, located = len(blocks), np.flatnonzero(blocks >= 0)
    chips = np.concatenate([located, *map(np.array, groups)]).astype(np.int64)
    sizes = [len(group) for group in groups]
    owners = np.concatenate([blocks[located], blocks.max() + 1 + np.repeat(np.arange(len(groups)), sizes)])
    total = count + int(blocks.max()) + 1 + len(groups)
    links = coo_array((np.ones(len(chips)), (chips, count + owners)), shape=(total, total))
    label = connected_components(links, directed=False)[1][:count]
    order = np.argsort(label, kind="stable")
    pieces = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    return sorted(piece.tolist() for piece in pieces)


def blocks_line(blocks: np.ndarray, block_km: float, num_groups: int | None) -> str:
    """What SPLIT=blocked used. `num_groups`: of the audit; None without one."""
    absent = int((blocks < 0).sum())
    nowhere = f" ({absent} chips have no coordinates)" if absent else ""
    audit = f"and the audit's groups ({num_groups})"
    if num_groups is None:
        audit = "without the groups of `make audit`, which would change the split"
    return f"SPLIT=blocked: {blocks.max() + 1} blocks of {block_km:g} km from coordinates{nowhere}, {audit}."
