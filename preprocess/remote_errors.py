"""Errors of an object store in one line each: what failed, and which variable of the environment is missing.

In: an error of the client obstore and the address that it is about. Out: an `AccessError`, or a `TemporaryError` if the
same command may work later. Leaves requests to `remote`.
"""

import os
import re
from collections.abc import Iterator

from obstore.exceptions import PermissionDeniedError, PreconditionError, UnauthenticatedError

from preprocess.console import AccessError, TemporaryError, UserError

_MAX_SHOWN = 200  # characters of the client's own text
_KEYS = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "gs": ("GOOGLE_SERVICE_ACCOUNT",),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
}


# Without keys in the environment the client asks the machine for some: these addresses answer inside a cloud.
_OF_KEYS = ("169.254.169.254", "/latest/api/token", "/latest/meta-data", "metadata.google", "MissingAccount")


class MissingObjectError(UserError):
    """There is no object with this key."""


class ChangedObjectError(UserError):
    """The object is not the one that was listed."""


def refusal(error: Exception, name: str) -> UserError:
    """The line about an error. `name`: the address of the object or of the bucket."""
    whole, reason = str(error), _short(error)
    if "NoSuchBucket" in whole or "ContainerNotFound" in whole:
        return AccessError(f"{_bucket(name)}: expected a bucket, found none. Check its name{_server(name)}.")
    if isinstance(error, PreconditionError):
        return ChangedObjectError(f"{name}: expected the object as listed, found a changed one.")
    if isinstance(error, FileNotFoundError):
        return MissingObjectError(f"{name}: expected an object, found none.")
    if "recognise URL" in whole or "Unknown url" in whole:
        return UserError(f"{name}: expected s3://, gs://, az:// or https://, found something else ({reason}).")
    if missing := _missing(error, whole, name):
        return AccessError(f"{name}: the object store reported an error ({reason}). {missing}")
    if "HTTP error" in whole or "timed out" in whole.lower():
        return TemporaryError(
            f"{name}: the object store cannot be reached ({reason}). Check the network{_server(name)}, and run the "
            "same command again."
        )
    if re.search(r"status code: (5\d\d|429|408)|after \d+ retries", whole):
        return TemporaryError(f"{name}: the object store still fails ({reason}). Run the same command again.")
    return AccessError(
        f"{name}: the object store reported an error ({reason}). Check the address{_and_variables(name)}."
    )


def _missing(error: Exception, whole: str, name: str) -> str:
    """What to set in the environment; "" if the error does not show it."""
    if "BadScheme" in whole:
        return f"The server's address begins with http://. Set {_prefix(name)}ALLOW_HTTP=true."
    if any(each in whole for each in _OF_KEYS):
        keys = " and ".join(_unset(name))
        return f"There are no keys: set {keys}, or {_prefix(name)}SKIP_SIGNATURE=true for a public bucket."
    if "redirect" in whole or "PermanentRedirect" in whole or "AuthorizationHeaderMalformed" in whole:
        region = os.environ.get("AWS_REGION") or "not set"
        return f"AWS_REGION is {region}. Set it to the region of the bucket."
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or re.search(r"status code: 40[13]", whole):
        if unset := list(_unset(name)):
            return f"Access is denied, and {' and '.join(unset)} {'is' if len(unset) == 1 else 'are'} not set."
        return "Access is denied. Check the keys, and that they may read, list and write there."
    return ""


def _prefix(name: str) -> str:
    """How the variables for an address begin."""
    return {"gs": "GOOGLE_", "az": "AZURE_"}.get(name.partition(":")[0], "AWS_")


def _and_variables(name: str) -> str:
    return "" if name.startswith("http") else f" and {_prefix(name)}* in the environment"


def _unset(name: str) -> Iterator[str]:
    return (variable for variable in _KEYS.get(name.partition(":")[0], ()) if variable not in os.environ)


def _server(name: str) -> str:
    """Where requests about an address go, as the environment says."""
    if name.startswith("az") and (endpoint := os.environ.get("AZURE_STORAGE_ENDPOINT")):
        return f" and AZURE_STORAGE_ENDPOINT={endpoint}"
    if not name.startswith("s3"):
        return ""
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT")
    if endpoint:
        return f" and AWS_ENDPOINT_URL={endpoint}"
    return f" and AWS_REGION={os.environ.get('AWS_REGION', '')} (AWS_ENDPOINT_URL is not set: the server is Amazon's)"


def _bucket(name: str) -> str:
    return "/".join(name.split("/")[:3])


def _short(error: BaseException) -> str:
    """The client's own text, without its XML."""
    text = " ".join(str(error).split("Debug source")[0].split())
    if code := re.search(r"<Code>(.*?)</Code>", text):
        message = re.search(r"<Message>(.*?)</Message>", text)
        status = re.search(r"status code: (\d+)", text)
        return ": ".join(each[1] for each in (status, code, message) if each)[:_MAX_SHOWN]
    if status := re.search(r"status code: (\d+[^:]*)", text):
        return status[1].strip()
    return text[:_MAX_SHOWN]
