"""What is asked of an object, and what its owner knows of it: the payload of requests and answers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from objectrouter.requests import RequestKind

PART_BYTES = 1 << 20  # the most that one request reads or writes
OPERATIONS: dict[str, tuple[RequestKind, tuple[type, ...]]] = {
    "read": (RequestKind.READ, (int, int)),
    "attributes": (RequestKind.READ, ()),
    "write": (RequestKind.WRITE, (int, bytes)),
    "zero": (RequestKind.WRITE, (int, int)),
    "truncate": (RequestKind.WRITE, (int,)),
    "flush": (RequestKind.FLUSH, ()),
}


@dataclass(frozen=True, slots=True)
class Operation:
    """A request's payload.

    ``read(offset, length)``, ``attributes()``, ``write(offset, data)``, ``zero(offset, length)``, ``truncate(size)`` or
    ``flush()``.
    """

    name: str
    arguments: tuple[Any, ...] = ()

    @property
    def kind(self) -> RequestKind:
        """What the protocols tell apart."""
        return OPERATIONS[self.name][0]


@dataclass(frozen=True, slots=True)
class Attributes:
    """What the owner knows of an object's content."""

    size: int  # bytes
    mtime_ns: int
    ctime_ns: int
    allocated: int | None  # bytes; None: not known
