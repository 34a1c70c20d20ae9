"""Compare the image names of a CSV with the image files below a folder.

In: names as people write them, a folder. Out: the file that a name means, or the reason why there is none. Leaves
reading the CSV to `labels` and opening the files to `tiff`.
"""

import functools
import itertools
import os
import posixpath
import stat
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from preprocess.addresses import Address, Location
from preprocess.console import UserError, advice
from preprocess.packed_texts import HashIndex, PackedTexts, TextBuilder
from preprocess.suffixes import PICTURES, SUFFIXES

_BLOCK = 512  # names that are looked up at a time
_FIRST = (".tif", ".tiff", ".TIF", ".TIFF")  # tried by name; other spellings are found in the folder's listing


def is_picture(name: str) -> bool:
    """Whether a file name has the suffix of a PNG or JPEG."""
    return name.lower().endswith(PICTURES)


def stem(name: str) -> str:
    """A normalised name without TIFF suffix: the same for `./a//train_0.tif`, `a/train_0/` and `a/train_0`."""
    return _without(posixpath.normpath(name), SUFFIXES)


def bare(name: str) -> str:
    """A name without a TIFF or picture suffix, with `/` for `\\`: `a\\train_0.jpg` -> `a/train_0`."""
    return _without(stem(name.replace("\\", "/")), PICTURES)


def keys(name: str) -> tuple[str, ...]:
    """Keys by which names are compared if none is exactly equal.

    A key has no surrounding spaces, no TIFF or picture suffix, `/` for `\\`, one case and one Unicode form (NFC). There
    are two keys if a picture suffix may be part of the name.
    """
    text = name.strip().replace("\\", "/")
    if text.isascii():  # in one Unicode form: a third of the time
        base = stem("/".join([part.strip() for part in text.lower().split("/")])).rstrip()
    else:
        parts = [unicodedata.normalize("NFC", part.strip()).casefold() for part in text.split("/")]
        base = unicodedata.normalize("NFC", stem("/".join(parts)).rstrip())
    short = _without(base, PICTURES).rstrip()
    return (base,) if short == base else (base, short)


def unsafe(name: str) -> str | None:
    """The reason why a name cannot be a file below the folder, or None."""
    if not name.strip():
        return "is empty"
    path = PurePosixPath(name.strip().replace("\\", "/"))
    if path.is_absolute() or path.parts[0][1:] == ":":
        return "is an absolute path"
    if ".." in path.parts:
        return "leaves the folder"
    if stem(name.strip()).rpartition("/")[2] in ("", "."):
        return "names no file"
    return None


@dataclass(kw_only=True)
class Listing:
    """Files with one of `suffixes` below a folder: `names` with suffix, in no order.

    `hidden` names begin with a dot, `dangling` ones are links without a target; both are sorted and skipped.
    """

    suffixes: tuple[str, ...] = SUFFIXES
    files: TextBuilder = field(default_factory=TextBuilder)
    hidden: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)

    @functools.cached_property
    def names(self) -> PackedTexts:
        """All that were found. None can be added afterwards."""
        return self.files.packed()

    def skipped(self) -> str:
        """A sentence about skipped entries; "" if there are none."""
        kinds = (("hidden files and folders", self.hidden), ("links without a target", self.dangling))
        counts = [f"{len(names)} {kind} (first: {names[0]})" for kind, names in kinds if names]
        return f"skipped: {' and '.join(counts)}." if counts else ""


def list_tiffs(folder: Location) -> Listing:
    """Every TIFF below `folder`; see `list_files`."""
    return list_files(folder, SUFFIXES)


def list_files(folder: Location, suffixes: tuple[str, ...]) -> Listing:
    """Every file with one of the suffixes. Links to files and folders are followed, except into a parent folder of the
    link.

    Raises:
        UserError: a folder cannot be listed.
    """
    listing = Listing(suffixes=suffixes)
    if isinstance(folder, Address):
        for name in _objects(folder):
            if name.lower().endswith(suffixes):
                (listing.hidden if name.startswith(".") or "/." in name else listing.files).append(name)
    else:
        _list(str(folder), "", (), listing)
    listing.hidden.sort()
    listing.dangling.sort()
    return listing


def chip_name(file: str) -> str:
    """The name of the chip in a file: its path without the suffix."""
    return bare(file) if is_picture(file) else stem(file)


def _list(folder: str, below: str, parents: tuple[tuple[int, int], ...], listing: Listing) -> None:
    try:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in parents:
            return
        with os.scandir(folder) as entries:  # one after another: a folder may have a million files
            folders = [entry.name for entry in entries if _take(entry, below, listing)]
    except OSError as error:
        raise UserError(
            f"{folder}: the folder cannot be listed ({error.strerror}). {advice(error)}".rstrip()
        ) from error
    for name in folders:
        _list(os.path.join(folder, name), f"{below}{name}/", (*parents, here), listing)


def _take(entry: os.DirEntry[str], below: str, listing: Listing) -> bool:
    """Add a file to the listing. True for a folder whose files are to be listed."""
    name = below + entry.name
    try:
        is_folder = entry.is_dir()
    except OSError:
        is_folder = False  # a link to itself
    if entry.name.startswith("."):
        if is_folder or entry.name.lower().endswith(listing.suffixes):
            listing.hidden.append(name)
    elif is_folder:
        return True
    elif entry.name.lower().endswith(listing.suffixes):
        dangling = entry.is_symlink() and not Path(entry.path).exists()
        (listing.dangling if dangling else listing.files).append(name)
    return False


def state_below(folder: Location, name: str) -> tuple[int, int]:
    """Size and time in ns of a file below a folder; in object storage, as the listing says, the number of its ETag."""
    if isinstance(folder, Address):
        from preprocess.remote_files import listed_state

        return listed_state(folder, name)
    status = os.stat(os.path.join(folder, name))
    return status.st_size, status.st_mtime_ns


def _objects(folder: Address) -> "dict[str, tuple[int, str]]":
    from preprocess.remote_files import list_folder

    return list_folder(folder)


def find_exactly(folder: Location, name: str) -> tuple[str, tuple[int, int]] | None:
    """(path, state) of the file with exactly this name, with or without suffix; see `state_below`. One stat if the
    first candidate exists.

    Raises:
        UserError: something with that name is not a file, or cannot be accessed.
    """
    whole, base = posixpath.normpath(name), stem(name)
    for candidate in dict.fromkeys([*([whole] if whole != base else []), *(base + suffix for suffix in _FIRST)]):
        path = os.path.join(folder, candidate)
        if isinstance(folder, Address):
            if candidate in _objects(folder):
                return path, state_below(folder, candidate)
            continue
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:  # a name too long for the file system, no permission, a link loop
            raise UserError(f"{path}: expected a readable file ({error.strerror}). {advice(error)}".rstrip()) from error
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "something else"
            raise UserError(f"{path}: expected a TIFF file, found {kind}. Rename it, or remove the chip from the CSV.")
        return path, (status.st_size, status.st_mtime_ns)
    return None


class Index:
    """Names by their keys, to find a name that is not written exactly as its file or chip."""

    def __init__(self, names: Collection[str], folder: Location | None = None, *, pictures: bool = False) -> None:
        """`folder` holds the names: a name may repeat the end of its path (`tif/a` in `chips/tif`). `pictures`: the
        names are files with the suffix of a picture, not chips whose name may end in one."""
        self.names = names if isinstance(names, PackedTexts) else PackedTexts.collect(names)
        self._key = -1 if pictures else 0
        self._places = HashIndex((keys(name)[self._key] for name in self.names), len(names))
        # Its own path and, if it is a link, the path of its target.
        folders = {str(folder)} if isinstance(folder, Address) else set()
        if isinstance(folder, Path):
            folders = {folder.absolute().as_posix(), folder.resolve().as_posix()}
        self._folders = [keys(path)[0].strip("/").split("/") for path in sorted(folders)]

    def find(self, name: str) -> list[str]:
        """All names that `name` can mean."""
        return [self.names[place] for places in self.places([name]) for place in places]

    def places(self, names: Iterable[str]) -> Iterator[list[int]]:
        """For each name the positions in `names` of all that it can mean; in blocks, a third of the time of singly."""
        left = iter(names)
        while block := list(itertools.islice(left, _BLOCK)):
            texts = [(number, text) for number, name in enumerate(block) for text in self._texts(name)]
            numbers, places = self._places.find_all([text for _, text in texts])
            found: list[dict[int, None]] = [{} for _ in block]
            for number, place, file in zip(numbers.tolist(), places.tolist(), self.names.at(places), strict=True):
                name, text = texts[number]
                if keys(file)[self._key] == text:
                    found[name][place] = None
            yield from map(list, found)

    def _texts(self, name: str) -> Iterator[str]:
        """The keys of a name, as they are and without the end of the folder."""
        for key in keys(name):
            yield key
            parts = key.split("/")
            for count in range(1, len(parts)):
                if any(parts[:count] == folder[-count:] for folder in self._folders):
                    yield "/".join(parts[count:])

    def of_last_part(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """(name, other) pairs in which just one other has the same last part, in any folder."""

        def last_part(name: str) -> str:
            return keys(name)[self._key].rpartition("/")[2]

        places = HashIndex(map(last_part, self.names), len(self.names))
        pairs = []
        for name in names:
            ends = [key.rpartition("/")[2] for key in keys(name)]
            found = [(end, self.names[place]) for end in ends for place in places.find(end)]
            others = [other for end, other in found if last_part(other) == end]
            if len(others) == 1:
                pairs.append((name, others[0]))
        return pairs


def difference(name: str, file: str) -> str:
    """How a name differs from the name of its file, in words."""
    reasons = []
    text = name.strip()
    if text != name:
        reasons.append("spaces around it")
    if "\\" in text and "\\" not in file:
        reasons.append("backslashes")
    text = posixpath.normpath(text.replace("\\", "/"))
    if is_picture(text) and not is_picture(file):
        reasons.append("a picture's suffix")
    one, other = bare(text).split("/"), (bare if is_picture(file) else stem)(file).split("/")
    if len(one) > len(other):
        reasons.append("DATA's own folder in front")
    ours, theirs = "/".join(one[-len(other) :]), "/".join(other)
    if ours != theirs:
        same = unicodedata.normalize("NFC", ours) == unicodedata.normalize("NFC", theirs)
        reasons.append("another Unicode form" if same else "another case")
    return ", ".join(reasons) or "another suffix"


def _without(name: str, suffixes: tuple[str, ...]) -> str:
    if not (lower := name.lower()).endswith(suffixes):
        return name
    return next(name[: -len(suffix)] for suffix in suffixes if lower.endswith(suffix))
