"""Fill in the settings of a conversion with the values of a preset.

In: `ConversionSettings`. Out: the same with the preset's values where the user gave none. Leaves the values to
`presets`.
"""

from pathlib import Path
from typing import Any

from preprocess.commands import ConversionSettings
from preprocess.presets import PRESETS, find, find_labels
from preprocess.setting_specs import specs


def with_preset(settings: ConversionSettings) -> ConversionSettings:
    """The settings with the values of PRESET; DATA becomes the folder of the chips. Unchanged without PRESET.

    A value that equals a setting's default counts as not given.
    """
    if settings.preset is None:
        return settings
    preset = PRESETS[settings.preset]
    download, folder = find(settings.data, preset)
    labels = settings.labels or find_labels(settings.data, folder, download)
    values: dict[str, Any] = {"classes": preset.classes, "labels": labels, **download.settings}
    if labels is not None and labels.name in {Path(name).name for name in download.labels}:
        values |= download.label_settings
    known = specs(ConversionSettings)
    filled = {name: value for name, value in values.items() if getattr(settings, name) == known[name].default}
    return settings.replace(data=folder, **filled)
