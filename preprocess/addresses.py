"""Addresses in object storage (`s3://bucket/prefix`) beside paths on disk.

In: texts from settings. Out: a `Path`, or an `Address`, which has a path's methods for names but none that touches a
disk. So a type checker finds every place that would open an address as a file. Leaves requests to `remote`.
"""

from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias


class Address(PurePosixPath):
    """An address such as `s3://bucket/chips`. `/`, `name`, `suffix` and `parent` work as for a path.

    Each empty part is left out, as in a path: `s3://bucket//a` is `s3://bucket/a`.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        return str(self)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema  # here: worker processes have no settings

        return core_schema.is_instance_schema(cls)


Location: TypeAlias = Path | Address


def is_url(path: str | Path | Address) -> bool:
    """Whether a path is an address in object storage."""
    return "://" in str(path)


def absolute(path: Location) -> Location:
    """The same place for processes in another folder."""
    return path.absolute() if isinstance(path, Path) else path


def location(path: str | Path | Address) -> Location:
    """A text as the address or the path that it is."""
    return Address(str(path)) if is_url(path) else Path(path)
