"""The fenced code blocks of README and docs, with the marks of those that are not run."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
_FENCE = re.compile(r"^( *)```(\w*)$")


@dataclass(frozen=True)
class Block:
    """One code block. `reason` is why it is not run, or "" if it is run. `line` is the line of its first fence."""

    page: Path
    line: int
    language: str
    lines: tuple[str, ...]
    reason: str

    @property
    def where(self) -> str:
        """For the name of a test."""
        return f"{self.page.name}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """All code blocks of a page, in order."""
    blocks, inside, start, language, reason = [], False, 0, "", ""
    content: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if inside and fence:
            blocks.append(Block(page, start, language, tuple(content), reason))
            inside, reason = False, ""
        elif inside:
            content.append(line)
        elif fence:
            inside, start, language, content = True, number, fence[2], []
        elif mark := NOT_RUN.match(line):
            reason = mark[1]
        elif line.strip():
            reason = ""
    return blocks


def commands(block: Block) -> list[str]:
    """The command lines of a block, without comments; a backslash joins a line to the next."""
    text = "\n".join(block.lines).replace("\\\n", " ")
    lines = [line.split("  #")[0].strip() for line in text.split("\n")]
    return [line for line in lines if line and not line.startswith("#")]
