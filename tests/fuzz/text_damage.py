"""Random damage to texts such as CSVs and JSON lines: characters, lines, encodings.

In: bytes and a random generator. Out: the changed bytes, and one line that says what was done.
"""

import random

# Characters that change the meaning of a CSV.
ODD = (
    *'",;|\t \'\\\n\r\0\x0b\x0c\x1b\x07\u00a0\u2028\u202e\ufeff\u0000=#[]{}', "\r\n", '""', "\r\r", "nan", "NaN",
    "None", ", ", '"\n', "\n\n", "ä", "a\u0308", "..", "/",
)  # fmt: skip
ENCODINGS = ("utf-16", "utf-16-le", "latin-1", "cp1252", "utf-32", "utf-7")


def damage_character(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """One character put in, or every character of a kind replaced."""
    text = data.decode(errors="surrogateescape")
    at, odd = rng.randrange(len(text) + 1), rng.choice(ODD)
    skip = rng.choice((0, 0, 1))
    changed = text[:at] + odd + text[at + skip :]
    if rng.random() < 0.15 and text:
        old = rng.choice((",", " ", '"', "\n", "\r\n"))
        changed = text.replace(old, odd)
        return changed.encode(errors="surrogateescape"), f"every {old!r} is {odd!r}"
    return changed.encode(errors="surrogateescape"), f"{odd!r} at {at}, in place of {skip}"


def damage_lines(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """A line removed, twice, moved or cut."""
    lines = data.splitlines(keepends=True) or [b""]
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    what = rng.choice(("removed", "twice", "moved", "shorter"))
    if what == "removed":
        del lines[one]
    elif what == "twice":
        lines.insert(other, lines[one])
    elif what == "moved":
        lines[one], lines[other] = lines[other], lines[one]
    else:
        lines[one] = lines[one].partition(b",")[0] + b"\n"
    return b"".join(lines), f"line {one} {what} (line {other})"


def damage_encoding(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """The text in another encoding."""
    name = rng.choice(ENCODINGS)
    return data.decode(errors="replace").encode(name, errors="replace"), f"as {name}"
