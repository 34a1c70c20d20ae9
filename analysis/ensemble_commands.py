"""The settings of `make ensemble` and `make compare`, and what runs them. Imports nothing heavy before they run."""

from pathlib import Path

from pydantic import field_validator

from analysis.run_paths import check_run
from preprocess.console import UserError
from preprocess.files import store_place
from preprocess.settings import Settings, setting
from train.setting_groups import check_gpu


class EnsembleSettings(Settings):
    """The mean of runs."""

    runs: tuple[Path, ...] = setting(
        ...,
        "Folders of finished runs on one store and split. With TTA=1 it can be one run.",
        hint="folder,folder",
        example="RUNS=runs/task1,runs/task1-2,runs/task1-3",
    )
    tta: bool = setting(
        False, "1: average each run's logits over the 8 symmetries of a square, too (the 4 flips of a rectangle)."
    )
    out: Path | None = setting(
        None, "The folder to make.", hint="folder", default_text="runs/ensemble; of one run: its name with -tta"
    )
    store: str | None = setting(
        None, "For TTA=1: the runs' store, if it has moved.", hint="path", default_text="the runs'"
    )
    gpu: str | None = setting(None, "For TTA=1: the device.", hint="0|cpu", default_text="the runs'")

    @field_validator("store")
    @classmethod
    def _absolute(cls, text: str | None) -> str | None:
        return None if text is None else store_place(text)

    @field_validator("gpu")
    @classmethod
    def _gpu_is_a_list_of_numbers(cls, text: str | None) -> str | None:
        return None if text is None else check_gpu(text)

    def check(self) -> None:
        """Refuse RUNS that are no runs, and settings that have no effect."""
        for run in self.runs:
            check_run("RUNS", run)
        if self.tta:
            return
        if len(self.runs) < 2:
            raise UserError(f"RUNS={self.runs[0]}: expected two runs or more, found one. TTA=1 evaluates one run.")
        for name in ("store", "gpu"):
            if getattr(self, name):
                raise UserError(
                    f"{name.upper()} has no effect without TTA=1: the saved scores are averaged. Leave it out."
                )


class CompareSettings(Settings):
    """Runs side by side."""

    runs: tuple[Path, ...] = setting(
        ...,
        "Folders of runs and of `make ensemble`, scored on the same test chips.",
        hint="folder,folder",
        example="RUNS=runs/task1,runs/task1-tta",
    )

    def check(self) -> None:
        """Refuse RUNS that are no runs."""
        for run in self.runs:
            check_run("RUNS", run)
        if len(self.runs) < 2:
            raise UserError(f"RUNS={self.runs[0]}: expected two folders or more, found one.")


def ensemble(settings: EnsembleSettings) -> int:
    """Average runs."""
    from analysis.ensemble import ensemble as average

    average(settings.runs, out=settings.out, tta=settings.tta, store=settings.store, gpu=settings.gpu)
    return 0


def compare(settings: CompareSettings) -> int:
    """Print runs side by side."""
    from analysis.compare import compare as print_rows

    print_rows(settings.runs)
    return 0
