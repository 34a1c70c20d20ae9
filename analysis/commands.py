"""The commands that look at runs and use them: their settings, and what runs them.

To add a setting, add a field here and use it where it acts. Imports nothing heavy before a command runs.
"""

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from analysis.run_paths import check_run
from preprocess.addresses import Location
from preprocess.chip_words import check_folder
from preprocess.cluster_words import ClusterWords
from preprocess.commands import CORES, MadeStore
from preprocess.console import UserError
from preprocess.files import check_writable, store_place
from preprocess.settings import Settings, setting
from preprocess.split_rules import BLOCK_KM, check_rule
from train.setting_groups import check_gpu


class RunFolder(Settings):
    """The run of a command."""

    run: Path = setting(..., "Folder of the run.", hint="folder", example="RUN=runs/task1")

    def check(self) -> None:
        """Refuse a RUN that is no run."""
        check_run("RUN", self.run)


class MovedStore(RunFolder):
    """A run and its store."""

    store: str | None = setting(None, "The run's store, if it has moved.", hint="path", default_text="the run's")

    @field_validator("store")
    @classmethod
    def _absolute(cls, text: str | None) -> str | None:
        return None if text is None else store_place(text)


class CurvesSettings(RunFolder):
    """The learning curves of a run."""


class ReproduceSettings(MovedStore):
    """A second prediction of a run's test split."""

    gpu: str | None = setting(None, "The device.", hint="0|cpu", default_text="the run's")
    tta: bool = setting(False, "1: check the run's TTA scores, which `make ensemble RUNS=run TTA=1` saved in run-tta.")

    @field_validator("gpu")
    @classmethod
    def _gpu_is_a_list_of_numbers(cls, text: str | None) -> str | None:
        return None if text is None else check_gpu(text)


class ReportSettings(MovedStore):
    """The page about a run."""

    compare: tuple[Path, ...] = setting(
        (), "Other runs to compare with.", hint="runs/task3,runs/task4", default_text="no other run"
    )
    class_name: str | None = setting(
        None,
        "The class whose best and worst chips are shown.",
        word="CLASS",
        hint="name",
        default_text="the class with the highest AP",
    )
    cam: bool = setting(
        False, "1: show beside each top loss where the network looks for the class (Grad-CAM). Only for ResNets."
    )

    def check(self) -> None:
        """Refuse what is no run."""
        super().check()
        for run in self.compare:
            check_run("COMPARE", run)


class AuditSettings(MadeStore, ClusterWords):
    """The check of a data set."""

    labels: Location | None = setting(
        None,
        "The labels that the store was made from: the file or, for LABELS=folders, the folder of class folders. With "
        "them the audit also finds repeated tags, and chips whose tags differ from the labels.",
        hint="file.csv",
    )
    jpeg: Path | None = setting(
        None,
        "Folder of the chips' JPEGs. With it the audit also finds chips that differ from their JPEG.",
        hint="folder",
    )
    run: Path | None = setting(
        None, "A run on this store. With it the audit also finds labels that the run's model doubts.", hint="folder"
    )
    split: str | None = setting(
        None,
        "The split whose train and test chips are compared.",
        hint="course|blocked|column|0.8,0.2|file.csv",
        default_text="the run's, else course",
    )
    block_km: float = setting(
        BLOCK_KM, "Side of the blocks of SPLIT=blocked, in km. Without SPLIT, that of the run.", gt=0, le=20_000
    )
    exclusive: tuple[str, ...] | None = setting(
        None,
        "Mutually exclusive classes: every chip must have exactly one of them.",
        default_text="those of a preset, if the store has exactly its classes",
    )
    jobs: int = setting(CORES, "Number of processes that read the pixels.", ge=1, default_text="one per core")

    @field_validator("split")
    @classmethod
    def _split_can_be_read(cls, rule: str | None) -> str | None:
        if rule is not None:
            check_rule(rule)
        return rule

    def check(self) -> None:
        """Refuse a RUN that is no run, files that are not there, and CLUSTER without Dask."""
        MadeStore.check(self)
        ClusterWords.check(self)
        if self.run is not None:
            check_run("RUN", self.run)
        for word, path in (("LABELS", self.labels), ("JPEG", self.jpeg)):
            if isinstance(path, Path) and not path.exists():
                raise UserError(f"{word}={path}: found nothing there.")


class PredictSettings(RunFolder, ClusterWords):
    """Scores of chips without labels."""

    data: Location = setting(
        ...,
        "Folder of chips, in files like those of the run's store. Or its address, such as s3://bucket/chips.",
        hint="folder",
        example="DATA=folder",
    )
    out: Path = setting(Path("predictions.csv"), "The CSV of scores.", hint="file.csv")
    bands: tuple[str, ...] | None = setting(
        None,
        "Names of the files' bands in their order.",
        hint="blue,green,red,nir",
        default_text="as in the run's store",
    )
    stride: int | None = setting(
        None,
        "Rows and columns from one window to the next, for a run whose chips are windows of large rasters (WINDOW).",
        hint="pixels",
        ge=1,
        le=65536,
        default_text="as in the run's store",
    )
    gpu: str | None = setting(None, "The device.", hint="0|cpu", default_text="the run's")
    tta: bool = setting(False, "1: average the logits over all 8 symmetries.")
    geojson: bool = setting(
        False,
        "1: also write OUT as GeoJSON, with a polygon, the tags and the scores of each chip that says where it lies. "
        "Needs pyproj.",
    )

    @field_validator("gpu")
    @classmethod
    def _gpu_is_a_list_of_numbers(cls, text: str | None) -> str | None:
        return None if text is None else check_gpu(text)

    def check(self) -> None:
        """Refuse a RUN that is no run, a DATA that is no folder, and CLUSTER without Dask."""
        RunFolder.check(self)
        ClusterWords.check(self)
        check_folder(self.data)


class ExportSettings(MovedStore):
    """A run's network for other programs."""

    export_input: Literal["store", "float32", "int32"] = setting(
        "store",
        "The dtype of the exported network's input: the store's own, or a wider one for programs without uint16, such "
        "as TensorRT. The values are the same.",
    )


def curves(settings: CurvesSettings) -> int:
    """Draw the learning curves of a run."""
    from analysis.curves import draw_curves
    from preprocess.console import say

    check_writable(settings.run, settings.run)
    say(f"{draw_curves(settings.run)}: learning curves")
    return 0


def reproduce(settings: ReproduceSettings) -> int:
    """Predict the test split again and compare; 1 if the result is another."""
    from analysis.members import tta_scores
    from analysis.reproduce import reproduce as predict_again

    run = tta_scores(settings.run) if settings.tta else settings.run
    check_writable(run, run)
    return 0 if predict_again(run, store=settings.store, gpu=settings.gpu) else 1


def report(settings: ReportSettings) -> int:
    """Make the page about a run."""
    from analysis.report import report as make_report

    check_writable(settings.run / "report", settings.run)
    make_report(
        settings.run, compare=settings.compare, class_name=settings.class_name, store_path=settings.store,
        cam=settings.cam,
    )  # fmt: skip
    return 0


def audit(settings: AuditSettings) -> int:
    """Check the data before training."""
    from analysis.audit import audit as make_audit

    make_audit(
        settings.store, labels=settings.labels, jpeg=settings.jpeg, run_path=settings.run, split_rule=settings.split,
        exclusive=settings.exclusive, block_km=settings.block_km, jobs=settings.jobs, cluster=settings.cluster,
    )  # fmt: skip
    return 0


def predict(settings: PredictSettings) -> int:
    """Score chips without labels; 1 if files could not be used."""
    if settings.geojson:
        from analysis.geojson import check_pyproj

        check_pyproj()
    from analysis.predict import predict as score

    return 1 if score(
        settings.run, settings.data, settings.out, bands=settings.bands, gpu=settings.gpu, tta=settings.tta,
        stride=settings.stride, geojson=settings.geojson, cluster=settings.cluster,
    ) else 0  # fmt: skip


def export(settings: ExportSettings) -> int:
    """Write a run's network as ONNX and torch.export."""
    from analysis.export import export as write_network

    check_writable(settings.run, settings.run)
    write_network(settings.run, store_path=settings.store, export_input=settings.export_input)
    return 0
