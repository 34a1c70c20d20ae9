"""Very many texts in arrays: what Python's own lists and dicts find, and how many bytes a planned chip takes."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from helpers.chips import conversion
from hypothesis import given
from hypothesis import strategies as st

from preprocess import packed_texts
from preprocess.packed_texts import HashIndex, PackedTexts, first_equal
from preprocess.plan import make_plan
from preprocess.suffixes import FOLDERS
from preprocess.tag_rows import RowCollector, TagRow

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=20)


@given(TEXTS, TEXTS)
def test_packed_texts_equal_their_list_and_give_any_of_its_rows(texts: list[str], others: list[str]) -> None:
    packed = PackedTexts.collect(f"p/{text}" for text in texts)
    assert packed == [f"p/{text}" for text in texts]
    assert (packed == [f"p/{text}" for text in others]) == (texts == others)
    rows = np.flatnonzero(np.arange(len(texts)) % 3)
    assert list(packed.take(rows)) == [f"p/{texts[row]}" for row in rows]


@pytest.mark.parametrize("colliding", [False, True])
@given(texts=TEXTS, wanted=TEXTS)
def test_texts_are_found_as_a_dict_finds_them_also_if_hashes_collide(
    colliding: bool, texts: list[str], wanted: list[str]
) -> None:
    with mock.patch("xxhash.xxh3_64_intdigest", **({"side_effect": len} if colliding else {"wraps": hash_of})):
        first: dict[str, int] = {}
        assert first_equal(texts).tolist() == [first.setdefault(text, place) for place, text in enumerate(texts)]
        index = HashIndex(texts, len(texts))
        for text in wanted + texts:
            found = index.find(text)
            assert [place for place in found if texts[place] == text] == [
                place for place, other in enumerate(texts) if other == text
            ]
            assert (index.first_of_each([text], 1)[0] == -1) == (not found)


def hash_of(data: bytes) -> int:
    return hash(data) & 2**64 - 1


@given(st.lists(st.tuples(st.text("ab"), st.lists(st.sampled_from("xyz"), max_size=3), st.sampled_from(["", "val"]))))
def test_rows_of_tags_are_the_rows_that_were_added(rows: list[tuple[str, list[str], str]]) -> None:
    collector = RowCollector()
    for line, (name, tags, split) in enumerate(rows):
        collector.add(line, name, tuple(tags), split)
    expected = [TagRow(line, name, tuple(tags), split) for line, (name, tags, split) in enumerate(rows)]
    made = collector.rows("tags")
    assert list(made) == expected
    assert made.first_lines() == [
        next(row.line for row in expected if row.tags == tags) for tags in dict.fromkeys(row.tags for row in expected)
    ]


@pytest.mark.parametrize("few", [0, 1 << 16])
@given(TEXTS, st.booleans())
def test_texts_are_sorted_as_python_sorts_them(few: int, texts: list[str], is_utf8: bool) -> None:
    texts = [*texts, *texts[:3], *([] if is_utf8 else ["\udcff", "\uffff", "\U00010000"])]
    with mock.patch.object(packed_texts, "_FEW", few):
        packed = PackedTexts.collect(f"p/{text}" for text in texts)
        assert packed.sorted() == sorted(f"p/{text}" for text in texts)
        assert packed.order().tolist() == sorted(range(len(texts)), key=texts.__getitem__)


SLOW = pytest.mark.slow  # some seconds each: tracemalloc looks at every allocation
FORMS = [
    pytest.param("{name},{tag}", {}, id="exact"),
    pytest.param("{lower},{tag}", {}, id="another case", marks=SLOW),
    pytest.param("{name}.jpg,{tag}", {}, id="another suffix", marks=SLOW),
    pytest.param("{name},{tag}\n{name},c\n{name},d", {"labels_format": "long"}, id="a row per tag", marks=SLOW),
    pytest.param("", {"labels": FOLDERS}, id="class folders", marks=SLOW),
]


@pytest.mark.parametrize(("row", "settings"), FORMS)
def test_a_planned_chip_takes_at_most_400_bytes(row: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """Names of 90 characters, as BigEarthNet has them. Two plans are compared, so blocks do not count. Each is made
    twice and the smaller peak counts: the first one also loads modules, and other threads may allocate meanwhile."""
    peaks = []
    template = tmp_path / "template"
    template.write_bytes(tiff())
    names = [f"S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_{index:045d}" for index in range(8_000)]
    for count in (2_000, len(names)):
        folder, rows = tmp_path / f"tif{count}", []
        for index, name in enumerate(names[:count]):
            below = folder / "ab"[index % 2] if settings.get("labels") else folder
            below.mkdir(exist_ok=True, parents=True)
            (below / f"{name}.tif").hardlink_to(template)
            rows.append(row.format(name=name, lower=name.lower(), tag="ab"[index % 2]))
        (tmp_path / "tags.csv").write_text("\n".join(["image_name,tags", *rows]) + "\n")
        values = {"labels": tmp_path / "tags.csv", **settings}
        settings_of_plan = conversion(data=folder, store=tmp_path / "s.zarr", bands=("gray",), **values)
        peaks.append(min(peak_of(lambda settings=settings_of_plan: make_plan(settings)) for _ in range(2)))
    assert peaks[1] - peaks[0] <= 400 * 6_000


def peak_of(call: Callable[[], object]) -> int:
    """Bytes of Python at the highest point of a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def tiff() -> bytes:
    import io

    import tifffile

    data = io.BytesIO()
    tifffile.imwrite(data, np.arange(64, dtype=np.uint8).reshape(8, 8), photometric="minisblack")
    return data.getvalue()
