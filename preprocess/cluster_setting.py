"""CLUSTER=...: the Dask workers that share the tasks of a command.

In: the text of the setting. Out: a checked `ClusterAddress`. Imports nothing heavy, and Dask not at all.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from preprocess.console import UserError

EXPECTED = "tcp://host:8786, scheduler.json or local:8"
INSTALL_DASK = "`.venv/bin/pip install -c constraints.txt distributed`"


@dataclass(frozen=True, kw_only=True)
class ClusterAddress:
    """Where the workers are: exactly one field is set.

    address: of a scheduler. file: a scheduler's file. local: number of worker processes to start on this machine.
    """

    address: str | None = None
    file: Path | None = None
    local: int | None = None


def cluster_address(text: str) -> ClusterAddress:
    """What CLUSTER=text names.

    Raises:
        ValueError: the text has another form; says which ones are expected.
    """
    if re.fullmatch(r"(?:tcp|tls)://[^\s/]+:[0-9]{1,5}", text):
        return ClusterAddress(address=text)
    if found := re.fullmatch(r"local:([1-9][0-9]{0,2})", text):
        return ClusterAddress(local=int(found[1]))
    if text.endswith(".json"):
        return ClusterAddress(file=Path(text))
    raise ValueError(EXPECTED)


def check_dask(text: str) -> None:
    """Raise UserError if Dask is not installed."""
    if importlib.util.find_spec("distributed") is None:
        raise UserError(f"CLUSTER={text}: Dask is not installed here. {INSTALL_DASK} installs it.")
