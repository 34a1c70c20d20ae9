"""Stores in object storage: `s3://`, `gs://`, `az://` and `https://` addresses, read with obstore.

In: an address. Out: its objects by key, and errors as one line. Credentials, region and endpoint come from the
environment, as for any other client (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP,
AWS_SKIP_SIGNATURE, ...). Only for reading: a conversion writes to disk, and any tool can copy a finished store. Stores
on disk do not import this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from obstore.exceptions import BaseError
from obstore.store import from_url

from preprocess.console import UserError

_RETRIES = 3


def open_remote(url: str) -> Any:
    """The objects below `url`, with keys relative to it: one of obstore's stores, which share one interface."""
    try:
        return from_url(url, retry_config={"max_retries": _RETRIES})
    except (BaseError, ValueError) as error:
        raise UserError(
            f"{url}: expected s3://, gs://, az:// or https://, found something else ({_short(error)})."
        ) from error


@contextmanager
def remote_errors(name: str) -> Iterator[None]:
    """Turn errors of the client about `name` into one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{name}: expected an object, found none.") from error
    except (BaseError, OSError) as error:
        raise UserError(
            f"{name}: the object store reported an error ({_short(error)}). "
            "Check the address and AWS_* in the environment."
        ) from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split("Debug source")[0].split())[:200]
