"""The GPU's batches are compared with the CPU's before training. In these tests DALI on the CPU replaces the GPU, and
faults are put into its images."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers.chips import BANDS, to_store, write_chips
from helpers.proofs import CHIPS, CPU, config_of, inputs_of
from nvidia.dali import fn

from pipeline import graph
from pipeline.inputs import Inputs, course_inputs
from preprocess.shard import DamagedChunkError
from preprocess.zarr_store import Store
from train.config import Config
from train.gpu_proof import Pictures, Verdict, difference, make_pictures, prove


@pytest.fixture(scope="module", params=["uint16", "uint8", "int16", "float32"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("proof")
    chips = write_chips(folder / "tif", count=40, height=32, width=32, dtype=request.param)
    return to_store(chips, folder / "s.zarr")


def expected(store: Store, inputs: Inputs, config: Config) -> Pictures:
    return make_pictures(
        store, inputs, CHIPS, config, device=CPU, dtype=torch.float32, decode="auto", gather=False
    )  # fmt: skip


def by_dali(store: Store, inputs: Inputs, config: Config, place: str = "host", dtype: str = "float16") -> Pictures:
    """Images that replace the GPU's: from DALI's graph and the gather engine, in the GPU's number format."""
    return make_pictures(
        store, inputs, CHIPS, config, device=CPU, dtype=getattr(torch, dtype), decode="host", gather=True, engine="dali"
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    "settings", [{}, {"test": "resize"}, {"flips": "none", "crop": 32}, {"cache": "device"}], ids=str
)
def test_equal_batches_pass_in_both_number_formats(store: Store, settings: dict[str, Any], dtype: str) -> None:
    inputs, config = inputs_of(store), config_of(store, **settings)
    reference = expected(store, inputs, config)
    assert set(reference) == {"chips", "train images", "test images", *["cached images"] * ("cache" in settings)}
    for place in ("device", "host"):
        verdict = prove(reference, partial(by_dali, store, inputs, config, dtype=dtype), place, inputs, config.test)
        assert verdict == Verdict(decode=place, reason="")


def test_the_course_input_passes(store: Store) -> None:
    if store.layout.dtype != "uint16":
        pytest.skip("INPUT=course is about 16-bit files")
    inputs, config = course_inputs(store, 3), config_of(store, input="course")
    made = by_dali(store, inputs, config)
    assert difference(expected(store, inputs, config), made, inputs, config.test) == ""


def test_decoded_chips_equal_the_stored_values(store: Store) -> None:
    """`chips` are the decoded values without scaling. Plain zarr reads the same values."""
    import zarr

    values = zarr.open_array(store.path / "tiles", mode="r")[:][CHIPS][:, list(store.band_indices(BANDS[::-1]))]
    assert np.array_equal(by_dali(store, inputs_of(store), config_of(store))["chips"], values)


def flip_a_bit(pictures: Pictures) -> None:
    """Flip the lowest bit of a float32, a smaller change than one step of a stored integer."""
    pictures["chips"].view(np.uint32)[5, 1, 7, 9] ^= 1


def zero_a_chunk(pictures: Pictures) -> None:
    pictures["chips"][2, 3] = 0


def swap_two_chips(pictures: Pictures) -> None:
    pictures["chips"][[0, 1]] = pictures["chips"][[1, 0]]


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        (flip_a_bit, "chips: 1 of 14 differ, number 6 in 1 of 4,096 values"),
        (zero_a_chunk, "chips: 1 of 14 differ, number 3 in "),
        (swap_two_chips, "chips: 2 of 14 differ, number 1 in "),
    ],
)
def test_wrong_decoding_on_the_device_falls_back_to_the_host(
    store: Store, fault: Callable[[Pictures], None], where: str
) -> None:
    inputs, config = inputs_of(store), config_of(store)
    places = []

    def make(place: str) -> Pictures:
        places.append(place)
        pictures = by_dali(store, inputs, config)
        if place == "device":
            fault(pictures)
        return pictures

    verdict = prove(expected(store, inputs, config), make, "device", inputs, config.test)
    assert verdict.decode == "host"
    assert verdict.reason.startswith(where)
    assert verdict.compared
    assert places == ["device", "host"]


@pytest.mark.parametrize("name", ["train images", "test images", "cached images"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_images_may_differ_by_rounding_and_not_by_more(store: Store, name: str, dtype: str) -> None:
    inputs, config = inputs_of(store), config_of(store, cache="device")
    reference = expected(store, inputs, config)
    good = by_dali(store, inputs, config, dtype=dtype)
    step = 2.0**-10 if dtype == "float16" else 2.0**-22
    rounded = {**good, name: good[name] * np.asarray(1 + step, good[name].dtype)}
    assert difference(reference, rounded, inputs, config.test) == ""
    off = {
        "a value of one chip": lambda images: images.__setitem__((3, 1, 4, 4), images[3, 1, 4, 4] + 0.5),
        "one column to the right": lambda images: images.__setitem__(..., np.roll(images, 1, axis=3)),
        "bands in another order": lambda images: images.__setitem__(..., images[:, ::-1].copy()),
        "not a number": lambda images: images.__setitem__((0, 0, 0, 0), np.nan),
    }
    for fault in off.values():
        wrong = {**good, name: good[name].copy()}
        fault(wrong[name])
        verdict = prove(reference, lambda _, wrong=wrong: wrong, "device", inputs, config.test)
        assert verdict.decode == ""
        assert verdict.reason.startswith(f"{name}: ")
    assert difference(reference, {**good, name: good[name][:, :, 1:]}, inputs, "center").startswith(
        f"{name}: expected shape"
    )


def test_faults_in_the_graph_are_detected(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, config = inputs_of(store), config_of(store)
    reference = expected(store, inputs, config)
    real_decode, real_finish = graph.decode, graph.finish

    def swapped(spec: graph.GraphSpec, encoded: list[Any]) -> Any:
        pixels = real_decode(spec, encoded)
        return fn.reshape(fn.stack(*(pixels[band] for band in (1, 0, 2, 3))), layout="CHW")

    monkeypatch.setattr(graph, "decode", swapped)
    assert difference(reference, by_dali(store, inputs, config), inputs, "center").startswith("chips: 14 of 14 differ")
    monkeypatch.setattr(graph, "decode", real_decode)
    other = replace(inputs, std=tuple(1.01 * value for value in inputs.std))

    def finish(spec: graph.GraphSpec, chips: object, **more: object) -> object:
        whole = spec.crop == (store.layout.height, store.layout.width)
        return real_finish(spec if whole else replace(spec, inputs=other), chips, **more)

    monkeypatch.setattr(graph, "finish", finish)
    assert difference(reference, by_dali(store, inputs, config), inputs, "center").startswith("train images: 14 of 14")


def test_an_error_of_dali_falls_back_without_a_stored_verdict_and_full_memory_is_raised(store: Store) -> None:
    inputs, config = inputs_of(store), config_of(store)
    reference, good = expected(store, inputs, config), by_dali(store, inputs, config)

    def broken(place: str) -> Pictures:
        if place == "device":
            raise RuntimeError("Critical error in pipeline:\nnvCOMP returned 11")
        return good

    verdict = prove(reference, broken, "device", inputs, "center")
    assert verdict == Verdict(
        decode="host", reason="RuntimeError: Critical error in pipeline: nvCOMP returned 11", compared=False
    )

    def raising(error: Exception) -> Callable[[str], Pictures]:
        def make(place: str) -> Pictures:
            raise error

        return make

    lost = prove(reference, raising(RuntimeError("CUDA error: an illegal memory access")), "device", inputs, "center")
    assert (lost.decode, lost.compared) == ("", False)
    for error in (RuntimeError("Can't allocate 512 bytes on device 0."), torch.OutOfMemoryError("CUDA out of memory")):
        with pytest.raises(type(error)):
            prove(reference, raising(error), "device", inputs, "center")
    with pytest.raises(DamagedChunkError):
        prove(reference, raising(DamagedChunkError("shard 0")), "device", inputs, "center")
