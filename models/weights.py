"""The weights that a network starts from: a safetensors file or torchvision's state dict, with every tensor checked.

In: names and tensors, and the description of the network that our runs write into their files. Out: `Weights`, one
dictionary of tensors per trunk. Refused are missing and unused tensors, other shapes and dtypes, NaN and infinity.
Leaves conv1's filters for other bands to `resnet`, and the settings of a run to `train`.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from models.archs import ARCHS
from models.network_info import KEY, NetworkInfo, parse_info
from models.resnet import RGB, STEMS, Branch, WeightsError, make_resnet, padded
from models.timm_nets import TORCHVISION, Layers

WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and DistributedDataParallel; torch.compile
# float32 represents every value of the first three; float64 is rounded.
READ_AS_FLOAT32 = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LAST = {"fc.weight", "fc.bias"}
MAX_NAMES = 3  # in a message


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors of each trunk by torchvision's names, without the last layer, which always starts from random weights.

    source: begins every error. last: the tensors of the last layer. info: None for files that no run of ours wrote.
    """

    source: str
    trunks: tuple[dict[str, torch.Tensor], ...]
    last: dict[str, torch.Tensor]
    info: NetworkInfo | None = None

    @property
    def num_classes(self) -> int | None:
        """Outputs of the last layer; None without one."""
        bias = next((value for name, value in self.last.items() if name.endswith(".bias")), None)
        return bias.shape[0] if bias is not None and bias.ndim == 1 else None

    @property
    def other_dtypes(self) -> tuple[str, ...]:
        """Dtypes of the tensors, other than float32; these tensors are converted."""
        dtypes = {value.dtype for trunk in self.trunks for value in trunk.values()}
        return tuple(str(dtype).removeprefix("torch.") for dtype in READ_AS_FLOAT32[1:] if dtype in dtypes)

    def for_branches(
        self, branches: tuple[Branch, ...]
    ) -> list[tuple[dict[str, torch.Tensor], tuple[str, ...] | None]]:
        """For each branch the trunk that it starts from, and the bands of that trunk (None: not known).

        A branch starts from the trunk with the same bands, in any order; B4 and B04 are the same (`resnet.padded`).
        All branches start from a single trunk whose bands are not known, or are red, green and blue.

        Raises:
            WeightsError: the weights are for other bands.
        """
        if self.info is None:
            if len(self.trunks) not in (1, len(branches)):
                raise WeightsError(f"{self.source}: expected {_trunks(len(branches))}, found {len(self.trunks)}.")
            trunks = self.trunks * (len(branches) // len(self.trunks))
            return [(trunk, None) for trunk in trunks]
        groups = self.info.bands
        for names in (tuple, padded):
            by_bands = {
                frozenset(names(bands)): (trunk, bands) for trunk, bands in zip(self.trunks, groups, strict=True)
            }
            of_branches = [frozenset(names(spec.bands)) for spec in branches]
            if sorted(map(sorted, by_bands)) == sorted(map(sorted, of_branches)):
                return [by_bands[bands] for bands in of_branches]
        if len(groups) == 1 and set(groups[0]) == set(RGB) and any(set(RGB) <= bands for bands in of_branches):
            return [(self.trunks[0], groups[0]) for _ in branches]
        raise WeightsError(
            f"{self.source}: expected {_bands([spec.bands for spec in branches])}, found a run of "
            f"TASK={self.info.task} on {_bands(groups)}."
        )

    def split_last(self, layers: Layers) -> "Weights":
        """The same with the last layer of this architecture in `last`."""
        last = {name: value for trunk in self.trunks for name, value in trunk.items() if layers.is_last(name)}
        trunks = tuple({name: trunk[name] for name in trunk if name not in last} for trunk in self.trunks)
        return replace(self, trunks=trunks, last={**self.last, **last})

    def have_stem(self, stem: str) -> bool:
        """Whether conv1 has the filters of this stem, one of `resnet.STEMS`. Otherwise it stays new."""
        return all(trunk["conv1.weight"].shape[2] == STEMS[stem] for trunk in self.trunks if "conv1.weight" in trunk)

    def lack_bands(self, branches: tuple[Branch, ...], layers: Layers = TORCHVISION) -> bool:
        """Whether a band of the branches needs a filter that the first layer of these weights lacks.

        Raises:
            WeightsError: the weights are for other bands.
        """
        pairs = zip(self.for_branches(branches), branches, strict=True)
        return any(
            trunk[f"{layer}.weight"].shape[1:2] == (len(RGB),)
            and not all(colour in (bands or RGB) for colour in spec.colours)
            for (trunk, bands), spec in pairs
            for layer in layers.first
            if f"{layer}.weight" in trunk
        )


def _trunks(count: int) -> str:
    return "1 trunk" if count == 1 else f"{count} trunks"


def _bands(groups: Any) -> str:
    count = sum(map(len, groups))
    return f"{count} band{'s' if count > 1 else ''} ({' | '.join(','.join(group) for group in groups)})"


def file_weights(path: Path, source: str | None = None) -> Weights:
    """The weights in a safetensors file. Its tensors are mapped, not read: `check_values` reads them.

    `source` begins every error; default: the path.

    Raises:
        WeightsError: this is no safetensors file, or its metadata is damaged.
    """
    source = source or str(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # the file is no dictionary
    except OSError as error:
        raise WeightsError(f"{source}: cannot be read ({error.strerror or error}).") from error
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"{source}: expected a safetensors file ({error}).") from error
    try:
        info = parse_info(metadata[KEY]) if KEY in metadata else None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{source}: its metadata cannot be used ({error}).") from error
    return weights_of(state, source, info)


def weights_of(state: Mapping[str, torch.Tensor], source: str, info: NetworkInfo | None = None) -> Weights:
    """Split a state dict into trunks; remove prefixes that wrappers put before every name.

    Raises:
        WeightsError: `info` describes another network.
    """
    tensors = dict(state)
    while prefix := next((p for p in WRAPPERS if tensors and all(name.startswith(p) for name in tensors)), ""):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    last: dict[str, torch.Tensor] = {name: tensors.pop(name) for name in sorted(tensors.keys() & LAST)}
    trunks: list[dict[str, torch.Tensor]] = []
    of_timm = info is not None and info.arch not in ARCHS
    while f"trunks.{len(trunks)}.conv1.weight" in tensors or (
        of_timm and any(name.startswith(f"trunks.{len(trunks)}.") for name in tensors)
    ):
        prefix = f"trunks.{len(trunks)}."
        names = [name for name in tensors if name.startswith(prefix)]
        trunks.append({name.removeprefix(prefix): tensors.pop(name) for name in names})
    if not trunks or tensors:  # `check_names` reports names that belong to no trunk
        trunks = [tensors | {f"trunks.{n}.{name}": value for n, t in enumerate(trunks) for name, value in t.items()}]
    if info is not None and not of_timm:
        channels = [trunk["conv1.weight"].shape[1:2] for trunk in trunks if "conv1.weight" in trunk]
        if channels != [(len(bands),) for bands in info.bands]:
            raise WeightsError(f"{source}: its metadata says {_bands(info.bands)}, its tensors have other bands.")
    return Weights(source=source, trunks=tuple(trunks), last=last, info=info)


def check_names(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], arch: str, source: str,
    first: tuple[str, ...] = ("conv1.weight",),
) -> None:  # fmt: skip
    """Compare the names and shapes of a trunk with those that its network has.

    Leaves the channels of the `first` weights to `resnet`, and a conv1 of another stem to `build`.

    `num_batches_tracked` may be missing: older torch did not save it, and with BatchNorm's momentum nothing reads it.

    Raises:
        WeightsError: names the first tensors that are missing, unused or of another shape.
    """
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unused = [name for name in state if name not in expected]
    reasons = [f"{_names(names)} {fault}" for names, fault in ((missing, "missing"), (unused, "unused")) if names]
    for name, value in expected.items():
        found_shape, shape = tuple(state[name].shape if name in state else value.shape), tuple(value.shape)
        if name in first and len(found_shape) == 4:  # the number of bands may differ
            other_stem = arch in ARCHS and found_shape[2:] in [(side, side) for side in STEMS.values()]
            shape = (shape[0], found_shape[1], *(found_shape if other_stem else shape)[2:])
        if found_shape != shape:
            reasons.append(f"{name} of shape {found_shape} instead of {shape}")
            break
    if not reasons:
        return
    other = recognised(state)
    found, advice = "others", ""
    if other and other != arch:
        found, advice = f"those of {other}", " Use that architecture, or other weights."
    raise WeightsError(f"{source}: expected weights of {arch}, found {found}: {'; '.join(reasons)}.{advice}")


def _names(names: list[str]) -> str:
    shown = ", ".join((name if name.isprintable() else ascii(name))[:80] for name in names[:MAX_NAMES])
    return f"{shown}{f' and {len(names) - MAX_NAMES} more' if len(names) > MAX_NAMES else ''}"


def recognised(state: Mapping[str, torch.Tensor]) -> str | None:
    """The architecture with exactly these names and shapes, apart from conv1's bands and BatchNorm's counts."""
    shapes = _comparable_shapes(state)
    return next((arch for arch in ARCHS if shapes == _shapes(arch)), None)


@functools.cache
def _shapes(arch: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        net = make_resnet(arch, len(RGB), None)
    return _comparable_shapes(net.state_dict())


def _comparable_shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(value.shape)
        for name, value in state.items()
        if name != "conv1.weight" and not name.endswith("num_batches_tracked")
    }


def check_values(state: Mapping[str, torch.Tensor], source: str) -> dict[str, torch.Tensor]:
    """The tensors in the dtypes of a network: float32, and int64 for BatchNorm's counts.

    Raises:
        WeightsError: names the first tensor of another kind, or with a value that no network can use.
    """
    return {name: _checked(name, value, source) for name, value in state.items()}


def _checked(name: str, value: torch.Tensor, source: str) -> torch.Tensor:
    counts = name.endswith("num_batches_tracked")
    dtypes = (torch.int64, torch.int32) if counts else READ_AS_FLOAT32
    if value.dtype not in dtypes:
        expected, dtype = "int64" if counts else "float32", str(value.dtype).removeprefix("torch.")
        raise WeightsError(f"{source}: expected {name} of dtype {expected}, found {dtype}.")
    if counts:
        return value.to(torch.int64)
    values = value.to(torch.float32)  # a float64 beyond float32's range becomes infinity
    wrong = ~torch.isfinite(values)
    if name.endswith("running_var"):
        wrong |= values < 0  # BatchNorm takes its square root
    if wrong.any():
        index = int(wrong.flatten().to(torch.uint8).argmax())
        raise WeightsError(
            f"{source}: {name} holds {value.flatten()[index].item()} (value {index + 1} of {value.numel()}). The file "
            "is damaged, or its training diverged. Use other weights."
        )
    return values
