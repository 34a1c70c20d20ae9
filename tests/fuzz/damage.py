"""Random damage to the files of a folder.

In: a folder as a dictionary (relative path -> bytes), and a random generator. Out: the changed entries, and one line
per operation. Leaves writing them and judging the result to the kinds (`stores`, `tiffs`, `runs`, `csvs`).
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Rng = random.Random


@dataclass(frozen=True)
class Special:
    """What replaces a file: "missing", "folder", "fifo" or "link" (to `target`)."""

    kind: str
    target: str = ""


Content = bytes | Special
Tree = dict[str, Content]


def read_tree(folder: Path) -> dict[str, bytes]:
    """Relative path -> bytes of every file below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def write_entry(folder: Path, name: str, content: Content) -> None:
    """Make one entry of the folder equal to `content`, whatever it was before."""
    path = folder / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif not isinstance(content, bytes) or path.is_symlink() or path.is_fifo():
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content.kind == "folder":
        path.mkdir()
    elif content.kind == "fifo":
        os.mkfifo(path)
    elif content.kind == "link":
        path.symlink_to(content.target)


def _span(rng: Rng, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + int(2 ** rng.uniform(0, 12)))


def _flip(rng: Rng, data: bytes) -> tuple[bytes, str]:
    changed = bytearray(data)
    places = [(rng.randrange(len(data)), rng.randrange(8)) for _ in range(rng.choice((1, 1, 1, 2, 3, 8)))]
    for byte, bit in places:
        changed[byte] ^= 1 << bit
    return bytes(changed), f"flip bits {', '.join(f'{byte}.{bit}' for byte, bit in places)}"


def _set(rng: Rng, data: bytes) -> tuple[bytes, str]:
    changed, start = bytearray(data), rng.randrange(len(data))
    values = rng.randbytes(rng.choice((1, 1, 2, 4, 8)))[: len(data) - start]
    changed[start : start + len(values)] = values
    return bytes(changed), f"set bytes from {start} to {values.hex()}"


def _cut(rng: Rng, data: bytes) -> tuple[bytes, str]:
    keep = rng.choice((0, rng.randrange(len(data)), rng.randrange(len(data)), len(data) - 1))
    return data[:keep], f"truncate to {keep} of {len(data)} bytes"


def _fill(value: int) -> Callable[[Rng, bytes], tuple[bytes, str]]:
    def fill(rng: Rng, data: bytes) -> tuple[bytes, str]:
        start, end = _span(rng, data)
        return data[:start] + bytes([value]) * (end - start) + data[end:], f"bytes {start} to {end} = {value:#x}"

    return fill


def _append(rng: Rng, data: bytes) -> tuple[bytes, str]:
    more = rng.choice((bytes(rng.randint(1, 64)), rng.randbytes(rng.randint(1, 64)), data[-rng.randint(1, 64) :]))
    return data + more, f"append {more.hex()}"


def _duplicate(rng: Rng, data: bytes) -> tuple[bytes, str]:
    start, end = _span(rng, data)
    return data[:end] + data[start:], f"bytes {start} to {end} twice"


def _lose(rng: Rng, data: bytes) -> tuple[bytes, str]:
    start, end = _span(rng, data)
    return data[:start] + data[end:], f"bytes {start} to {end} removed"


def _move(rng: Rng, data: bytes) -> tuple[bytes, str]:
    start, end = _span(rng, data)
    other = rng.randrange(len(data) - (end - start) + 1)
    return data[:other] + data[start:end] + data[other + end - start :], f"bytes {start} to {end} copied to {other}"


BYTE_OPERATIONS = (_flip, _flip, _set, _cut, _fill(0), _fill(255), _append, _duplicate, _lose, _move)


def damage_bytes(rng: Rng, data: bytes) -> tuple[bytes, str]:
    """One random operation on a file's bytes."""
    if not data:
        return _append(rng, data)
    return rng.choice(BYTE_OPERATIONS)(rng, data)


def special(rng: Rng, names: list[str]) -> Special:
    """A folder, a FIFO or a link in place of a file."""
    kind = rng.choice(("folder", "fifo", "link", "link", "link"))
    targets = ("/dev/null", "/dev/zero", "nowhere", "itself", *(names and [rng.choice(names)]))
    return Special(kind, rng.choice(targets) if kind == "link" else "")


def _nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [node for key, member in items for node in [(*path, key), *_nodes(member, (*path, key))]]


def _other_value(rng: Rng, value: Any) -> Any:
    common: list[Any] = [None, "", "nan", [], {}, True, 0, -1, float("nan"), float("inf")]
    if isinstance(value, bool):
        return rng.choice([not value, *common])
    if isinstance(value, (int, float)):
        near = [value + 1, value - 1, value * 2, -value, value + 0.5, float(value), str(value), value * 10 + 1]
        return rng.choice([*near, *near, 2**31, 2**63, -(2**63), 10**9, 10**30, 1e308, *common])
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        odd = rng.choice(("a", "0", "/", "\n", "\0", "\x1b[2J", "\u202e", "ä", "9", ","))
        other = value[:at] + odd + value[at:]
        return rng.choice(
            [other, other, value[:at] + odd + value[at + 1 :], value[:at], value.upper(), [value], *common]
        )
    if isinstance(value, list) and value:
        shuffled = rng.sample(value, len(value))
        return rng.choice([value[:-1], value[1:], [*value, value[-1]], value[::-1], shuffled, *common])
    if isinstance(value, dict) and value:
        return rng.choice([{**value, "more": 1}, {**value, "more": 1}, list(value), *common])
    return rng.choice(common)


def damage_json(rng: Rng, data: bytes) -> tuple[bytes, str]:
    """One edit after which the text is still JSON: a value changed or exchanged, a key removed, added or renamed."""
    value = json.loads(data)
    nodes = _nodes(value)
    if not nodes:
        return b"[1]", "JSON is [1]"
    path = rng.choice(nodes)
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    key, where = path[-1], ".".join(str(part) for part in path)
    if rng.random() < 0.15:
        del inside[key]
        what = "removed"
    elif isinstance(inside, dict) and rng.random() < 0.05:
        inside[f"{key}_"] = inside.pop(key)
        what = "renamed"
    elif rng.random() < 0.1:
        other = rng.choice(nodes)
        source = value
        for part in other:
            source = source[part]
        inside[key] = json.loads(json.dumps(source))
        what = f"= the value of {'.'.join(str(part) for part in other)}"
    else:
        inside[key] = _other_value(rng, inside[key])
        what = f"= {json.dumps(inside[key])[:80]}"
    return json.dumps(value, indent=2).encode(), f"JSON {where} {what}"
