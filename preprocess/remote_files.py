"""Files in object storage: which there are, and their bytes.

In: addresses. Out: one listing of a folder, and whole files. A file's state is its size and, in place of its time, a
number made from its ETag. Leaves requests to `remote`, and chips to `remote_chips`.
"""

import errno
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import xxhash

from preprocess.addresses import Address
from preprocess.console import UserError
from preprocess.file_patterns import paths_of
from preprocess.packed_texts import PackedTexts
from preprocess.remote import MissingObjectError, Objects, bare_etag


class State(NamedTuple):
    """Size in bytes, and the number made from the ETag, which stands for the time of a file on disk."""

    size: int
    etag_number: int


@functools.lru_cache(maxsize=1)
def list_folder(folder: Address) -> dict[str, tuple[int, str]]:
    """Size and ETag of every object below an address, by its name relative to it: one listing, which a plan uses for
    all its questions.

    The last listing is kept; `list_folder.cache_clear` before a new plan.
    """
    return {each.key: (each.size, each.etag) for each in Objects(str(folder)).list()}


def listed_state(folder: Address, name: str) -> State:
    """The state of an object below an address, as the listing says.

    Raises:
        KeyError: the listing does not have it.
    """
    size, etag = list_folder(folder)[name]
    return State(size, etag_number(etag))


def etags_of(folder: Address, paths: Iterable[str], bands: tuple[str, ...]) -> PackedTexts:
    """The ETags of each chip's files as the listing says, a line each; "" for one that is missing."""
    listing, start = list_folder(folder), f"{folder}/"

    def etag(path: str) -> str:
        return listing.get(path.removeprefix(start), (0, ""))[1]

    return PackedTexts.collect("\n".join(map(etag, paths_of(path, bands))) for path in paths)


def etag_number(etag: str) -> int:
    """A whole number of 63 bits for an ETag. Azure lists ETags without the quotes that its GET has."""
    return xxhash.xxh3_64_intdigest(bare_etag(etag).encode()) >> 1


def base_and_key(path: str) -> tuple[str, str]:
    """The bucket (for https: the host and the first folder) of an address, and the key in it."""
    scheme, _, rest = path.partition("://")
    parts = rest.split("/")
    depth = 2 if scheme.startswith("http") and len(parts) > 2 else 1
    return f"{scheme}://{'/'.join(parts[:depth])}", "/".join(parts[depth:])


def fetch(path: str, etag: str = "") -> tuple[Any, State]:
    """The bytes of a file, and their state. See `Objects.read_version`."""
    base, key = base_and_key(path)
    data, etag = Objects(base).read_version(key, etag)
    return data, State(len(data), etag_number(etag))


@functools.lru_cache(maxsize=1)
def read_labels(path: Address) -> bytes:
    """All bytes of a labels file, which is read several times, so that the rows of a large one need not be kept."""
    return bytes(fetch(str(path))[0])


def read_file(path: Address) -> Any:
    """The bytes of a file.

    Raises:
        FileNotFoundError: there is none.
    """
    try:
        return fetch(str(path))[0]
    except MissingObjectError as error:
        raise missing(path) from error


def write_file(path: Address, data: bytes) -> None:
    """Write a file by one request."""
    base, key = base_and_key(str(path))
    Objects(base).write(key, data)


def exists(path: Address) -> bool:
    """Whether there is an object at an address."""
    base, key = base_and_key(str(path))
    return bool(key) and Objects(base).size(key) is not None


def check_folder(word: str, folder: Address) -> None:
    """UserError if there is no object below an address."""
    if not list_folder(folder):
        raise UserError(f"{word}={folder}: expected a folder of TIFFs, found no object below this address.")


def missing(path: object) -> FileNotFoundError:
    """The error of a file that is not there, as a disk has it."""
    return FileNotFoundError(errno.ENOENT, "No such object", str(path))
