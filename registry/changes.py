"""Which keys of the state changed at which applied index: what an export of the changes since the last one reads.

One entry per commit and changed key, written with the change in the same transaction, oldest entries dropped beyond
``ENTRIES_MAX``. Whoever asks for changes since an index before the *floor* has to read the whole state. The log belongs to
this node's database alone; it is not replicated, and is begun anew whenever it does not reach up to what the state includes
(another program has written meanwhile, or a snapshot has come in). Format: docs/formats/registry.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Protocol

from registry.codec import pack, unpack
from registry.kv import ReadableView, View

ENTRIES_MAX = 1 << 18
KEY_RANGE = b"changes"  # in the database ``raft``

# What belongs to one life of a node (handles, leases, sessions) or of the cluster (members, tokens, certificates taken back). It
# says nothing about the vPool's content, and what is rebuilt from an export must not believe it.
TRANSIENT = frozenset(b"GHKNQSTW")

_u64 = struct.Struct(">Q")


def is_lasting(key: bytes) -> bool:
    """Whether a key of the state outlives the nodes' lives, and so belongs into an export."""
    return key[0] not in TRANSIENT


class CountedView(View, Protocol):
    """A view that knows how many entries it has."""

    def count(self) -> int:
        """Entries."""


class TrackingView:
    """The state's view; notes the keys that are changed through it."""

    def __init__(self, below: View, keys: set[bytes]) -> None:
        self._below = below
        self._keys = keys

    def get(self, key: bytes) -> bytes | None:
        return self._below.get(key)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._below.scan(start, end)

    def put(self, key: bytes, value: bytes) -> None:
        self._note(key)
        self._below.put(key, value)

    def delete(self, key: bytes) -> None:
        self._note(key)
        self._below.delete(key)

    def _note(self, key: bytes) -> None:
        if is_lasting(key):
            self._keys.add(key)


def changes_range(sealed_range: bytes | None) -> tuple[int, int]:
    """(floor, through): changes at indexes beyond ``floor`` are known, up to ``through``."""
    if sealed_range is None:
        return 0, -1
    floor, through = unpack(sealed_range)
    return int(floor), int(through)


def begin(raft: View, index: int) -> None:
    """Changes are known from ``index`` on; the caller has emptied the log of them."""
    raft.put(KEY_RANGE, pack([index, index]))


def note(changes: CountedView, raft: View, index: int, keys: set[bytes]) -> None:
    """Add the keys that a commit at ``index`` changes, and drop what is beyond the limit."""
    floor, _ = changes_range(raft.get(KEY_RANGE))
    for key in sorted(keys):
        changes.put(_u64.pack(index) + key, b"")
    over = changes.count() - ENTRIES_MAX
    if over > 0:
        floor = _drop(changes, min(over, 2 * len(keys) + 16), floor)
    raft.put(KEY_RANGE, pack([floor, index]))


def keys_since(changes: ReadableView, since: int, index: int) -> Iterator[bytes]:
    """The keys that changed beyond ``since`` and up to ``index``, each once, in order of their first change."""
    seen: set[bytes] = set()
    for entry, _ in changes.scan(_u64.pack(since + 1), _u64.pack(index + 1)):
        key = entry[8:]
        if key not in seen:
            seen.add(key)
            yield key


def _drop(changes: CountedView, entries: int, floor: int) -> int:
    oldest = []
    for key, _ in changes.scan(b"", b"\xff" * 9):
        oldest.append(key)
        if len(oldest) == entries:
            break
    for key in oldest:
        changes.delete(key)
    return max(floor, _u64.unpack_from(oldest[-1])[0]) if oldest else floor
