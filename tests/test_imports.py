"""What the test files import of each other: nothing. What two of them need is in tests/helpers."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent


def imports(path: Path) -> Iterator[str]:
    """The names of all modules that a file imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_no_file_imports_a_test_file_or_conftest() -> None:
    wrong = [
        (str(path.relative_to(TESTS)), name)
        for path in TESTS.rglob("*.py")
        for name in imports(path)
        if name.split(".")[-1].startswith(("test_", "conftest"))
    ]
    assert wrong == []
