"""Weights that a network starts from: a safetensors file or torchvision's state dict, checked to the last tensor.

In: names and tensors, and what a file of one of our runs says of its network. Out: `Weights`, one dictionary of tensors
per trunk. Every name must have its place: a name too many, a name too few, another shape or dtype, NaN and infinity are
refused. Leaves conv1's filters of other bands to `resnet`, and the settings of a run to `train`.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from models.archs import ARCHS
from models.resnet import RGB, Branch, WeightsError, make_resnet

KEY = "canopy"  # of the JSON in a file's metadata
VERSION = 1
WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and DistributedDataParallel; torch.compile
# float32 holds every value of the first three; float64 is rounded to it.
READ_AS_FLOAT32 = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LAST = {"fc.weight", "fc.bias"}
SHOWN = 3  # names in a message


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a file of one of our runs says of its network.

    `bands` are each trunk's, in the order of conv1's channels; `input` is the run's INPUT, `pool` whether there is
    max pooling behind conv1.
    """

    arch: str
    task: int
    bands: tuple[tuple[str, ...], ...]
    input: str
    pool: bool
    classes: tuple[str, ...]

    def text(self) -> str:
        """As JSON, the same bytes for the same facts."""
        return json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)


def read_facts(text: str) -> Facts:
    """The reverse of `Facts.text`.

    Raises:
        ValueError: it is something else; says what.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("expected a JSON object")
    version = values.pop("version", None)
    if version != VERSION:
        raise ValueError(f"expected version {VERSION}, found {version!r}: it was written by another version of canopy")
    if set(values) != {field.name for field in fields(Facts)}:
        raise ValueError(f"expected {', '.join(field.name for field in fields(Facts))}")
    bands, classes = values["bands"], values["classes"]
    words = isinstance(bands, list) and len(bands) > 0 and all(map(_is_words, bands)) and _is_words(classes)
    distinct = words and all(len(set(group)) == len(group) for group in bands)
    kinds = {"arch": str, "task": int, "input": str, "pool": bool}
    if not distinct or any(type(values[name]) is not kind for name, kind in kinds.items()):
        raise ValueError("a value is of another type")
    return Facts(**{**values, "bands": tuple(map(tuple, bands)), "classes": tuple(classes)})


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(word, str) for word in value)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors of each trunk by torchvision's names, without the last layer, which is always trained anew.

    `last` are the tensors of the last layer; `facts` are None for a file that is not of one of our runs; `source`
    begins every error.
    """

    source: str
    trunks: tuple[dict[str, torch.Tensor], ...]
    last: dict[str, torch.Tensor]
    facts: Facts | None = None

    @property
    def num_classes(self) -> int | None:
        """Outputs of the last layer, if it is there."""
        bias = self.last.get("fc.bias")
        return bias.shape[0] if bias is not None and bias.ndim == 1 else None

    @property
    def other_dtypes(self) -> tuple[str, ...]:
        """Dtypes that are converted to float32."""
        found = {value.dtype for trunk in self.trunks for value in trunk.values()}
        return tuple(str(dtype).removeprefix("torch.") for dtype in READ_AS_FLOAT32[1:] if dtype in found)

    def for_branches(
        self, branches: tuple[Branch, ...]
    ) -> list[tuple[dict[str, torch.Tensor], tuple[str, ...] | None]]:
        """For each branch the trunk that it starts from, and that trunk's bands (None: not known).

        A trunk with the branch's bands, in any order, is that branch's. A single trunk is everyone's: with unknown
        bands, and with red, green and blue.

        Raises:
            WeightsError: the file is of other bands.
        """
        if self.facts is None:
            if len(self.trunks) not in (1, len(branches)):
                raise WeightsError(f"{self.source}: expected {_trunks(len(branches))}, found {len(self.trunks)}.")
            trunks = self.trunks * (len(branches) // len(self.trunks))
            return [(trunk, None) for trunk in trunks]
        groups = self.facts.bands
        own = {frozenset(bands): (trunk, bands) for trunk, bands in zip(self.trunks, groups, strict=True)}
        wanted = [frozenset(spec.bands) for spec in branches]
        if sorted(map(sorted, own)) == sorted(map(sorted, wanted)):
            return [own[bands] for bands in wanted]
        if len(groups) == 1 and set(groups[0]) == set(RGB) and any(set(RGB) <= bands for bands in wanted):
            return [(self.trunks[0], groups[0]) for _ in branches]
        raise WeightsError(
            f"{self.source}: expected {_bands([spec.bands for spec in branches])}, found a run of "
            f"TASK={self.facts.task} on {_bands(groups)}."
        )

    def lack_bands(self, branches: tuple[Branch, ...]) -> bool:
        """Whether a band of the branches gets a filter that conv1 of these weights does not have.

        Raises:
            WeightsError: the file is of other bands.
        """
        found = zip(self.for_branches(branches), branches, strict=True)
        return any(
            trunk["conv1.weight"].shape[1:2] == (len(RGB),)
            and not all(colour in (bands or RGB) for colour in spec.colours)
            for (trunk, bands), spec in found
            if "conv1.weight" in trunk
        )


def _trunks(count: int) -> str:
    return "1 trunk" if count == 1 else f"{count} trunks"


def _bands(groups: Any) -> str:
    count = sum(map(len, groups))
    return f"{count} band{'s' if count > 1 else ''} ({' | '.join(','.join(group) for group in groups)})"


def file_weights(path: Path) -> Weights:
    """The weights in a safetensors file. Its tensors are mapped, not read: `check_values` reads them.

    Raises:
        WeightsError: no safetensors file, or its metadata is damaged.
    """
    source = f"WEIGHTS={path}"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
    except OSError as error:
        raise WeightsError(f"{source}: cannot be read ({error.strerror or error}).") from error
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"{source}: expected a safetensors file ({error}).") from error
    try:
        facts = read_facts(metadata[KEY]) if KEY in metadata else None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{source}: its metadata cannot be used ({error}).") from error
    return weights_of(state, source, facts)


def weights_of(state: Mapping[str, torch.Tensor], source: str, facts: Facts | None = None) -> Weights:
    """A state dict, divided into trunks; prefixes that wrappers put before every name are removed.

    Raises:
        WeightsError: the facts are of another network.
    """
    tensors = dict(state)
    while prefix := next((p for p in WRAPPERS if tensors and all(name.startswith(p) for name in tensors)), ""):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    last: dict[str, torch.Tensor] = {name: tensors.pop(name) for name in sorted(tensors.keys() & LAST)}
    trunks: list[dict[str, torch.Tensor]] = []
    while f"trunks.{len(trunks)}.conv1.weight" in tensors:
        prefix = f"trunks.{len(trunks)}."
        names = [name for name in tensors if name.startswith(prefix)]
        trunks.append({name.removeprefix(prefix): tensors.pop(name) for name in names})
    if not trunks or tensors:  # of names that belong to no trunk, `check_names` says which
        trunks = [tensors | {f"trunks.{n}.{name}": value for n, t in enumerate(trunks) for name, value in t.items()}]
    if facts is not None:
        channels = [trunk["conv1.weight"].shape[1:2] for trunk in trunks if "conv1.weight" in trunk]
        if channels != [(len(bands),) for bands in facts.bands]:
            raise WeightsError(f"{source}: its metadata says {_bands(facts.bands)}, its tensors are of other bands.")
    return Weights(source=source, trunks=tuple(trunks), last=last, facts=facts)


def check_names(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], arch: str, source: str) -> None:
    """Hold the names and shapes of a trunk to the network's; conv1's channels are left to `resnet`.

    `num_batches_tracked` may be missing: older torch did not save it, and with BatchNorm's momentum nothing reads it.

    Raises:
        WeightsError: names the first tensors that are missing, unused or of another shape.
    """
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unused = [name for name in state if name not in own]
    reasons = [f"{_names(names)} {what}" for names, what in ((missing, "missing"), (unused, "unused")) if names]
    for name, value in own.items():
        shape, expected = tuple(state[name].shape if name in state else value.shape), tuple(value.shape)
        if name == "conv1.weight" and len(shape) == 4:  # its channels may be others
            expected = (expected[0], shape[1], *expected[2:])
        if shape != expected:
            reasons.append(f"{name} of shape {shape} instead of {expected}")
            break
    if reasons:
        look = recognised(state)
        found = f"those of {look}" if look and look != arch else "others"
        advice = f" Set ARCH={look}, or other WEIGHTS." if look and look != arch else ""
        raise WeightsError(f"{source}: expected weights of ARCH={arch}, found {found}: {'; '.join(reasons)}.{advice}")


def _names(names: list[str]) -> str:
    shown = ", ".join((name if name.isprintable() else ascii(name))[:80] for name in names[:SHOWN])
    return f"{shown}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}"


def recognised(state: Mapping[str, torch.Tensor]) -> str | None:
    """The ARCH that has exactly these names and shapes, conv1's bands and BatchNorm's counts aside."""
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    return next((arch for arch in ARCHS if _telling(shapes) == _shapes(arch)), None)


@functools.cache
def _shapes(arch: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        net = make_resnet(arch, len(RGB), None)
    return _telling({name: tuple(value.shape) for name, value in net.state_dict().items()})


def _telling(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {
        name: shape
        for name, shape in shapes.items()
        if name != "conv1.weight" and not name.endswith("num_batches_tracked")
    }


def check_values(state: Mapping[str, torch.Tensor], source: str) -> dict[str, torch.Tensor]:
    """The tensors as a network wants them: float32, and int64 for BatchNorm's counts.

    Raises:
        WeightsError: names the first tensor of another kind, or with a value that no network can compute with.
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
