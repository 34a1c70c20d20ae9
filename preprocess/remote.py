"""Object storage: `s3://`, `gs://`, `az://` and `https://` addresses, by the client obstore.

In: an address. Out: its objects by key: read, listed, written, removed; and errors as one line. Credentials, region and
endpoint come from the environment, as for any other client (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL,
AWS_ALLOW_HTTP, AWS_SKIP_SIGNATURE, ...). What is on disk does not import this.

The client repeats a request that fails (503 SlowDown, 500, a reset, a time-out, a body that ends early), and waits
longer each time. Leaves the meaning of the objects to others.
"""

import contextlib
import functools
import itertools
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import quote

from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError, PreconditionError
from obstore.store import from_url

from preprocess.console import TemporaryError, UserError
from preprocess.read_ahead import read_ahead
from preprocess.remote_errors import ChangedObjectError as ChangedObjectError
from preprocess.remote_errors import MissingObjectError as MissingObjectError
from preprocess.remote_errors import refusal

# The first request of a process is repeated a few times only, so that a wrong address is refused within seconds. After
# it has been answered, a request waits up to half a minute: a store that throttles (503 SlowDown) needs that.
_FIRST_RETRIES, _RETRIES = 3, 10
_BACKOFF = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2}
_RETRY_TIMEOUT = timedelta(seconds=120)


Result = TypeVar("Result")
Environment: TypeAlias = tuple[tuple[str, str], ...]
_answered: set[tuple[str, Environment]] = set()  # buckets that have answered a request of this process
_TAIL_REQUESTS = 64  # at the same time: an object store takes tens of milliseconds for each
_WAIT_S = 0.1  # before the first repeat; doubled for each further one


class Listed(NamedTuple):
    """An object in a listing: its key relative to the address, its bytes, and its ETag."""

    key: str
    size: int
    etag: str


class Objects:
    """The objects below an address, by keys relative to it. Many threads can share it.

    Raises:
        UserError: from each method. The address is wrong, an object is missing, or the server refused the request.
        TemporaryError: the server does not answer, or still fails after all repeats.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        environment = _environment()
        self._first, self._patient = (_client(self.url, count, environment) for count in (_FIRST_RETRIES, _RETRIES))
        self._server = "/".join(self.url.split("/")[:3]), environment

    def name(self, key: str) -> str:
        """The address of an object."""
        return f"{self.url}/{key}"

    def read(self, key: str, limit: int | None = None) -> bytes:
        """All bytes of an object; refused if there are more than `limit`."""

        def read(client: Any) -> bytes:
            response = client.get(key)
            if limit is not None and (size := int(response.meta["size"])) > limit:
                raise UserError(f"{key}: expected at most {limit} bytes, found {size}.")
            return bytes(response.bytes())

        return self._do(key, read)

    def read_version(self, key: str, etag: str = "") -> tuple[Any, str]:
        """All bytes of an object (a buffer), and the ETag that they have; with `etag` the request has it as If-Match.

        Raises:
            ChangedObjectError: the server says that it has another ETag. Some servers ignore the condition.
        """

        def read(client: Any) -> tuple[Any, str]:
            response = client.get(key, options=_if_match(etag))
            return response.bytes(), _etag(response.meta)

        return self._do(key, read)

    def read_part(self, key: str, start: int, end: int, etag: str = "") -> tuple[bytes, int, str]:
        """Bytes `start` to `end` of an object, its size, and its ETag.

        Raises:
            ChangedObjectError: it has another ETag than `etag`. The request has it as If-Match; an answer is compared
                with it, too, because some servers ignore the condition.
        """

        def read(client: Any) -> tuple[bytes, int, str]:
            try:
                response = client.get(key, options={"range": (start, end), **_if_match(etag)})
            except BaseError as error:
                if not re.search(r"status code: 416|416 Range", str(error)):  # the object ends before `start`
                    raise
                meta = client.head(key)
                return b"", int(meta["size"]), _etag(meta)
            return bytes(response.bytes()), int(response.meta["size"]), _etag(response.meta)

        data, size, found = self._do(key, read)
        if etag and bare_etag(found) != bare_etag(etag):
            raise ChangedObjectError(self.name(key))
        return data, size, found

    def size(self, key: str) -> int | None:
        """Bytes of an object; None if there is none."""
        try:
            return self._do(key, lambda client: int(client.head(key)["size"]))
        except MissingObjectError:
            return None

    def read_tail(self, key: str, count: int) -> tuple[bytes, int]:
        """The last `count` bytes of an object (all, if it has fewer), and its size: one request."""

        def read(client: Any) -> tuple[bytes, int]:
            try:
                response = client.get(key, options={"range": {"suffix": count}})
                return bytes(response.bytes()), int(response.meta["size"])
            except NotSupportedError:  # Azure has no suffix ranges
                end = int(client.head(key)["size"])
                return bytes(client.get_range(key, start=max(0, end - count), end=end)), end

        return self._do(key, read)

    def read_tails(self, keys: Iterable[str], count: int) -> Iterator[tuple[bytes, int]]:
        """`read_tail` of many objects, in order: many requests at the same time. Few tails wait in memory."""
        with ThreadPoolExecutor(_TAIL_REQUESTS, thread_name_prefix="canopy-tails") as pool:
            yield from read_ahead(pool, lambda key: self.read_tail(key, count), keys, _TAIL_REQUESTS)

    def read_range(self, key: str, start: int, end: int) -> Any:
        """Bytes `start` to `end`, as a buffer."""
        return self._do(key, lambda client: client.get_range(key, start=start, end=end))

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """Every object below a key, 1,000 for each request."""
        last, pages = None, None

        def next_page(client: Any) -> Any:
            nonlocal pages
            if pages is None:
                pages = client.list(prefix or None, offset=last)
            try:
                return next(pages, ())
            except BaseError:
                pages = None  # the next try continues behind the last page
                raise

        while page := self._do(prefix, next_page):
            last = page[-1]["path"]
            for each in page:
                yield Listed(str(each["path"]), int(each["size"]), _etag(each))

    def write(self, key: str, data: Any) -> None:
        """Write an object by one request: readers see the old one or the new one."""
        self._do(key, lambda client: client.put(key, data, use_multipart=False))

    def create(self, key: str, data: bytes) -> bool:
        """Write an object by PUT with If-None-Match; False if there is one already. A server that does not know the
        condition overwrites it: True."""

        def create(client: Any) -> bool:
            try:
                client.put(key, data, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
            except (NotSupportedError, NotImplementedError):
                client.put(key, data, use_multipart=False)
            return True

        return self._do(key, create)

    def write_new(self, key: str, data: bytes) -> bool:
        """Write an object if there is none. Returns whether the object is now `data`.

        A repeat of a request whose answer was lost meets its own object: equal bytes count as written.
        """
        return self.create(key, data) or self.read(key) == data

    def replace(self, key: str, before: bytes, data: bytes) -> bool:
        """Write `data` over `before` by PUT with If-Match; False if the object is, or becomes, another one."""

        def replace(client: Any) -> bool:
            found = client.get(key)
            if (now := bytes(found.bytes())) != before:
                return now == data  # a repeat of a request whose answer was lost
            version = {name: value for name in ("e_tag", "version") if (value := found.meta[name]) is not None}
            try:
                client.put(key, data, mode=version)
            except PreconditionError:
                return False
            return True

        return self._do(key, replace)

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; one that does not exist is no error."""
        some = [*keys]

        def remove(client: Any) -> None:
            try:
                client.delete(some)
            except FileNotFoundError:  # of Google and Azure: the rest of the list may be left
                with ThreadPoolExecutor(_TAIL_REQUESTS, thread_name_prefix="canopy-remove") as pool:
                    list(pool.map(lambda key: _remove(client, key), some))

        if some:
            self._do(some[0], remove)

    def _do(self, key: str, request: Callable[[Any], Result]) -> Result:
        """The result of a request, which gets the client. Errors become one line that names the object.

        The client repeats what HTTP calls idempotent. What it does not repeat (a conditional PUT, a deletion, a body
        that ends early) is repeated here.
        """
        for attempt in itertools.count():
            try:
                result = request(self._patient if self._server in _answered else self._first)
                _answered.add(self._server)
                return result
            except (BaseError, OSError) as error:
                refused = refusal(error, self.name(key))
                if isinstance(refused, MissingObjectError):
                    _answered.add(self._server)
                is_last = attempt == _FIRST_RETRIES or _was_repeated(error)
                if is_last or not isinstance(refused, TemporaryError):
                    raise refused from error
                time.sleep(random.uniform(0.5, 1) * _WAIT_S * 2**attempt)
        raise AssertionError  # the loop ends by itself


def _remove(client: Any, key: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        client.delete(key)


def _was_repeated(error: Exception) -> bool:
    """Whether the client has already repeated the request."""
    return re.search(r"after \d+ retries", str(error)) is not None


def bare_etag(etag: str) -> str:
    """An ETag without quotes: Azure lists them so."""
    return etag.removeprefix("W/").strip('"')


def _if_match(etag: str) -> dict[str, str]:
    """The condition of a request: none without an ETag, for one that the server did not give (see `_etag`), and for a
    weak one, which fulfils no condition."""
    return {} if not etag or etag.isdecimal() or etag.startswith("W/") else {"if_match": f'"{bare_etag(etag)}"'}


def _etag(meta: Any) -> str:
    """The ETag of an object; its time in seconds if the server gives none."""
    return str(meta["e_tag"] or int(meta["last_modified"].timestamp()))


@functools.lru_cache(maxsize=64)  # a client takes 5 ms to make, and keeps its connections
def _made(url: str, retries: int, environment: Environment) -> Any:
    retry: Any = {"max_retries": retries, "backoff": _BACKOFF, "retry_timeout": _RETRY_TIMEOUT}
    scheme, separator, rest = url.partition("://")
    if not scheme.startswith("http"):  # a key may have %, # and ?, which mean something in a URL
        rest = quote(rest)
    return from_url(f"{scheme}{separator}{rest}", retry_config=retry)


def _environment() -> Environment:
    """The variables that decide where requests go."""
    prefixes = ("AWS_", "GOOGLE_", "AZURE_")
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(prefixes)))


def _client(url: str, retries: int, environment: Environment) -> Any:
    try:
        return _made(url, retries, environment)
    except (BaseError, ValueError) as error:
        raise refusal(error, url) from error
