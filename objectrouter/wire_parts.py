"""Frames as tables: a message is a dataclass, its fields are parts in that order, each of which checks what it reads. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from volumedriver import Entries, Lineage, Origin, TailRecord


@dataclass(frozen=True, slots=True)
class Part:
    """How a field is written, and read: ``ValueError`` for what cannot be."""

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def typed(found: Any, *kinds: type) -> list[Any]:
    """The first fields of a list, of these types; numbers are not negative. ``ValueError``."""
    if not isinstance(found, list) or len(found) < len(kinds):
        raise ValueError("fields are missing")
    for field, kind in zip(found, kinds, strict=False):
        if type(field) is not kind or (isinstance(field, int) and field < 0):
            raise ValueError(f"{kind.__name__} expected")
    return found[: len(kinds)]


def _plain(kind: type) -> Part:
    return Part(lambda value: value, lambda found: typed([found], kind)[0])


def _real_in(found: Any) -> float:
    if type(found) not in (int, float) or not 0 <= found < math.inf:
        raise ValueError("a number expected")
    return float(found)


TEXT, NUMBER, FLAG, BYTES = _plain(str), _plain(int), _plain(bool), _plain(bytes)
REAL = Part(float, _real_in)


def word(*allowed: str) -> Part:
    """One of a few words."""

    def read(found: Any) -> str:
        if found not in allowed:
            raise ValueError("an unknown word")
        return str(found)

    return Part(lambda value: value, read)


def several(part: Part) -> Part:
    """A list of it."""

    def read(found: Any) -> tuple[Any, ...]:
        return tuple(part.read(each) for each in _listed(found))

    return Part(lambda values: [part.write(value) for value in values], read)


def optional(part: Part) -> Part:
    """It, or nil."""
    return Part(
        lambda value: None if value is None else part.write(value), lambda found: None if found is None else part.read(found)
    )


def origin_in(found: Any) -> Origin:
    """[node, incarnation, number]."""
    return Origin(*typed(found, str, int, int))


def _origin_out(origin: Origin) -> list[Any]:
    return [origin.node, origin.incarnation, origin.number]


def _listed(found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise ValueError("a list expected")
    return found


def _lineage_in(found: Any) -> Lineage:
    starts = tuple((epoch, first) for epoch, first in (typed(each, int, int) for each in _listed(found)))
    if any(one[0] >= two[0] or one[1] > two[1] for one, two in pairwise(starts)):
        raise ValueError("a lineage ascends")
    return Lineage(starts)


def _entries_out(entries: Entries) -> list[Any]:
    """By sender: its requests share what is long."""
    senders: dict[tuple[str, int], list[int]] = {}
    for origin, epoch, lsn in entries.done:
        senders.setdefault((origin.node, origin.incarnation), []).extend((origin.number, epoch, lsn))
    return [entries.since, [[node, incarnation, numbers] for (node, incarnation), numbers in senders.items()]]


def _entries_in(found: Any) -> Entries:
    since, senders = typed(found, int, list)
    done = []
    for sender in senders:
        node, incarnation, numbers = typed(sender, str, int, list)
        if len(numbers) % 3:
            raise ValueError("a number, an epoch and an LSN each")
        typed(numbers, *[int] * len(numbers))
        for at in range(0, len(numbers), 3):
            done.append((Origin(node, incarnation, numbers[at]), numbers[at + 1], numbers[at + 2]))
    return Entries(since, tuple(done))


def _run_out(run: TailRecord) -> list[Any]:
    return [run.lsn, run.count, None if run.origin is None else _origin_out(run.origin), run.payload]


def _run_in(found: Any) -> TailRecord:
    lsn, count = typed(found, int, int)
    origin, payload = found[2], found[3]
    typed([payload], bytes)
    if not lsn or not count:
        raise ValueError("records are numbered from 1")
    return TailRecord(lsn, None if origin is None else origin_in(origin), payload, count)


ORIGIN = Part(_origin_out, origin_in)
LINEAGE = Part(lambda lineage: [list(start) for start in lineage.starts], _lineage_in)
ENTRIES = Part(_entries_out, _entries_in)
RECORDS = several(Part(_run_out, _run_in))  # runs of records, as bytes of the engine


class FrameTable:
    """Messages of one protocol: kind of frame → (dataclass, its parts)."""

    def __init__(self, frames: Mapping[int, tuple[type, tuple[Part, ...]]]) -> None:
        self._frames = frames
        self._kinds = {message: kind for kind, (message, _) in frames.items()}
        for message, parts in frames.values():
            assert len(fields(message)) == len(parts), message

    def knows(self, kind: object) -> bool:
        """Whether a frame is of this protocol."""
        return kind in self._frames

    def encode(self, message: Any) -> list[Any] | None:
        """Fields of the frame; None: the message is not of this protocol."""
        kind = self._kinds.get(type(message))
        if kind is None:
            return None
        _, parts = self._frames[kind]
        return [kind, *(part.write(getattr(message, field.name)) for field, part in zip(fields(message), parts, strict=True))]

    def decode(self, kind: int, rest: list[Any]) -> Any:
        """The message; ``ValueError``, ``IndexError``, ``TypeError`` for what cannot be."""
        message, parts = self._frames[kind]
        if len(rest) < len(parts):
            raise ValueError("fields are missing")
        return message(*(part.read(found) for found, part in zip(rest, parts, strict=False)))
