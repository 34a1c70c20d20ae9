"""`canopy train`: train, then draw the learning curves. `train` itself must not know `analysis`."""

import dataclasses
import tempfile
from pathlib import Path

from analysis.commands import CurvesSettings, curves
from preprocess.console import say
from train.commands import TrainRequest, train


def train_and_draw(request: TrainRequest) -> int:
    """Train; if the run is done, draw its curves. LR=find: draw that curve. Returns the exit code of the training."""
    with tempfile.TemporaryDirectory(prefix="canopy-") as folder:
        # The process that makes the run's folder may be another one (GPU=0,1), so its name comes back in a file.
        file = request.run_file or Path(folder) / "run"
        code = train(dataclasses.replace(request, run_file=file))
        run = file.read_text().strip("\n") if code == 0 and file.exists() else ""
    if not run:
        return code
    if request.find_lr:
        return _draw_lr(request, Path(run))
    curves(CurvesSettings(run=Path(run)))
    from train.messages import next_lines

    for line in next_lines(Path(run)):
        say(line)
    return 0


def _draw_lr(request: TrainRequest, path: Path) -> int:
    from analysis.lr_picture import draw_lr_curve
    from train.lr_curve import lr_lines, read_curve, suggest

    say(f"{draw_lr_curve(path)}: the curve")
    for line in lr_lines(request, suggest(read_curve(path))):
        say(line)
    return 0
