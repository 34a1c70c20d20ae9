"""Pictures of chips: which bands they show, and how values of any kind become grey levels."""

import numpy as np
import pytest

from analysis.pictures import shown_bands, stretch


@pytest.mark.parametrize(
    ("bands", "rgb", "colour", "nir", "words"),
    [
        ("blue green red nir", "", "red green blue", "nir", "Colours: red, green, blue"),
        ("B02 B03 B04 B08 B11", "", "B04 B03 B02", "B08", "Colours: B04, B03, B02"),
        ("SR_B2 SR_B3 SR_B4", "", "SR_B4 SR_B3 SR_B2", "", "Colours: SR_B4, SR_B3, SR_B2"),
        ("one two three nir", "two one three", "two one three", "nir", "Colours: two, one, three"),
        ("nir green red", "", "nir red green", "", "False colours: nir, red, green shown as red, green and blue"),
        ("blue green red nir", "nir red green", "nir red green", "", "Colours: nir, red, green"),
        ("VV VH", "", "VV", "", "Grey: the band VV"),
        ("nir", "", "nir", "", "Grey: the band nir"),
    ],
)
def test_true_colours_are_shown_else_false_colours_else_grey(
    bands: str, rgb: str, colour: str, nir: str, words: str
) -> None:
    found = shown_bands(tuple(bands.split()), tuple(rgb.split()))
    assert (" ".join(found.colour), found.nir, found.words) == (colour, nir, words)


def test_nan_and_infinity_are_black_and_change_no_other_pixel() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 2, 30, 30)).astype(np.float32)
    odd = rng.random(values.shape) < 0.1
    with_odd = np.where(odd, rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32), values.shape), values)
    found = stretch(with_odd)
    assert not found[odd].any()
    for band in range(2):
        usable = values[:, band][~odd[:, band]].astype(np.float64)
        low, high = np.percentile(usable, (1, 99))
        expected = np.rint(np.clip((usable - low) / (high - low), 0, 1) * 255)
        assert np.array_equal(found[:, band][~odd[:, band]], expected)
    assert not stretch(np.full((1, 1, 4, 4), np.nan, np.float32)).any()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_a_band_with_few_other_values_is_stretched_over_all_of_them(dtype: str) -> None:
    values = np.full((1, 2, 50, 50), 7, dtype)
    values[0, 0, 3, 4] = 100
    found = stretch(values)
    assert found[0, 0, 3, 4] == 255
    assert found.astype(int).sum() == 255  # the rest, and the constant band, is black
