"""Check that all packages come from one folder: `train` and `models` are ordinary names, and a user may have them too.

Imports the standard library only, since any other import may find the user's file.
"""

import importlib.util
import sys
from pathlib import Path

PACKAGES = ("preprocess", "pipeline", "models", "train", "analysis")


def foreign_file(root: Path) -> Path | None:
    """The file that Python would import in place of one of the project's packages in `root`; None if there is none."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and Path(spec.origin).resolve().parent != root / name:
            return Path(spec.origin)
    return None


def check_installation() -> None:
    """End with one line and exit code 2 if a file of the user hides a package of the project."""
    root = Path(__file__).resolve().parents[1]
    if file := foreign_file(root):
        name = file.parent.name if file.name == "__init__.py" else file.stem
        print(
            f"error: {file} hides canopy's own package {name!r}. Rename it, or run the command from another folder.",
            file=sys.stderr,
        )
        sys.exit(2)
