"""Every command of the project: its name, its settings and what runs it. Imports nothing but the standard library.

Out: `COMMANDS`. `make help`, `python -m canopy`, `python -m train` and the like, and docs/settings.md follow from this
table. Leaves the settings to the packages' `commands` modules, and dispatching to `main`.
"""

import importlib
from dataclasses import dataclass
from typing import Any

# Settings of every command through make, with what they mean; `launch` and the Makefile read them.
MAKE_VARIABLES = {
    "PYTHON": "The Python that makes the virtual environment. Default: python3.",
    "VENV": "Folder of the virtual environment. Default: .venv.",
    "CUDA": "CUDA major version of the GPU's driver, 13 or 12. Default: 13.",
}


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command. `settings` and `function` are "module:name"; they are imported when the command is used.

    `settings` has `from_words`, `shown_models` and `check`, as `preprocess.settings.Settings` has. `function` takes
    what `from_words` returns, and returns the exit code.
    """

    name: str
    summary: str
    example: str
    settings: str
    function: str
    alias: str = ""

    @property
    def package(self) -> str:
        """The package whose `python -m PACKAGE` has this command."""
        return self.settings.partition(".")[0]

    def load_settings(self) -> Any:
        """The class of the settings."""
        return _load(self.settings)

    def load_function(self) -> Any:
        """What runs the command."""
        return _load(self.function)


COMMANDS = {
    command.name: command
    for command in (
        Command(
            name="train",
            summary="train a model; if neither STORE nor DATA is set, on demo chips",
            example="TASK=1 STORE=chips.zarr",
            settings="train.commands:TrainRequest",
            function="train.commands:train",
        ),
        Command(
            name="zarr",
            summary="convert a folder of chips and their tags to a store",
            example="DATA=folder LABELS=file.csv STORE=chips.zarr",
            settings="preprocess.commands:ZarrSettings",
            function="preprocess.commands:zarr",
            alias="convert",
        ),
        Command(
            name="windows",
            summary="list the windows of large rasters, so that a person can label them",
            example="DATA=folder WINDOW=256",
            settings="preprocess.commands:WindowsSettings",
            function="preprocess.commands:windows",
        ),
        Command(
            name="audit",
            summary="check the data before training: duplicates, leaks between splits, bad labels",
            example="STORE=chips.zarr",
            settings="analysis.commands:AuditSettings",
            function="analysis.commands:audit",
        ),
        Command(
            name="preview",
            summary="draw chips of the first train batch as the network sees them: swapped bands, wrong labels",
            example="STORE=chips.zarr",
            settings="analysis.preview_settings:PreviewRequest",
            function="analysis.preview_settings:preview",
        ),
        Command(
            name="info",
            summary="print bands, classes, sizes and the split of a store",
            example="STORE=chips.zarr",
            settings="preprocess.commands:InfoSettings",
            function="preprocess.commands:info",
        ),
        Command(
            name="verify",
            summary="verify every chip in a store against its checksum",
            example="STORE=chips.zarr",
            settings="preprocess.commands:VerifySettings",
            function="preprocess.commands:verify",
        ),
        Command(
            name="report",
            summary="make one page about a run",
            example="RUN=runs/task1",
            settings="analysis.commands:ReportSettings",
            function="analysis.commands:report",
        ),
        Command(
            name="curves",
            summary="draw the learning curves of a run again",
            example="RUN=runs/task1",
            settings="analysis.commands:CurvesSettings",
            function="analysis.commands:curves",
        ),
        Command(
            name="reproduce",
            summary="predict the test split again in a new process and compare with the saved scores",
            example="RUN=runs/task1",
            settings="analysis.commands:ReproduceSettings",
            function="analysis.commands:reproduce",
        ),
        Command(
            name="ensemble",
            summary="average the scores of runs, or those of one run over the 8 symmetries of a square",
            example="RUNS=runs/task1,runs/task1-2",
            settings="analysis.ensemble_commands:EnsembleSettings",
            function="analysis.ensemble_commands:ensemble",
        ),
        Command(
            name="compare",
            summary="print the test mAP of runs and ensembles side by side, with intervals of the differences",
            example="RUNS=runs/task1,runs/task1-tta",
            settings="analysis.ensemble_commands:CompareSettings",
            function="analysis.ensemble_commands:compare",
        ),
        Command(
            name="predict",
            summary="score chips without labels",
            example="RUN=runs/task1 DATA=folder",
            settings="analysis.commands:PredictSettings",
            function="analysis.commands:predict",
        ),
        Command(
            name="export",
            summary="write a run's network as ONNX and torch.export, checked against torch",
            example="RUN=runs/task1",
            settings="analysis.commands:ExportSettings",
            function="analysis.commands:export",
        ),
        Command(
            name="tune",
            summary="measure which loader settings are fastest here; train then uses them",
            example="STORE=chips.zarr",
            settings="train.commands:TuneSettings",
            function="train.commands:tune",
        ),
        Command(
            name="bench",
            summary="measure canopy here, and compare it with other loaders and the machine's limits",
            example="MODE=loader",
            settings="bench.commands:BenchSettings",
            function="bench.commands:bench",
        ),
        Command(
            name="bench-report",
            summary="draw the newest records of bench",
            example="",
            settings="bench.commands:BenchReportSettings",
            function="bench.commands:bench_report",
        ),
        Command(
            name="gpu-check",
            summary="check that the GPU computes correctly and does not wait for data",
            example="",
            settings="bench.commands:GpuCheckSettings",
            function="bench.commands:gpu_check",
        ),
        Command(
            name="demo",
            summary="make demo chips",
            example="OUT=demo",
            settings="preprocess.commands:DemoSettings",
            function="preprocess.commands:demo",
        ),
        Command(
            name="soak",
            summary="a test: kill a run at random moments and prove that nothing is lost",
            example="KILLS=200",
            settings="bench.commands:SoakSettings",
            function="bench.commands:soak",
        ),
        Command(
            name="fuzz",
            summary="a test: damage stores, images, CSVs and runs; each must be refused or read correctly",
            example="SECONDS=60",
            settings="bench.commands:FuzzSettings",
            function="bench.commands:fuzz",
        ),
    )
}
# Targets of the Makefile that take no settings.
TARGETS = {
    "setup": "only install",
    "test": "run the tests, a process per core; ARGS is passed to pytest, such as ARGS='-m slow -k name -n0'",
    "lint": "check format, types and imports",
    "format": "format the code",
    "docs": "build the docs site",
    "clean": "remove demo chips and caches",
}


def find(name: str, package: str = "") -> Command | None:
    """The command of that name or alias; with `package`, only of that package."""
    for command in COMMANDS.values():
        if name in (command.name, command.alias) and package in ("", command.package):
            return command
    return None


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
