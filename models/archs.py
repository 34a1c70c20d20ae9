"""The names of the architectures. Imports nothing heavy, so that settings can be checked first.

torchvision's ResNets are always there; any other ResNet of torchvision works once its name stands here. Networks of
timm work if timm is installed.
"""

import importlib.util
import re
from pathlib import Path

ARCHS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "wide_resnet50_2",
)
INSTALL_TIMM = "`.venv/bin/pip install -c constraints.txt timm` installs it."
_REGISTERED = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)


def timm_names() -> frozenset[str]:
    """The names of timm's networks; empty without timm. They are read from its source: importing it loads torch."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    files = Path(spec.submodule_search_locations[0], "models").glob("*.py")
    return frozenset(name for path in files for name in _REGISTERED.findall(path.read_text(encoding="utf-8")))
