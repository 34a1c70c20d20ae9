"""Stores in object storage: `s3://`, `gs://`, `az://` and `https://` addresses, read through obstore.

Credentials, region and endpoint come from the environment, as for any other client (AWS_ACCESS_KEY_ID,
AWS_REGION, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP, AWS_SKIP_SIGNATURE, ...). Reading only: conversion writes to disk,
and any tool copies a finished store. Not imported for stores on disk.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from obstore.exceptions import BaseError
from obstore.store import from_url

from preprocess.console import UserError

_RETRIES = 3


def open_remote(url: str) -> Any:
    """The objects under `url`, with keys relative to it. Any of obstore's stores; they share one interface."""
    try:
        return from_url(url, retry_config={"max_retries": _RETRIES})
    except (BaseError, ValueError) as error:
        raise UserError(
            f"{url}: expected s3://, gs://, az:// or https://, found otherwise ({_short(error)})."
        ) from error


@contextmanager
def remote_errors(name: str) -> Iterator[None]:
    """Turn the client's errors about `name` into one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{name}: expected an object, found none.") from error
    except (BaseError, OSError) as error:
        raise UserError(
            f"{name}: the object store gave an error ({_short(error)}). Check the address and AWS_* in the environment."
        ) from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split("Debug source")[0].split())[:200]
