"""`preview`: the picture shows the chips, labels and augmentation of a training's first batch."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.chips import Chips
from helpers.commands import here, train
from PIL import Image
from tiny import tiny_networks

from analysis.preview import _panels, band_groups, first_batch, shown_chip
from analysis.preview_picture import LARGEST, Row, ShownChip, draw, wrapped
from analysis.preview_settings import PreviewRequest, with_all_bands
from pipeline.loader import Batch
from preprocess.zarr_store import Store
from train.config import Config, make_config
from train.early_checks import open_checked
from train.hooks import Hooks, use_hooks
from train.loop import RunLoop
from train.preview_words import SEEN, seen_words


def config_of(store: Store, recipe: str = "default", **settings: Any) -> Config:
    return make_config(recipe, **{"task": 4, "store": str(store.path), "batch": 20, **settings})


def undone(title: str, stored: np.ndarray, side: int) -> np.ndarray:
    """What a row's title says of a stored panel (height, width, 3), by numpy."""
    if "rows flipped" in title:
        stored = stored[::-1]
    if "transposed" in title:
        stored = stored.swapaxes(0, 1)
    if found := re.search(r"crop at (\d+), (\d+)", title):
        y, x = map(int, found.groups())
        stored = stored[y : y + side, x : x + side]
    return stored[:, ::-1] if "columns flipped" in title else stored


@pytest.mark.parametrize("settings", [{}, {"flips": "both", "crop": 9}, {"flips": "none", "crop_share": 1.0}])
def test_the_lower_panels_are_the_upper_ones_augmented_as_their_title_says(
    session_store: Store, settings: dict[str, Any]
) -> None:
    config = config_of(session_store, **settings)
    first = first_batch(config, open_checked(config))
    side = first.batch.images_nchw.shape[2]
    titles = set()
    for row, panels in enumerate(_panels(config, first, 20)):
        stored, seen = shown_chip(first, row, panels).rows
        titles.add(seen.title)
        for before, after in zip(stored.panels, seen.panels, strict=True):
            assert np.array_equal(undone(seen.title, before, side), after)
    assert (titles == {"seen: unchanged"}) == (settings.get("flips") == "none")


def test_the_batch_is_that_of_the_first_step_of_the_run(session_store: Store, tmp_path: Path) -> None:
    seen: list[Batch] = []

    def note(loop: RunLoop, batch: Batch, loss: torch.Tensor) -> None:
        seen.append(batch)

    words = ("BATCH=20", "SEED=3", "SPLIT=0.5,0.5", "EPOCHS=1", "SHUFFLE_LABELS=1")
    with tiny_networks(), use_hooks(Hooks(on_batch_end=note)):
        ended = train(session_store.path, tmp_path / "run", *words, task=4)
    config = config_of(session_store, seed=3, split="0.5,0.5", shuffle_labels=True)
    found = first_batch(config, open_checked(config)).batch
    assert found.chips.tolist() == seen[0].chips.tolist()
    assert torch.equal(found.images_nchw, seen[0].images_nchw)
    assert torch.equal(found.labels, seen[0].labels)
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("make preview ")]
    request = PreviewRequest.from_words(shlex.split(line)[2:], "preview")
    assert {name: getattr(request.config, name) for name in SEEN} == {name: getattr(config, name) for name in SEEN}


def test_names_and_tags_are_those_of_the_chips(session_store: Store, session_chips: Chips) -> None:
    config = config_of(session_store, bands_in="nir,blue")
    first = first_batch(config, open_checked(config))
    for row, panels in enumerate(_panels(config, first, 20)):
        shown = shown_chip(first, row, panels)
        index = int(shown.name.removeprefix("t_"))
        assert shown.tags == (" ".join(sorted(set(session_chips.tags[index].split()))) or "no tag")
        stored = session_chips.values[index, 3].astype(float)  # nir, the first band of this network
        grey = shown.rows[0].panels[0][..., 0].astype(float)
        assert np.all(np.diff(grey.ravel()[np.argsort(stored, axis=None, kind="stable")]) >= 0)


@pytest.mark.slow  # DALI's pipeline takes 5 s
def test_a_course_batch_is_shown_as_pil_decodes_it(session_store: Store) -> None:
    config = config_of(session_store, "course", input="course", crop_share=1.0, flips="none")
    first = first_batch(config, open_checked(config))
    (seen,) = [after for _, after in _panels(config, first, 1)]
    mean, std = (np.array(values)[:, None, None] for values in (first.data.inputs.mean, first.data.inputs.std))
    blue, green, red, _ = np.rint(np.clip(first.batch.images_nchw[0].numpy() * std + mean, 0, 255))
    assert np.array_equal(seen[0], np.stack([red, green, blue], axis=-1).astype(np.uint8))


@pytest.mark.parametrize(
    ("bands", "rgb", "groups"),
    [
        ("blue green red nir", "", ["red green blue", "nir red green", "nir"]),
        ("red green blue", "", ["red green blue"]),
        ("B02 B03 B04 B08 B11", "", ["B04 B03 B02", "B08 B04 B03", "B08", "B11"]),
        ("a b c d", "c b a", ["c b a", "d"]),
        ("nir green red", "", ["nir red green", "nir", "green", "red"]),
        ("VV VH", "", ["VV", "VH"]),
    ],
)
def test_all_bands_are_shown_in_colours_or_in_grey(bands: str, rgb: str, groups: list[str]) -> None:
    assert band_groups(tuple(bands.split()), tuple(rgb.split())) == [tuple(group.split()) for group in groups]


@pytest.mark.parametrize(
    ("bands", "words"),
    [
        ("blue green red nir", "TASK=4"),
        ("red green blue", "TASK=1"),
        ("B02 B03 B04", "TASK=4 BANDS_IN=B02,B03,B04"),
        ("VV VH", "TASK=4 BANDS_IN=VV,VH"),
    ],
)
def test_without_a_task_the_network_sees_all_bands(bands: str, words: str) -> None:
    request = PreviewRequest.from_words(["STORE=chips.zarr"], "preview")
    config = with_all_bands(request.config, tuple(bands.split()))
    assert request.all_bands
    task, *rest = words.split()
    assert seen_words(config) == [task, "STORE=chips.zarr", *rest]


def test_a_pixel_of_a_small_chip_is_a_square_and_large_chips_are_averaged() -> None:
    rng = np.random.default_rng(0)
    small, large = (rng.integers(0, 256, (side, side, 3), np.uint8) for side in (40, 2 * LARGEST))
    for panel, side, expected in (
        (small, 120, np.kron(small, np.ones((3, 3, 1), np.uint8))),
        (large, LARGEST, np.asarray(Image.fromarray(large).reduce(2))),
    ):
        chip = ShownChip(name="t_0", tags="", rows=(Row(title="stored", panels=[panel]),))
        picture = np.asarray(draw([chip], ["head"])).astype(int)
        bottom = picture.shape[0] - 16 - 4
        found = picture[bottom - side : bottom, 16 : 16 + side]
        assert np.abs(found - expected).max() <= (1 if side == LARGEST else 0)  # PIL rounds half up


def test_captions_stand_above_their_panels_and_move_nothing_sideways() -> None:
    panels = [np.full((100, 100, 3), value, np.uint8) for value in (10, 200)]
    rows = {captions: Row(title="stored", panels=panels, captions=captions) for captions in ((), ("red", "nir"))}
    plain, named = (
        np.asarray(draw([ShownChip(name="t_0", tags="", rows=(row,))], ["head"])).astype(int) for row in rows.values()
    )
    more = named.shape[0] - plain.shape[0]
    assert more > 0
    top = plain.shape[0] - 16 - 4 - 100
    assert np.array_equal(named[top + more :, :], plain[top:, :])
    texts = named[top : top + more, 16 : 16 + 204].min(axis=2) < 200
    assert texts[:, :100].any()
    assert texts[:, 104:].any()


def test_long_names_and_many_tags_stay_within_the_width() -> None:
    lines = wrapped("one two three four five six seven", 60, 13, most=2)
    assert len(lines) == 2
    assert lines[1].endswith("...")
    assert wrapped("x" * 500, 60, 13)[0].endswith("...")


def test_the_command_writes_the_picture_and_says_what_is_next(session_store: Store, tmp_path: Path) -> None:
    out = tmp_path / "first.png"
    ended = here("", "preview", f"STORE={session_store.path}", "BATCH=20", "CHIPS=3", f"OUT={out}", "RECIPE=best")
    assert (ended.returncode, ended.stderr) == (0, "")
    first, *_, last = ended.stdout.splitlines()
    assert first == f"{out}: 3 of 20 chips of the first train batch, as stored and as the network sees them"
    assert last == f"make train TASK=4 STORE={session_store.path} RECIPE=best BATCH=20"
    assert here("", "check", *shlex.split(last)[1:]).returncode == 0
    with Image.open(out) as picture:
        picture.load()
        assert min(picture.size) > 300


def test_what_cannot_be_drawn_is_refused_in_one_line(
    session_store: Store, tmp_path: Path, refused: Callable[..., str]
) -> None:
    store = f"STORE={session_store.path}"
    for words, expected in (
        ([store, "OUT=x.jpg"], "OUT=x.jpg: expected a file NAME.png in a folder that exists."),
        ([store, f"OUT={tmp_path}/no/x.png"], f"OUT={tmp_path}/no/x.png: expected a file NAME.png"),
        ([store, "SPLIT=no.csv"], "SPLIT="),
        (["STORE=no.zarr"], "STORE="),
        ([], "STORE is not set. Add STORE=chips.zarr."),
        ([store, "EPOCHS=3"], "EPOCHS is not a setting of preview."),
        ([store, "BATCH=1000"], "BATCH=1000: the train split has only 201 chips."),
        ([store, "TASK=1", "BANDS_IN=B1"], "BANDS_IN=B1: expected bands of the chips"),
    ):
        ended = here("", "preview", *words)
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"error: {expected}")
        assert len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
