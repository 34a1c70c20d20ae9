"""Each signal of the demo chips is in the bands and bits that its description names."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers.chips import conversion
from PIL import Image

from preprocess.convert import convert
from preprocess.demo import BANDS, CLASSES, draw_chip, make_demo
from preprocess.labels import read_labels
from preprocess.splits import make_split
from preprocess.zarr_store import Store, open_store


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder, num_chips=900, seed=0)
    return folder


@pytest.fixture(scope="module")
def store(demo: Path) -> Store:
    convert(conversion(data=demo / "tif", labels=demo / "labels.csv", store=demo / "s.zarr", bands=BANDS))
    return open_store(demo / "s.zarr")


def pair(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same chip with and without one class."""
    without = dict.fromkeys(CLASSES, False)
    chips = [
        draw_chip(np.random.Generator(np.random.Philox(key=seed)), present)
        for present in (without, {**without, name: True})
    ]
    return chips[0], chips[1]


def test_files_have_the_layout_of_planets(demo: Path) -> None:
    with tifffile.TiffFile(demo / "tif" / "chip_0.tif") as tif:
        page = tif.pages[0]
        assert page.photometric.name == "RGB"
        assert tuple(page.extrasamples) == (1,)
        assert (page.shape, page.dtype) == ((64, 64, 4), np.uint16)
    with Image.open(demo / "tif" / "chip_0.tif") as picture:
        assert picture.mode == "RGBA"


def test_ripple_is_in_the_low_byte_only() -> None:
    for seed in range(20):
        without, with_it = pair("ripple", seed)
        assert np.array_equal(without >> 8, with_it >> 8)
        assert (without != with_it).mean() > 0.9


def test_orchard_is_in_nir_only() -> None:
    for seed in range(20):
        without, with_it = pair("orchard", seed)
        bright = (with_it[..., 3].astype(int) - without[..., 3]) > 8 * 256
        assert 200 < bright.sum() < 800
        # Later random numbers differ, so compare only what a model could use: no band except NIR is brighter.
        for band in range(3):
            change = with_it[..., band][bright].mean() - without[..., band][bright].mean()
            assert abs(change) < 60


def test_flare_is_never_positive_in_the_test_split_and_quarry_is_rare(store: Store) -> None:
    split = make_split("course", store)
    assert store.classes == CLASSES
    counts = store.labels[split.test].sum(axis=0)
    assert counts[CLASSES.index("flare")] == 0
    assert store.labels[split.train, CLASSES.index("flare")].sum() > 20
    assert 0 < counts[CLASSES.index("quarry")] < 0.06 * len(split.test)
    assert (np.delete(counts, CLASSES.index("flare")) > 0).all()


def test_the_same_seed_writes_the_same_bytes_and_existing_chips_are_kept(demo: Path, tmp_path: Path) -> None:
    make_demo(tmp_path, num_chips=5, seed=0)
    make_demo(tmp_path / "other", num_chips=5, seed=1)
    first = (tmp_path / "tif" / "chip_3.tif").read_bytes()
    assert first != (tmp_path / "other" / "tif" / "chip_3.tif").read_bytes()
    stamp = (tmp_path / "tif" / "chip_3.tif").stat().st_mtime_ns
    make_demo(tmp_path, num_chips=5, seed=0)
    assert (tmp_path / "tif" / "chip_3.tif").stat().st_mtime_ns == stamp
    assert len(read_labels(demo / "labels.csv").names) == 900


def test_ripple_needs_16_bits_and_orchard_needs_nir(store: Store) -> None:
    """A linear model on simple statistics of each chip finds both classes with 16 bits and NIR, and neither without."""
    import zarr
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    chips = np.asarray(zarr.open_group(store.path)["tiles"][...]).astype(np.int64)
    split = make_split("course", store)

    def score(values: np.ndarray, name: str) -> float:
        steps = [np.abs(np.diff(values, axis=axis)).mean(axis=(2, 3)) for axis in (2, 3)]
        features = np.concatenate([values.std(axis=(2, 3)), values.max(axis=(2, 3)), *steps], axis=1)
        labels = store.labels[:, CLASSES.index(name)]
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        model.fit(features[split.train], labels[split.train])
        return average_precision_score(labels[split.test], model.decision_function(features[split.test]))

    prevalence = store.labels[split.test].mean(axis=0)
    ripple, orchard = prevalence[CLASSES.index("ripple")], prevalence[CLASSES.index("orchard")]
    assert score(chips[:, :3] & 255, "ripple") > 0.95
    assert score(chips >> 8, "ripple") < ripple + 0.12
    assert score(chips[:, 3:], "orchard") > 0.9
    assert score(chips[:, :3], "orchard") < orchard + 0.12
