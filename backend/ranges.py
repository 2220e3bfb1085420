"""Ranges of bytes as HTTP writes them (RFC 9110, 14). Pure."""

from __future__ import annotations

import re

from vpool.errors import Unavailable

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def range_header(start: int, length: int | None) -> str:
    """The value of ``Range`` (RFC 9110, 14.1.2) for a part that is not empty."""
    return f"bytes={start}-" if length is None else f"bytes={start}-{start + length - 1}"


def cut_to_range(data: bytes, content_range: str | None, start: int, length: int | None, **details: object) -> bytes:
    """The part that was asked for, from what came: a store may ignore ``Range`` and answer with the whole object.

    Raises:
        Unavailable: another part came.
    """
    if content_range is None:
        return data[start:] if length is None else data[start : start + length]
    match = _CONTENT_RANGE.fullmatch(content_range)
    if not match or int(match[1]) != start or (length is not None and len(data) > length):
        raise Unavailable("the store answered with another part", **details, wanted=start, got=content_range)
    wanted = None
    if match[3] != "*":
        wanted = int(match[3]) - start if length is None else min(length, int(match[3]) - start)
    if int(match[2]) + 1 - start != len(data) or (wanted is not None and len(data) != wanted):
        raise Unavailable(
            "the store answered with less than the part", **details, wanted=wanted, got=content_range, bytes=len(data)
        )
    return data
