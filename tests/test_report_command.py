"""The command on a report's page trains with the configuration of the run."""

import shlex

from helpers.settings import VALUES
from hypothesis import given
from hypothesis import strategies as st

from train.config import make_config


def test_the_command_names_only_settings_that_differ_from_the_defaults() -> None:
    from analysis.run_sections import train_command

    config = make_config("course", task=4, store="a b.zarr", epochs=3, deterministic=True, ema=0.5)
    words = train_command(config)
    assert words == "make train TASK=4 RECIPE=course STORE='a b.zarr' EPOCHS=3 EMA=0.5 DETERMINISTIC=1"


@given(st.data())
def test_the_command_gives_the_same_configuration(data: st.DataObject) -> None:
    """The real command line reads it. Settings without effect are left out and may differ."""
    from analysis.run_sections import train_command
    from train.commands import TrainRequest
    from train.config import config_from, without_effect
    from train.recipes import RECIPES

    recipe = data.draw(st.sampled_from(sorted(RECIPES)))
    settings = data.draw(st.fixed_dictionaries({}, optional={name: VALUES[name] for name in VALUES if name != "store"}))
    values = {**RECIPES[recipe](), "task": 4, "store": "/a b.zarr", **settings, "recipe": recipe}
    values |= {"gpu_given": values.get("gpu", "0") != "0", "split": values.get("split", "course")}
    if values.get("weights") == "none":
        values.pop("finetune", None)
    config = config_from(values)
    found = TrainRequest.from_words(shlex.split(train_command(config))[2:], "train").config
    if config.weights.endswith(".safetensors"):
        found = found.replace(weights=config.weights)  # the command line makes this path absolute
    unused = without_effect(config, config.model_dump())
    assert found.replace(**{name: getattr(config, name) for name in unused}) == config
