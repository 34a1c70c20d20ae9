"""The commands `train` and `tune`: their settings, and what runs them.

In: words. Out: a `TrainRequest`, whose configuration and conversion are checked as far as words and files' names show
it. `early_checks` then holds them against the chips. Torch and DALI load after both.
"""

import gc
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import field_validator, model_validator

from preprocess.addresses import location
from preprocess.chip_words import ChipWords
from preprocess.commands import ConversionSettings
from preprocess.console import UserError, say
from preprocess.files import is_url, partial_path, store_place
from preprocess.messages import bad
from preprocess.setting_specs import specs, words_of
from preprocess.settings import Answer, Settings, read_words, setting
from train import chip_checks
from train.config import RUNTIME_SETTINGS, TASK_2, Config, check_effect, make_config
from train.lr_words import FIND_LR, check_find_lr
from train.setting_groups import check_gpu

DEMO = Path("demo")
DEMO_DEFAULTS = {"epochs": 8, "weights": "none"}  # the same numbers with and without a network
_STORE = Path("chips.zarr")
_TOGETHER = "On each of two machines: NODES=2 NODE=0 (or 1) HEAD=node0:29500."
_HEAD = re.compile(r"[\w.-]+:[0-9]{1,5}", re.ASCII)


class RunWords(Settings):
    """Where the run is kept. Not part of run.json."""

    heading: ClassVar[str] = "The run"

    run: str | None = setting(
        None,
        "Folder of the new run. It must not exist.",
        hint="folder",
        default_text="runs/task1 for TASK=1; runs/task1-2 if that exists",
    )
    resume: Path | None = setting(
        None,
        "Folder of a run that was stopped or killed: continue it. All other settings are those of the run.",
        hint="folder",
    )
    run_file: Path | None = setting(
        None, "For scripts: a file to which the path of the run's folder is written.", hint="file"
    )


class MachineWords(Settings):
    """Which machines train the run. Not part of run.json."""

    heading: ClassVar[str] = "Several machines"

    nodes: int = setting(
        1, "Machines that train one run together. Start the command on each of them, with another NODE.", ge=1, le=1024
    )
    node: int | None = setting(None, "With NODES: the number of this machine. 0 writes the run.", ge=0, le=1023)
    head: str | None = setting(None, "With NODES: name and free port of machine 0.", hint="node0:29500")

    @model_validator(mode="after")
    def _machines_are_complete(self) -> Self:
        for name in ("node", "head"):
            value = getattr(self, name)
            if (value is None) != (self.nodes == 1):
                state = "missing" if value is None else "given"
                raise UserError(f"NODES={self.nodes}: {name.upper()} is {state}. {_TOGETHER}")
        if self.node is not None and self.node >= self.nodes:
            raise bad("NODE", self.node, f"0 to {self.nodes - 1} with NODES={self.nodes}")
        return self

    @field_validator("head")
    @classmethod
    def _head_has_a_port(cls, text: str | None) -> str | None:
        if text is not None and not (_HEAD.fullmatch(text) and 0 < int(text.rpartition(":")[2]) < 2**16):
            raise ValueError("name:port, such as node0:29500")
        return text


class FirstConversion(ConversionSettings):
    """The settings of a conversion, for a training that may have one."""

    heading: ClassVar[str] = ChipWords.heading

    data: Path | None = setting(  # type: ignore[assignment]  # only the table and the words are of this class
        None,
        "Folder of TIFFs, or of PNGs or JPEGs: convert them to STORE before the training. The settings below need it.",
        hint="folder",
    )


class TuneSettings(Settings):
    """A measurement of the loader."""

    store: str = setting(..., "The store: a folder or an address.", hint="path", example="STORE=chips.zarr")
    gpu: str | None = setting(None, "The device.", hint="0|auto|cpu", default_text="GPU 0, else the CPU")
    batch: int = setting(64, "Chips per batch.", ge=1, le=2**20)

    @field_validator("gpu")
    @classmethod
    def _gpu_is_a_list_of_numbers(cls, text: str | None) -> str | None:
        return None if text is None else check_gpu(text)


_CONVERSION_ONLY = set(specs(ConversionSettings)) - set(specs(Config))


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """A training that was asked for.

    `conversion` comes first, if there is one; `is_demo`: of demo chips, which are made before. `values` are the
    settings that the user gave, and defaults that stand in their place. `find_lr`: find a learning rate instead.
    """

    config: Config
    values: dict[str, Any]
    run: str | None = None
    resume: Path | None = None
    run_file: Path | None = None
    machines: MachineWords = field(default_factory=MachineWords)
    conversion: ConversionSettings | None = None
    is_demo: bool = False
    find_lr: bool = False

    @classmethod
    def from_words(cls, words: Sequence[str], command: str) -> "TrainRequest":
        """Read the words of `train`.

        Raises:
            UserError: names the setting.
            Answer: TASK=2, which trains nothing.
        """
        if "TASK=2" in words:
            raise Answer(TASK_2)
        others = [word for word in words if word != FIND_LR]
        values = read_words(others, *cls.shown_models(), command=command)
        if "gpu" in values:
            values["gpu_given"] = True
        if len(others) < len(words):
            check_find_lr(values)
            return replace(_new(values), find_lr=True)
        return _resumed(values) if values.get("resume") else _new(values)

    @staticmethod
    def shown_models() -> tuple[type[Settings], ...]:
        """The classes whose settings the tables show."""
        return Config, RunWords, MachineWords, FirstConversion

    def check(self) -> None:
        """Refuse what files and folders show to be wrong, before anything heavy is loaded."""
        if self.conversion and not self.is_demo:
            self.conversion.check()
        if self.run is not None and Path(self.run).exists():
            raise UserError(f"RUN={self.run}: exists already. Choose another name, or remove it.")
        chip_checks.check_arch(self.config.arch)
        store = self.config.store
        if (
            not self.conversion
            and not is_url(store)
            and not (Path(store).exists() or partial_path(Path(store)).exists())
        ):
            raise UserError(f"STORE={store}: expected a store, found nothing. `make zarr` makes one.")
        if self.resume is None:
            known = chip_checks.DEMO if self.is_demo else chip_checks.known_chips(self.config, self.conversion)
            if known:
                known.check(self.config)
            split, weights = self.config.split, self.config.weights
            if split.endswith(".csv") and not Path(split).is_file():
                kind = "a folder" if Path(split).exists() else "nothing"
                raise UserError(f"SPLIT={split}: expected a CSV file, found {kind}.")
            if weights.endswith(".safetensors") and not Path(weights).is_file():
                raise UserError(
                    f"WEIGHTS={weights}: expected imagenet, none or a .safetensors file, found no such file."
                )

    def words(self) -> list[str]:
        """Words that ask for the same training of the store as it is then: for a process per GPU."""
        models = (Config, RunWords, MachineWords)
        names = {name for model in models for name, spec in specs(model).items() if not spec.hidden}
        values = {name: value for name, value in self.values.items() if name in names}
        values |= {"store": self.config.store, "run_file": self.run_file}
        return [f"{name.upper()}={_text(value)}" for name, value in values.items() if value is not None]


def _new(values: dict[str, Any]) -> TrainRequest:
    if "task" not in values:
        raise UserError("TASK is not set. Add TASK=1 (or 3, 4).")
    has_data = "data" in values
    if not has_data and (unused := [name.upper() for name in values if name in _CONVERSION_ONLY]):
        raise UserError(f"{', '.join(unused)}: only with DATA=folder, which is converted first.")
    is_demo = not has_data and "store" not in values
    if is_demo:
        values = {**DEMO_DEFAULTS, **values, "store": str(DEMO / "chips.zarr")}
    conversion = _conversion(values, is_demo) if has_data or is_demo else None
    values["store"] = store_place(str(values.get("store", _STORE)))
    for name in ("split", "weights"):  # files, for a run that is resumed from another folder
        if values.get(name, "").endswith((".csv", ".safetensors")):
            values[name] = str(Path(values[name]).resolve())
    settings = {name: value for name, value in values.items() if name in specs(Config) and name != "recipe"}
    config = make_config(values.get("recipe", "default"), **settings)
    machines = _machines(values)
    if conversion and machines.nodes > 1:
        raise UserError(f"NODES={machines.nodes}: expected a store that all machines see. Convert the chips first.")
    return TrainRequest(
        config=config, values=values, run=values.get("run"), run_file=values.get("run_file"), machines=machines,
        conversion=conversion, is_demo=is_demo,
    )  # fmt: skip


def _machines(values: dict[str, Any]) -> MachineWords:
    return MachineWords(**{name: value for name, value in values.items() if name in specs(MachineWords)})


def _conversion(values: dict[str, Any], is_demo: bool) -> ConversionSettings:
    if is_demo:
        return ConversionSettings(
            data=DEMO / "tif", labels=DEMO / "labels.csv", store=DEMO / "chips.zarr",
            bands=("blue", "green", "red", "nir"),
        )  # fmt: skip
    own = {name: value for name, value in values.items() if name in _CONVERSION_ONLY}
    return ConversionSettings(**own, store=location(str(values.get("store", _STORE))))


def _resumed(values: dict[str, Any]) -> TrainRequest:
    """The run's own configuration, with changes only of how it executes."""
    from train.contract.record import read_record

    resume = values["resume"]
    try:
        record = read_record(resume)
    except UserError as error:
        raise UserError(str(error).replace("RUN=", "RESUME=", 1)) from None
    if record.state == "done":
        raise UserError(f"RESUME={resume}: the run is done. `make reproduce RUN={resume}` checks it.")
    words = {*specs(RunWords), *specs(MachineWords)} - {"run"}
    changes = {name: value for name, value in values.items() if name not in words}
    if fixed := [name.upper() for name in changes if name not in RUNTIME_SETTINGS]:
        may = ", ".join(word for word, spec in words_of(Config).items() if spec.on_resume)
        raise UserError(f"{', '.join(fixed)}: set by RESUME={resume}. With RESUME only {may} can be given.")
    if "store" in changes:
        changes["store"] = store_place(changes["store"])
    config = record.config.replace(**changes)
    check_effect(config, changes)
    return TrainRequest(
        config=config, values=values, resume=resume, run_file=values.get("run_file"), machines=_machines(values)
    )


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def train(request: TrainRequest) -> int:
    """Convert if needed, then train. Returns the exit code."""
    if request.machines.nodes > 1:
        # Before torch loads. It warns of every connection to an address without a name, and prints 20 lines of C++ when
        # the launcher does not reach HEAD. `launch` says that in one line.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    from train.early_checks import check_plan, open_checked

    if request.is_demo:
        from preprocess.demo import make_demo

        say("no STORE and no DATA are given: the demo chips are used")
        make_demo(DEMO, num_chips=chip_checks.DEMO.at_most, seed=0)
    if request.conversion:
        from preprocess.convert import convert

        convert(request.conversion, partial(check_plan, request.config))
    opened = None if request.resume else open_checked(request.config)
    # While 3,000 modules are imported, the garbage collector would look 1,000 times through objects that all stay: 3.3
    # instead of 2.3 CPU-seconds. Frozen, they are left out later, too. Only once: it would also keep a former run.
    is_first = "torch" not in sys.modules
    gc.disable()
    try:
        from train.start import start
    finally:
        gc.enable()
    if is_first:
        gc.freeze()
    return start(request, opened)


def tune(settings: TuneSettings) -> int:
    """Measure the loader's settings."""
    from train.tune import tune as measure

    measure(settings.store, gpu=settings.gpu, batch=settings.batch)
    return 0
