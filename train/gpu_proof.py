"""Before the first epoch on a GPU, compare its batches with those of the CPU.

Nothing else would notice a wrong batch: DALI never reads the status codes of nvCOMP, and a chunk that was not decoded
is zeros.

In: configuration, store, inputs, device. Out: where LZ4 chunks may be decoded, or a refusal. Whole chips must be equal
to the bit, finished images within rounding. The verdict is kept in gpu-proof.json in the current folder, beside
tune.json, per GPU, driver, version, layout and way of loading. Later runs skip the comparison, which takes 1 to 2 s.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pipeline
from pipeline.cache import to_device
from pipeline.chunks import ChunkReader
from pipeline.gather import GatherEngine
from pipeline.inputs import Inputs
from pipeline.loader import Batch, default_workers, eval_loader, train_loader
from preprocess.codecs import CODECS
from preprocess.console import UserError, one_line, say
from preprocess.files import write_atomic
from preprocess.layout import Layout
from preprocess.zarr_store import Store
from train import run_folder
from train.config import Config
from train.cuda_driver import driver_release
from train.device import Device
from train.memory import is_out_of_memory

PATH = Path("gpu-proof.json")
_CHIPS, _BYTES = 64, 64 * 2**20  # the number of chips that are compared; fewer if they are large
# The largest difference allowed, as a share of the image's value. float16 keeps 11 bits, and two roundings to it may
# differ by one unit of the last bit.
_SHARE = {"float32": 2.0**-17, "float16": 2.0**-9}
# The same as a share of the band's largest value before scaling. It covers the rounding that is left when a large mean
# is subtracted, and the difference between two implementations of a resampling filter.
_BAND_SHARE = {"center": 2.0**-20, "resize": 2.0**-12}
Pictures = dict[
    str, np.ndarray
]  # "chips": (N, bands, height, width) as stored; others: finished images (N, bands, h, w)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of a comparison.

    decode: where chunks may be decoded, "device" or "host"; "" if images are wrong with both.
    reason: what is wrong; "" if nothing is.
    compared: whether batches were compared. If an exception was the reason instead, the verdict is not kept.
    """

    decode: str
    reason: str
    compared: bool = True


def reading_place(config: Config, store: Store, inputs: Inputs, chips: np.ndarray, device: Device, decode: str) -> str:
    """The DECODE with which a loader on this GPU may be made.

    Args:
        config, store, inputs, device: what is read and where.
        chips: the chips to choose from; some of them are compared.
        decode: the setting of the user or of `make tune`.

    Raises:
        UserError: the GPU makes wrong images, or the user set DECODE=device and the GPU decodes wrongly.
    """
    inflates = CODECS[store.layout.codec].inflates and decode != "host" and config.cache == "none"
    place = "device" if inflates else "host"
    count = max(1, min(_CHIPS, len(chips), _BYTES // store.layout.chip_bytes))
    chips = chips[np.linspace(0, len(chips) - 1, count).astype(np.int64)]
    crop = config.crop_of(store.layout.height, store.layout.width)
    way = [
        inputs.kind, ",".join(inputs.stored_bands), f"crop {crop[0]}x{crop[1]}", config.flips, config.test,
        f"CACHE={config.cache}", f"DECODE={place}",
    ]  # fmt: skip

    def compare() -> Verdict:
        common: dict[str, Any] = {"store": store, "inputs": inputs, "chips": chips, "config": config}
        cpu = make_pictures(**common, device=torch.device("cpu"), dtype=torch.float32, decode="auto", gather=False)
        on_gpu = partial(make_pictures, **common, device=device.device, dtype=device.image_dtype, gather=True)
        return prove(cpu, lambda place: on_gpu(decode=place), place, inputs, config.test)

    verdict = verdict_of(key(device, store.layout, way), compare)
    _refuse_wrong_images(verdict, device)
    if place == "device" and verdict.decode == "host":
        if config.decode == "device":
            raise UserError(f"DECODE=device: {device.name} decodes wrongly: {verdict.reason}. Use DECODE=host.")
        say(f"{device.name} decodes LZ4 wrongly ({verdict.reason}); decoding on the host instead ({PATH}).")
        return "host"
    return decode


def check_images(
    device: Device, layout: Layout, way: list[str], inputs: Inputs, test: str, make: Callable[[Device], np.ndarray]
) -> None:
    """For loaders that read no store: compare a batch that `make` makes on this GPU with the same batch of the CPU.

    Raises:
        UserError: they differ by more than rounding.
    """
    cpu = dataclasses.replace(device, device=torch.device("cpu"), amp=None)
    verdict = verdict_of(
        key(device, layout, way),
        lambda: prove({"test": make(cpu)}, lambda _: {"test": make(device)}, "host", inputs, test),
    )
    _refuse_wrong_images(verdict, device)


def _refuse_wrong_images(verdict: Verdict, device: Device) -> None:
    if not verdict.decode:
        raise UserError(
            f"{device.name}: batches made on this GPU are not those of the CPU: {verdict.reason}. Use GPU=cpu; "
            f"`make gpu-check` tells more. (Remove {PATH} to compare again.)"
        )


def prove(expected: Pictures, make: Callable[[str], Pictures], place: str, inputs: Inputs, test: str) -> Verdict:
    """Compare the pictures of a device with those of the CPU.

    Args:
        expected: from the CPU, in float32.
        make: makes the device's pictures; its argument says where chunks are decoded.
        place: where chunks are decoded: "host", or "device" and, if that is wrong, also "host".
        inputs, test: how images are scaled and cropped, which decides how much rounding is allowed.
    """
    reasons: list[str] = []
    compared = True
    for decode in ("device", "host") if place == "device" else ("host",):
        try:
            reason = difference(expected, make(decode), inputs, test)
        except UserError:
            raise  # for example a damaged chip: the device is not the cause
        except Exception as error:
            # DALI, CUDA and torch raise many types. Full memory says nothing about the device.
            if is_out_of_memory(error):
                raise
            compared, reason = False, f"{type(error).__name__}: {one_line(' '.join(str(error).split()))[:160]}"
        if not reason:
            return Verdict(decode=decode, reason="; ".join(reasons), compared=compared)
        if reason not in reasons:
            reasons.append(reason)
    return Verdict(decode="", reason="; ".join(reasons), compared=compared)


def difference(expected: Pictures, made: Pictures, inputs: Inputs, test: str) -> str:
    """How the pictures differ from the expected ones; "" if they are equal or differ by rounding only."""
    for name, reference in expected.items():
        picture = made[name]
        if picture.shape != reference.shape:
            return f"{name}: expected shape {reference.shape}, found {picture.shape}"
        if name == "chips":
            wrong = ~_same(reference, picture)
        else:
            wrong = _beyond_rounding(reference, picture, inputs, test if "test" in name else "center")
        if wrong.any():
            chips = np.flatnonzero(wrong.any(axis=(1, 2, 3)))
            return (
                f"{name}: {len(chips)} of {len(wrong)} differ, number {chips[0] + 1} in {wrong[chips[0]].sum():,} of "
                f"{wrong[0].size:,} values"
            )
    return ""


def _same(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.asarray((one == two) | (np.isnan(one) & np.isnan(two)))


def _beyond_rounding(reference: np.ndarray, picture: np.ndarray, inputs: Inputs, test: str) -> np.ndarray:
    share = _SHARE[picture.dtype.name]
    mean, std = (np.array(values).reshape(1, -1, 1, 1) for values in (inputs.mean, inputs.std))
    with np.errstate(over="ignore", invalid="ignore"):
        one, two = reference.astype(picture.dtype).astype(np.float64), picture.astype(np.float64)
        stored = np.abs(one * std + mean)
        largest = np.max(stored, axis=(0, 2, 3), keepdims=True, where=np.isfinite(stored), initial=0)
        limit = share * np.abs(one) + _BAND_SHARE[test] * np.maximum(largest, np.abs(mean)) / np.abs(std) + 1e-7
        return np.asarray(~_same(one, two) & ~(np.abs(one - two) <= limit))


def make_pictures(
    store: Store, inputs: Inputs, chips: np.ndarray, config: Config, *, device: torch.device, dtype: torch.dtype,
    decode: str, gather: bool, engine: str = "auto",
) -> Pictures:  # fmt: skip
    """One batch of each kind from one device: whole chips as stored, a train batch and a test batch.

    With CACHE=device also a train batch of chips that are kept in memory: with `gather` in the device's memory,
    otherwise as any loader makes it.
    """
    layout, channels = store.layout, len(inputs.bands)
    crop, workers = config.crop_of(layout.height, layout.width), config.workers or default_workers()
    as_stored = dataclasses.replace(inputs, mean=(0.0,) * channels, std=(1.0,) * channels)
    where: dict[str, Any] = {"device": device, "workers": workers, "decode": decode, "engine": engine}
    size = len(chips)
    loaders = {
        "chips": eval_loader(
            store, chips, as_stored, batch_size=size, crop=(layout.height, layout.width), dtype=torch.float32, **where
        ),
        "train images": train_loader(
            store, chips, inputs, batch_size=size, seed=config.seed, flips=config.flips, crop=crop, dtype=dtype, **where
        ),
        "test images": eval_loader(
            store, chips, inputs, batch_size=size, test=config.test, crop=crop, dtype=dtype, **where
        ),
    }
    if config.cache == "device" and inputs.kind == "raw":
        loaders["cached images"] = train_loader(
            store, np.arange(size), inputs, batch_size=size, seed=config.seed, flips=config.flips, crop=crop,
            workers=workers, dtype=torch.float32,
        )  # fmt: skip
    made = {}
    for name, loader in loaders.items():
        if name == "cached images" and gather:
            values = to_device(ChunkReader(store, inputs.stored_bands), size, workers, device)
            in_memory = GatherEngine(values, inputs, crop=crop, dtype=dtype, nodata=layout.nodata)
            batches = in_memory.epoch(loader.plans(0))
            made[name] = next(iter(batches))[1].cpu().numpy()
        else:
            made[name] = first_images(loader.epoch(0))
        loader.close()
    return made


def first_images(batches: Iterator[Batch]) -> np.ndarray:
    """(B, channels, height, width) images of the first batch, on the host."""
    with closing(batches) as open_batches:  # type: ignore[type-var]  # a generator
        return np.array(next(open_batches).images_nchw.cpu().numpy())


def verdict_of(key: str, compare: Callable[[], Verdict]) -> Verdict:
    """The verdict that the file holds under `key`; otherwise that of `compare`, which is then kept."""
    verdicts = _read()
    if key not in verdicts:
        verdict = compare()
        if not verdict.compared:
            return verdict
        if not verdict.reason:
            say(f"the first batches of the GPU equal those of the CPU ({PATH})")
        verdicts = _read() | {key: verdict}
        text = json.dumps({name: {"decode": v.decode, "reason": v.reason} for name, v in verdicts.items()}, indent=1)
        with suppress(OSError):  # if the folder cannot be written, the next run compares again
            write_atomic(PATH, f"{text}\n".encode())
    return verdicts[key]


def _read() -> dict[str, Verdict]:
    """The verdicts of the file. A file in another format counts as empty, so that the comparisons are made again."""
    try:
        values = json.loads(PATH.read_text())
        verdicts = {name: Verdict(decode=v["decode"], reason=v["reason"]) for name, v in values.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    valid = all(v.decode in ("device", "host", "") and isinstance(v.reason, str) for v in verdicts.values())
    return verdicts if valid else {}


def key(device: Device, layout: Layout, way: list[str]) -> str:
    """Everything that a verdict depends on: GPU, driver, versions, the code of `pipeline`, layout, way of loading."""
    installed = run_folder.versions()
    versions = ", ".join(f"{name} {installed.get(name, 'none')}" for name in ("torch", "nvidia-dali"))
    code = hashlib.sha256()
    for path in sorted(Path(pipeline.__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    nodata = "" if layout.nodata is None else f", nodata {layout.nodata}"
    kind = (
        f"{layout.dtype} {layout.codec} {len(layout.bands)}x{layout.height}x{layout.width} in {layout.chunk_rows} rows"
        f"{nodata}"
    )
    dtype = str(device.image_dtype).removeprefix("torch.")
    driver = f"driver {driver_release()}"
    return "; ".join([device.name, driver, versions, f"pipeline {code.hexdigest()[:12]}", kind, *way, dtype])
