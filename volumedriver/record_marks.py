"""Which records of a log a request has become: noted at the very moment at which they are appended.

A mirror that sends a log's records must be able to tell which requests they are of, also of one whose execution has not come to
its end. So this is not read off the log afterwards: nothing happens between the append and the note.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class RecordMarks:
    """Of one request: the first and the last of its records; 0: none yet. What others wrote between may lie within.

    ``is_last``: the next record is its last. ``is_whole``: it has them all.
    """

    first_lsn: int = 0
    last_lsn: int = 0
    is_last: bool = False
    is_whole: bool = False

    def add(self, first_lsn: int, last_lsn: int) -> None:
        """Records have been appended for it."""
        if last_lsn >= first_lsn:
            self.first_lsn = self.first_lsn or first_lsn
            self.last_lsn, self.is_whole = last_lsn, self.is_last


_marks: ContextVar[RecordMarks | None] = ContextVar("record_marks", default=None)


@contextmanager
def marking(marks: RecordMarks) -> Iterator[None]:
    """What this task appends within is noted there."""
    token = _marks.set(marks)
    try:
        yield
    finally:
        _marks.reset(token)


def current_marks() -> RecordMarks | None:
    """Where to note what is appended now."""
    return _marks.get()
