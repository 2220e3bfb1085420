"""What an image can do, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol


class Source(AbstractContextManager["Source"], Protocol):
    """An image that is read. ``read`` may be called from several threads."""

    size: int  # bytes that a guest sees
    description: str  # for people
    fingerprint: str  # of the content, as far as that can be told without reading all of it; "" if it cannot be told

    def extents(self, offset: int) -> Iterator[tuple[int, int]]:
        """(Offset, length) of what may be other than zeros, from ``offset`` on, ascending."""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes within the size."""

    def is_unchanged(self) -> bool:
        """Whether its content is what it was when it was opened, as far as ``fingerprint`` can tell."""


class Target(AbstractContextManager["Target"], Protocol):
    """An image that is written, beginning with all zeros. Leaving the block without ``finish`` keeps what is there."""

    def write(self, offset: int, data: bytes) -> None:
        """From several threads, on ranges that do not overlap."""

    def flush(self) -> None:
        """Everything written before is durable when it returns."""

    def finish(self) -> None:
        """The image is complete: it gets its name, durably."""
