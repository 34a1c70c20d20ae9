"""Preloaded by a Dask worker: at its first shard it makes the file WAIT_MARKER, and waits until that file is gone."""

import os
import time
from pathlib import Path
from typing import Any

from preprocess import shard_writer


def dask_setup(worker: object) -> None:
    del worker
    encode_index, marker = shard_writer.encode_index, Path(os.environ["WAIT_MARKER"])

    def waiting(*args: Any, **kwargs: Any) -> Any:
        shard_writer.encode_index = encode_index
        marker.touch()
        while marker.exists():
            time.sleep(0.01)
        return encode_index(*args, **kwargs)

    shard_writer.encode_index = waiting
