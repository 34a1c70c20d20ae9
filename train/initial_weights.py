"""WEIGHTS=...: the weights that a run starts from, and the metadata of its own model files.

In: a configuration and a description of its network. Out: `Weights` for `models.build`, and the JSON in a model file's
metadata. Leaves tensors and names to `models.weights`.
"""

from pathlib import Path

from models.build import imagenet_weights
from models.network_info import KEY, NetworkInfo
from models.resnet import RGB, SENTINEL_2, Branch, WeightsError, sentinel_2_channels
from models.timm_nets import layers_of
from models.weights import Weights, file_weights
from pipeline.inputs import Inputs
from preprocess.console import UserError, one_line, say
from preprocess.files import open_regular
from train.config import Config


def model_metadata(
    config: Config, branches: tuple[Branch, ...], inputs: Inputs, classes: tuple[str, ...], *, pool: bool, stem: str
) -> dict[str, str]:
    """The metadata of a model file, which describes its network. One entry: several would have no fixed order."""
    info = NetworkInfo(
        arch=config.arch, task=config.task, bands=tuple(spec.bands for spec in branches), input=config.input,
        pool=pool, classes=classes, mean=inputs.mean, std=inputs.std, stem=stem,
    )  # fmt: skip
    return {KEY: info.text()}


def resolve_weights(config: Config) -> Config:
    """The configuration with imagenet or none in the place of WEIGHTS=auto, so that a run's record is exact.

    Raises:
        UserError: there are no ImageNet weights here, and FINETUNE=head or CONV1 needs them.
    """
    if config.weights != "auto":
        return config
    try:
        imagenet_weights(config.arch)
    except WeightsError as error:
        if config.finetune == "head":
            raise UserError(str(error)) from error
        if config.conv1 != "kaiming":
            raise UserError(f"CONV1={config.conv1} has no effect without pretrained weights. {error}") from error
        say(f"{one_line(str(error))} Training from scratch.")
        return config.replace(weights="none")
    return config.replace(weights="imagenet")


def initial_weights(config: Config, branches: tuple[Branch, ...], *, pool: bool, stem: str) -> Weights | None:
    """The weights that the network starts from; None: from scratch. For a file, a line says what of it is used.

    Raises:
        WeightsError: they cannot be read, or are those of another network.
    """
    config = resolve_weights(config)
    if config.weights == "none":
        return None
    if config.weights == "imagenet":
        weights = imagenet_weights(config.arch)
    else:
        path = Path(config.weights)
        _check_file(path)
        weights = file_weights(path, f"WEIGHTS={path}").split_last(layers_of(config.arch))
        _check_info(weights, config)
    _check_stem(weights, config, stem)
    if config.conv1 != "kaiming" and not weights.lack_bands(branches, layers_of(config.arch)):
        raise WeightsError(
            f"CONV1={config.conv1} has no effect here: {weights.source} has filters for all bands. Leave CONV1 out."
        )
    if config.weights != "imagenet":
        say(one_line(_line(weights, pool)))
        _say_channels(weights, branches, config.arch)
    if not weights.have_stem(stem):
        say(f"{weights.source}: they have another stem than STEM={config.stem}, so conv1 starts from random weights")
    return weights


def _check_stem(weights: Weights, config: Config, stem: str) -> None:
    """Refuse settings that need conv1's pretrained filters, if the network has another stem."""
    if weights.have_stem(stem):
        return
    other = "imagenet" if stem == "small" else "small"
    if config.conv1 != "kaiming":
        raise WeightsError(
            f"CONV1={config.conv1} has no effect with STEM={config.stem}: {weights.source} has another stem. Set "
            f"STEM={other}, or leave CONV1 out."
        )
    if config.finetune == "head":
        raise WeightsError(
            f"FINETUNE=head: conv1 would keep random weights, because {weights.source} has another stem than "
            f"STEM={config.stem}. Set STEM={other}."
        )


def _check_file(path: Path) -> None:
    """Refuse what is no regular file: reading a pipe would block, and a folder needs a message of its own."""
    expected = "expected imagenet, none or a .safetensors file"
    try:
        open_regular(path).close()
    except FileNotFoundError:
        raise WeightsError(f"WEIGHTS={path}: {expected}, found no such file.") from None
    except OSError as error:
        raise WeightsError(f"WEIGHTS={path}: {expected}, found: {error.strerror}.") from error


def _check_info(weights: Weights, config: Config) -> None:
    """Compare a run's model file with the settings. Its bands are compared where they are used."""
    info = weights.info
    if info is None:
        return
    for name, value, expected in (("ARCH", info.arch, config.arch), ("INPUT", info.input, config.input)):
        if value != expected:
            raise WeightsError(
                f"{weights.source}: expected a run with {name}={expected}, found one with {name}={value}. "
                f"Set {name}={value}, or other WEIGHTS."
            )


def _say_channels(weights: Weights, branches: tuple[Branch, ...], arch: str) -> None:
    """Say which channels of 13 are used, since a file does not name them."""
    layers = [f"{layer}.weight" for layer in layers_of(arch).first]
    first = [trunk[name] for trunk in weights.trunks for name in layers if name in trunk]
    channels = [sentinel_2_channels(spec) for spec in branches]
    if weights.info is None and all(channels) and all(value.shape[1] == len(SENTINEL_2) for value in first):
        used = [SENTINEL_2[channel] for group in channels for channel in group]
        own = [band for spec in branches for band in spec.bands]
        others = [f"{band} is {name}" for band, name in zip(own, used, strict=True) if band not in (name, *RGB)]
        text = "; ".join([",".join(used), *([", ".join(others)] if others else [])])
        say(f"{weights.source}: 13 channels, taken as Sentinel-2's bands B01 to B12 in order; used are {text}")


def _line(weights: Weights, pool: bool) -> str:
    """What of a file is used, left out and converted."""
    info, count = weights.info, weights.num_classes
    parts = [f"its last layer{f' ({count} classes)' if count is not None else ''} is not used"] if weights.last else []
    if weights.other_dtypes:
        verb = "rounded" if "float64" in weights.other_dtypes else "converted"
        parts.append(f"{', '.join(weights.other_dtypes)} is {verb} to float32")
    if info is not None and info.pool != pool:
        before, now = ("with", "without") if info.pool else ("without", "with")
        parts.append(f"it was trained {before} max pooling, this run is {now}")
    run = f"a run of TASK={info.task} on {' | '.join(','.join(group) for group in info.bands)}" if info else ""
    return f"{weights.source}: {'; '.join([part for part in (run, *parts) if part]) or 'all of it is used'}"
