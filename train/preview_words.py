"""Which settings of a training change what the network sees of a chip, and the command that shows it as a picture.

In: a configuration. Out: names of settings; a command line. Leaves the picture to `analysis.preview`.
"""

import os
import shlex
from pathlib import Path

from preprocess.files import is_url
from preprocess.setting_specs import specs
from train.config import Config, make_config

# Those that choose chips, labels, bands, values, augmentation and the order of chips. TEST and TEST_BATCH are not used
# in training.
SEEN = (
    "task", "bands_in", "trunks", "bands_rgb", "store", "split", "block_km", "val", "input", "crop", "crop_share",
    "flips", "shuffle_labels", "recipe", "batch", "accumulate", "seed",
)  # fmt: skip


def seen_words(config: Config) -> list[str]:
    """TASK, STORE and each setting of SEEN that is not the recipe's: words that ask for the same chips."""
    defaults = make_config(config.recipe, task=config.task, store=config.store)
    changed = [name for name in SEEN if getattr(config, name) != getattr(defaults, name)]
    names = ["task", "store", *([] if config.recipe == "default" else ["recipe"]), *changed]
    values = {name: getattr(config, name) for name in names}
    values["store"] = near(config.store)
    return [f"{specs(Config)[name].word}={shlex.quote(_text(value))}" for name, value in values.items()]


def preview_command(config: Config) -> str:
    """The command that draws the first train batch."""
    return " ".join(["make preview", *seen_words(config)])


def near(store: str) -> str:
    """A store as a person would write it: relative to the current folder, if it lies in that."""
    return store if is_url(store) or not Path(store).is_relative_to(Path.cwd()) else os.path.relpath(store)


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
