"""`make preview`: a picture of the first train batch, as stored and as the network sees it.

In: the configuration of a training, its store and split. Out: a PNG, and lines that say what to look for and what to do
next. The batch comes from the loader that the training would use. Randomness is a function of (seed, epoch, chip), so
the picture shows the first chips of the run's first step. Leaves drawing to `preview_picture`.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from analysis.pictures import limits, read_chips, stretch, stretch_valid
from analysis.preview_picture import Row, ShownChip, draw
from analysis.slugs import listed
from pipeline.inputs import Inputs
from pipeline.loader import Batch
from pipeline.order import Augmentation
from preprocess.band_names import false_colour, true_colour
from preprocess.console import say
from preprocess.files import write_atomic
from preprocess.nodata import nodata_mask
from preprocess.splits import Split
from preprocess.zarr_store import Store
from train.config import Config
from train.device import choose_device
from train.preview_words import seen_words
from train.setup import Data, make_train_loader, open_data

MOST_PANELS = 16  # in a row


@dataclass(frozen=True, kw_only=True)
class FirstBatch:
    """The first train batch and the plan that it was made by."""

    data: Data
    batch: Batch
    augmentation: Augmentation
    crop: tuple[int, int]


def preview(config: Config, opened: tuple[Store, Split], *, chips: int, out: Path) -> None:
    """Draw the first train batch.

    Args:
        config: of the training.
        opened: its store and split, from `open_checked`.
        chips: how many chips of the batch are shown.
        out: the PNG.

    Raises:
        UserError: what the training would refuse, too.
    """
    first = first_batch(config, opened)
    groups = band_groups(first.data.inputs.bands, config.band_choice.rgb)
    captions = tuple(",".join(group) for group in groups) if len(groups) > 1 else ()
    shown = [shown_chip(first, row, panels, captions) for row, panels in enumerate(_panels(config, first, chips))]
    count = f"{len(shown)} of {len(first.batch.chips)} chips of the first train batch"
    picture = draw(shown, [f"{Path(config.store).name}: {count} (SEED={config.seed})", *_legend(config, first.data)])
    png = io.BytesIO()
    picture.save(png, format="PNG")
    write_atomic(out, png.getvalue())
    say(f"{out}: {count}, as stored and as the network sees them")
    say("Look: natural colours (vegetation green, in false colours red)? Do the tags fit the chips?")
    say("If not: the order in BANDS=... (make zarr), BANDS_RGB=..., or the names in the CSV. If so, train:")
    say(" ".join(["make train", *seen_words(config)]))


def first_batch(config: Config, opened: tuple[Store, Split]) -> FirstBatch:
    """The first batch of the first epoch, from the loader of a training on the CPU."""
    config = config.replace(gpu="cpu", gpu_given=False)
    device = choose_device(config)
    data = open_data(config, opened)
    loader = make_train_loader(config, data, device)
    plan, batches = next(iter(loader.plans(0))), loader.epoch(0)
    batch = next(iter(batches))
    batches.close()  # type: ignore[attr-defined]  # a generator
    loader.close()
    assert plan.augmentation is not None
    assert np.array_equal(plan.chips, batch.chips)
    height, width = batch.images_nchw.shape[2:]
    return FirstBatch(data=data, batch=batch, augmentation=plan.augmentation, crop=(height, width))


def unscaled(images_nchw: torch.Tensor, inputs: Inputs) -> np.ndarray:
    """A batch's standardised values in the units before the standardisation: (chips, bands, height, width) float64."""
    values = images_nchw.numpy().astype(np.float64)
    mean, std = (np.array(numbers)[:, None, None] for numbers in (inputs.mean, inputs.std))
    return np.asarray(values * std + mean)


def band_groups(bands: tuple[str, ...], rgb: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The panels of a chip: true colours, false colours, and every other band in grey."""
    colour = rgb if set(rgb) <= set(bands) else ()
    colour = colour or true_colour(bands)
    groups = [group for group in (colour, false_colour(bands)) if group]
    groups += [(band,) for band in bands if band not in colour]
    return groups[:MOST_PANELS]


def _panels(config: Config, first: FirstBatch, count: int) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
    """For each chip the panels as stored and as seen, (height, width, 3) uint8, with the same stretch."""
    inputs, store = first.data.inputs, first.data.store
    chips, bands, nodata = first.batch.chips[:count], inputs.bands, store.layout.nodata
    stored = read_chips(store, chips, bands)
    seen = unscaled(first.batch.images_nchw[:count], inputs)
    if stored.dtype.kind in "iu":
        seen = np.rint(seen)  # float32 is exact to 0.01 of 65,535: these are the stored values again
    valid = stored if nodata is None else np.where(nodata_mask(stored, nodata), np.nan, stored.astype(np.float64))
    bounds = limits(valid)
    # PIL's formula gives 8-bit values, which are shown as they are.
    seen_bounds = np.array([[0.0, 255.0]] * len(bands)) if inputs.kind == "course" else bounds
    before: list[list[np.ndarray]] = [[] for _ in chips]
    after: list[list[np.ndarray]] = [[] for _ in chips]
    for group in band_groups(bands, config.band_choice.rgb):
        places = [bands.index(band) for band in group]
        part = stored[:, places]
        grey = stretch(part, bounds[places]) if nodata is None else stretch_valid(part, nodata, bounds[places])
        _add(before, grey)
        _add(after, stretch(seen[:, places], seen_bounds[places]))
    return list(zip(before, after, strict=True))


def _add(rows: list[list[np.ndarray]], images: np.ndarray) -> None:
    for row, image in zip(rows, np.moveaxis(images, 1, -1), strict=True):
        row.append(np.broadcast_to(image, (*image.shape[:2], 3)))


def shown_chip(
    first: FirstBatch, row: int, panels: tuple[list[np.ndarray], list[np.ndarray]], captions: tuple[str, ...] = ()
) -> ShownChip:
    """Name, tags, and the two rows of panels of a chip. The tags are those that the loss gets. `captions`: the bands of
    each panel."""
    store = first.data.store
    tags = np.array(store.classes)[first.batch.labels[row].numpy() > 0].tolist()
    before, after = panels
    return ShownChip(
        name=str(store.names[first.batch.chips[row]]), tags=listed(tags),
        rows=(
            Row(title="stored", panels=before, captions=captions),
            Row(title=f"seen: {augmented(first, row)}", panels=after),
        ),
    )  # fmt: skip


def augmented(first: FirstBatch, row: int) -> str:
    """The steps of a chip's augmentation, in order."""
    made, layout = first.augmentation, first.data.store.layout
    words = ["rows flipped"] if made.flip_rows[row] else []
    words += ["transposed"] if made.transpose[row] else []
    if first.crop != (layout.height, layout.width):
        words.append(f"crop at {made.crop_y[row]}, {made.crop_x[row]}")
    words += ["columns flipped"] if made.mirror[row] else []
    return ", ".join(words) or "unchanged"


def _legend(config: Config, data: Data) -> list[str]:
    bands = data.inputs.bands
    groups = band_groups(bands, config.band_choice.rgb)
    named = {true_colour(bands), config.band_choice.rgb}
    colours = [
        f"{', '.join(group)} in {'true' if group in named else 'false'} colours" for group in groups if len(group) == 3
    ]
    greys = [group[0] for group in groups if len(group) == 1]
    hidden = len(set(bands) - {band for group in groups for band in group})
    panels = [*colours, *([f"{', '.join(greys)} in grey"] if greys else [])]
    trunks = " | ".join(",".join(trunk) for trunk in data.trunk_bands)
    lines = [
        f"Network input: {trunks}; INPUT={config.input}, split {data.split.rule}, FLIPS={config.flips}",
        f"Panels from left to right: {'; '.join(panels)}.{f' {hidden} more bands are not shown.' if hidden else ''}",
    ]
    if data.inputs.kind == "course":
        stretched = "Stored: each band from the 1st to the 99th percentile of these chips. Seen: PIL's 8-bit values."
    else:
        stretched = (
            "Both rows: each band from the 1st to the 99th percentile of these stored chips. The network's values are "
            "brought back from standardised ones to the units of the store."
        )
    nodata = "" if data.store.layout.nodata is None else " Stored nodata is magenta; the network gets the mean there."
    return [*lines, stretched + nodata]
