"""Requests that do not wait while their log is held for a hand-over, but are given back undone to whoever had them made.

Requests of other nodes are such: the owner's table must know of each whether it has been executed before the object may go.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_gives_way: ContextVar[bool] = ContextVar("gives_way", default=False)


class Held(Exception):
    """The log is held, and the request was not done: it may be made again as a whole."""


@contextmanager
def giving_way() -> Iterator[None]:
    """Requests of this task within raise ``Held`` where others wait."""
    token = _gives_way.set(True)
    try:
        yield
    finally:
        _gives_way.reset(token)


def check_not_held() -> None:
    """To be called by who would wait. Errors: ``Held``."""
    if _gives_way.get():
        raise Held


def gives_way() -> bool:
    """Whether this task is within ``giving_way``."""
    return _gives_way.get()
