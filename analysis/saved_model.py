"""A run's folder -> its network with the best epoch's weights, and what it is fed. Needs no store."""

from torch import nn

from analysis.results import Run
from models.build import build
from models.resnet import branch
from pipeline.inputs import Inputs
from preprocess.console import UserError
from train.runfolder import load_model


def inputs_of(run: Run) -> Inputs:
    """Bands and scaling, as run.json keeps them.

    Raises:
        UserError: they are not there.
    """
    try:
        found = run.record["inputs"]
        return Inputs(
            kind=found["kind"], bands=tuple(found["bands"]), mean=tuple(found["mean"]), std=tuple(found["std"])
        )
    except KeyError as error:
        raise UserError(f"{run.path / 'run.json'}: expected inputs with {error.args[0]}, found none.") from error


def load_saved(run: Run) -> tuple[nn.Module, str]:
    """(network in eval mode on the CPU, SHA-256 of its weights).

    Raises:
        UserError: the weights are missing, do not fit, or are not those that made the saved scores.
    """
    branches = tuple(branch(*bands) for bands in run.record["inputs"]["branches"])
    pool = run.record["inputs"].get("pool", True)  # runs before there was a choice have it
    net = build(run.config["arch"], branches, len(run.classes), None, pool=pool)
    digest = load_model(run.path, net)
    if digest != run.made_with["model_sha256"]:
        raise UserError(
            f"{run.path / 'model.safetensors'}: expected the weights that made the saved scores "
            f"({run.made_with['model_sha256'][:12]}), found {digest[:12]}. Train again."
        )
    return net.eval(), digest
