"""The key-value view that the state machine works on, the one in memory, and the overlay that makes a command all or nothing.

Pure.

Keys and values are bytes; a scan is in order of keys. The view in production is ``registry.disk.LmdbView``.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Protocol


class ReadableView(Protocol):
    """What readers and commands need of a store."""

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with ``start`` <= key < ``end``, ascending. The view must not be changed before the iterator is dropped."""


class View(ReadableView, Protocol):
    """A store that can be changed."""

    def put(self, key: bytes, value: bytes) -> None:
        """Insert or replace."""

    def delete(self, key: bytes) -> None:
        """Remove; a key that is not there is fine."""


class RamView:
    """A view in memory, for tests and the simulator."""

    def __init__(self, items: dict[bytes, bytes] | None = None) -> None:
        self.items: dict[bytes, bytes] = dict(items or {})
        self._keys = sorted(self.items)

    def get(self, key: bytes) -> bytes | None:
        return self.items.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.items:
            insort(self._keys, key)
        self.items[key] = value

    def delete(self, key: bytes) -> None:
        if self.items.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key in self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, end)]:
            yield key, self.items[key]


class Overlay:
    """Changes that are kept apart from the view below until ``merge``; dropped otherwise."""

    def __init__(self, below: View) -> None:
        self._below = below
        self._changes: dict[bytes, bytes | None] = {}  # None: deleted

    def get(self, key: bytes) -> bytes | None:
        if key in self._changes:
            return self._changes[key]
        return self._below.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._changes[key] = value

    def delete(self, key: bytes) -> None:
        self._changes[key] = None

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        changed = iter(sorted(key for key in self._changes if start <= key < end))
        mine = next(changed, None)
        for key, value in self._below.scan(start, end):
            while mine is not None and mine < key:
                own = self._changes[mine]
                if own is not None:
                    yield mine, own
                mine = next(changed, None)
            if mine == key:
                own = self._changes[key]
                mine = next(changed, None)
                if own is not None:
                    yield key, own
            else:
                yield key, value
        while mine is not None:
            own = self._changes[mine]
            if own is not None:
                yield mine, own
            mine = next(changed, None)

    def merge(self) -> None:
        """Hand the changes down to the view below."""
        for key, value in self._changes.items():
            if value is None:
                self._below.delete(key)
            else:
                self._below.put(key, value)
        self._changes.clear()
