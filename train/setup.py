"""Configuration -> store, split, inputs, loaders, model; the same for training a run and for reproducing it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from models.build import build, head_parameters
from models.resnet import RGB, Branch, WeightsError, branch
from pipeline.inputs import Inputs, course_inputs, raw_inputs
from pipeline.loader import ChipLoader, eval_loader, train_loader
from preprocess.console import UserError, say, setting_names
from preprocess.splits import SPLIT_NAMES, Split, make_split
from preprocess.zarr_store import Store, open_store
from train import tune
from train.chip_checks import check_batch_size
from train.config import Config
from train.device import Device
from train.distributed import World
from train.gpu_proof import reading_place
from train.initial_weights import initial_weights

ALONE = World()


@dataclass(frozen=True, kw_only=True)
class Data:
    """A store and its split, and what the model is fed from it. `branches` have the network's names of bands."""

    store: Store
    split: Split
    inputs: Inputs
    branches: tuple[Branch, ...]

    @property
    def trunk_bands(self) -> tuple[tuple[str, ...], ...]:
        """The store's bands for each trunk."""
        bands = iter(self.inputs.bands)
        return tuple(tuple(next(bands) for _ in spec.bands) for spec in self.branches)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained: the configuration and its data, on which device, by which ranks."""

    config: Config
    data: Data
    device: Device
    world: World


def open_data(config: Config, opened: tuple[Store, Split] | None = None) -> Data:
    """Open and check everything that needs no model. `opened` are the store and the split, if they are open already.

    Raises:
        UserError: store, split or bands do not fit the configuration.
    """
    store = opened[0] if opened else open_store(config.store)
    split = opened[1] if opened else make_split(config.split, store, val=config.val, block_km=config.block_km)
    groups = config.band_groups
    if config.input == "course":
        # The reference project fed B, G, R to filters that were made for R, G, B. This is the same, to be comparable.
        inputs = course_inputs(store, sum(len(group) for group in groups))
        colour_of = dict(zip(inputs.bands, (*RGB, None), strict=False))
        bands = iter(inputs.bands)
        named = [tuple(next(bands) for _ in group) for group in groups]
        branches = tuple(
            Branch(bands=group, colours=tuple(colour_of[band] for band in group)) for group in named
        )  # fmt: skip
    else:
        branches = tuple(branch(*group) for group in config.band_choice.named)
        inputs = raw_inputs(store, tuple(band for group in groups for band in group), split.train)
    if config.shuffle_labels:
        store = _shuffled(store, split, config.seed)
    return Data(store=store, split=split, inputs=inputs, branches=branches)


def _shuffled(store: Store, split: Split, seed: int) -> Store:
    """The control experiment: the label rows of each split in random order, so that they do not belong to the chips.

    Shuffling train alone is no control. The scores of the network then still follow brightness and the like, and so do
    the true labels of the test split (measured: mAP 0.21 where chance is 0.17; docs/log.md).
    """
    labels = store.labels.copy()
    rng = np.random.Generator(np.random.Philox(key=seed))
    for name in SPLIT_NAMES:
        chips = split.indices(name)
        labels[chips] = labels[rng.permutation(chips)]
    return replace(store, labels=labels)


def make_train_loader(config: Config, data: Data, device: Device, world: World = ALONE) -> ChipLoader:
    """The loader of the train split. Its batches are micro-batches of this rank: BATCH / (ranks * ACCUMULATE) chips.

    Raises:
        UserError: BATCH is no multiple of the processes and ACCUMULATE, or the train split is smaller than BATCH.
    """
    check_batch(config, world.size)
    check_batch_size(config, len(data.split.train), data.store.layout.height, data.store.layout.width)
    crop = crop_of(config, data)
    sides = data.store.layout.height, data.store.layout.width
    if config.flips == "dihedral" and len({*sides}) + len({*crop}) > 2:
        shapes = " cropped to ".join(f"{height} x {width} px" for height, width in (sides, crop))
        say(f"FLIPS=dihedral: chips of {shapes} are not square; 4 of the 8 symmetries are used, as with FLIPS=both.")
    micro_batch = config.batch // (world.size * config.accumulate)
    with setting_names(batch_size="BATCH"):
        loader = train_loader(
            data.store, data.split.train, data.inputs, batch_size=micro_batch, seed=config.seed, flips=config.flips,
            crop=crop, device=device.device, dtype=device.image_dtype, **reading(config, data, device),
        )  # fmt: skip
    loader.set_shard(world.rank, world.size)
    return loader


def check_batch(config: Config, ranks: int) -> None:
    """UserError if BATCH cannot be divided into equal micro-batches."""
    divisor = ranks * config.accumulate
    if config.batch % divisor:
        raise UserError(
            f"BATCH={config.batch}: expected a multiple of {divisor} ({ranks} processes, "
            f"ACCUMULATE={config.accumulate}): it counts the chips of one step over all of them."
        )


def check_graphs(config: Config, device: Device, loaders: Iterable[ChipLoader]) -> None:
    """UserError if the step would be captured as CUDA graphs while DALI runs, which CUDA does not allow.

    See `pipeline.dali`. With ACCUMULATE above 1 nothing is captured (`step._model`).
    """
    captured = config.compile == "max" and config.accumulate == 1 and device.kind == "cuda"
    if captured and any(loader.engine == "dali" for loader in loaders):
        raise UserError(
            "COMPILE=max: on a GPU it needs CACHE=device (with INPUT=raw, TEST=center and a store that fits), because "
            "CUDA graphs cannot be captured while DALI loads batches. COMPILE=default works with any loader."
        )


def make_eval_loader(config: Config, data: Data, device: Device, split: str, world: World = ALONE) -> ChipLoader:
    """The loader of a split ("train", "val", "test") in store order, deterministic; the share of this rank."""
    with setting_names(batch_size="TEST_BATCH"):
        return eval_loader(
            data.store, world.share(data.split.indices(split)), data.inputs, batch_size=config.test_batch,
            test=config.test, crop=crop_of(config, data), device=device.device, dtype=device.image_dtype,
            **reading(config, data, device),
        )  # fmt: skip


def reading(config: Config, data: Data, device: Device) -> dict[str, Any]:
    """How the store is read: threads, decode place, cache. Without a setting, what `make tune` measured is used.

    Raises:
        UserError: the device is a GPU that makes wrong batches (`gpu_proof`).
    """
    tuned = tune.lookup(data.store, str(device.device))
    decode: str = config.decode
    if decode == "auto" and tuned and tuned.decode == "host":
        decode = "host"
    if device.kind == "cuda":
        decode = reading_place(config, data.store, data.inputs, data.split.train, device, decode)
    return {
        "workers": config.workers or (tuned.workers if tuned else None), "decode": decode, "cache": config.cache,
    }  # fmt: skip


def crop_of(config: Config, data: Data) -> tuple[int, int]:
    """(height, width) of the model's images, in pixels."""
    return config.crop_of(data.store.layout.height, data.store.layout.width)


def pools(config: Config, data: Data) -> bool:
    """Whether the model has max pooling after conv1."""
    return config.pools(data.store.layout.height, data.store.layout.width)


def stem_of(config: Config, data: Data) -> str:
    """One of `models.resnet.STEMS`."""
    return config.stem_of(data.store.layout.height, data.store.layout.width)


def make_model(config: Config, data: Data, *, pretrained: bool) -> nn.Module:
    """The task's model on the CPU. `pretrained=False` if the weights of a run are loaded afterwards.

    Raises:
        UserError: the WEIGHTS that the user set cannot be read or do not fit.
    """
    try:
        pool = pools(config, data)
        stem = stem_of(config, data)
        weights = initial_weights(config, data.branches, pool=pool, stem=stem) if pretrained else None
        net = build(
            config.arch, data.branches, len(data.store.classes), weights, new_bands=config.conv1, pool=pool,
            stem=stem, size=crop_of(config, data),
        )  # fmt: skip
    except WeightsError as error:
        raise UserError(str(error)) from error
    if config.finetune == "head":
        # As in the reference project, the trunk's weights are frozen, but its BatchNorm statistics still change.
        net.requires_grad_(False)
        for parameter in head_parameters(net):
            parameter.requires_grad_(True)
    return net
