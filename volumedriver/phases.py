"""Where the time of a request goes when it has to wait: noted by whoever waits, asked for by whoever answers the request.

A task notes for itself, in its context: nothing is handed along the way of a request, and one that never waits pays nothing.
"""

from __future__ import annotations

from collections import deque
from contextvars import ContextVar
from enum import StrEnum
from time import perf_counter_ns
from types import TracebackType

NOTES_MAX = 32  # a task that nobody asks keeps no more


class Phase(StrEnum):
    """What a request waits for."""

    OPENING = "opening"  # the object was not open yet
    ROOM = "room"  # the write cache is at its hard limit
    DELAY = "delay"  # above the soft limit writes are slowed
    BACKEND = "backend"  # data or map that are not here
    LEASE = "lease"  # this node may not answer: the registry has not confirmed lately that it serves
    OWNER = "owner"  # another node owns the object: the way there and back, and what it waits for itself


_notes: ContextVar[deque[tuple[Phase, int, int]]] = ContextVar("phases_of_requests")


class Waiting:
    """``with Waiting(phase):`` around a wait; may be nested, the outer one then counts the inner one's time too."""

    __slots__ = ("_began_ns", "_phase")

    def __init__(self, phase: Phase) -> None:
        self._phase = phase
        self._began_ns = 0

    def __enter__(self) -> None:
        self._began_ns = perf_counter_ns()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        notes = _notes.get(None)
        if notes is None:
            notes = deque(maxlen=NOTES_MAX)
            _notes.set(notes)
        notes.append((self._phase, self._began_ns, perf_counter_ns()))


def waited_since(began_ns: int) -> dict[Phase, float]:
    """Seconds by phase that this task has waited since a moment of ``perf_counter_ns``; forgets all notes."""
    notes = _notes.get(None)
    if notes is None:
        return {}
    seconds: dict[Phase, float] = {}
    for phase, began, ended in notes:
        if began >= began_ns:
            seconds[phase] = seconds.get(phase, 0.0) + (ended - began) / 1e9
    notes.clear()
    return seconds
