"""What one registry node keeps: log, term and vote, state; changed together in one transaction.

The interface, and the one in RAM. Pure.

Everything that happens between two calls of ``commit`` is one transaction: after a power cut all of it is there or nothing.
Reads see the transaction's own changes. ``RamDisk`` is for the simulator: ``power_cut`` forgets what was not committed. The real
one is ``registry.lmdbdisk.LmdbDisk``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from registry.kv import RamView, View
from registry.membership import Membership


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the Raft log."""

    index: int
    term: int
    data: bytes  # type (1 byte), then the command


class Snapshot(Protocol):
    """The state as of one commit; stays as it is while the node goes on. To be closed soon: it pins old pages."""

    index: int  # of the last entry applied to it
    term: int
    membership: Membership | None  # in force at that entry; None: not known

    def chunk(self, after_key: bytes, limit_bytes: int) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Pairs behind a key, at least one if there is one, until the limit is passed; and whether these were the last."""

    def close(self) -> None:
        """Let go."""


class Disk(Protocol):
    """Used by one thread. Any error but ``Halted`` at opening means that the transaction is lost and the node must stop."""

    @property
    def state(self) -> View:
        """The state machine's view."""

    @property
    def incoming(self) -> View:
        """Where a snapshot from another node gathers."""

    def entries(self) -> list[Entry]:
        """The whole log, ascending; consecutive."""

    def put_entry(self, entry: Entry) -> None:
        """Write one entry."""

    def delete_entries(self, first: int, last: int) -> None:
        """Remove entries ``first`` to ``last``, both included."""

    def hard_state(self) -> tuple[int, str]:
        """(term, vote); vote "": none."""

    def set_hard_state(self, term: int, vote: str) -> None:
        """Term and vote."""

    def applied(self) -> tuple[int, int]:
        """(index, term) of the last entry applied to the state; (0, 0) on a new disk."""

    def set_applied(self, index: int, term: int) -> None:
        """Says what the state includes."""

    def members(self) -> tuple[int, Membership] | None:
        """(index of its entry, membership) of the newest that is applied; None on a disk that has never known one."""

    def set_members(self, index: int, membership: Membership) -> None:
        """Says who is a member as of an applied entry."""

    def clear_incoming(self) -> None:
        """Empty the place for snapshots."""

    def adopt_incoming(self) -> None:
        """The snapshot that has come in replaces the state."""

    def snapshot(self) -> Snapshot:
        """The state as of the last commit."""

    def commit(self) -> None:
        """Make everything since the last commit durable; when it returns, it is. Nothing to do is cheap."""

    def close(self, *, abort: bool = False) -> None:
        """Commit (or drop) what is open, and let go."""


def chunk_of(items: Iterable[tuple[bytes, bytes]], limit_bytes: int) -> tuple[list[tuple[bytes, bytes]], bool]:
    """As many items as fit, but one at least; whether that is all of them."""
    chosen: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in items:
        if chosen and size + len(key) + len(value) > limit_bytes:
            return chosen, False
        chosen.append((key, value))
        size += len(key) + len(value)
    return chosen, True


class RamSnapshot:
    """A copy."""

    def __init__(self, items: dict[bytes, bytes], index: int, term: int, membership: Membership | None) -> None:
        self.index = index
        self.term = term
        self.membership = membership
        self._items = sorted(items.items())

    def chunk(self, after_key: bytes, limit_bytes: int) -> tuple[list[tuple[bytes, bytes]], bool]:
        return chunk_of(((key, value) for key, value in self._items if key > after_key), limit_bytes)

    def close(self) -> None:
        self._items = []


_Image = tuple[
    dict[int, Entry],
    tuple[int, str],
    tuple[int, int],
    dict[bytes, bytes],
    dict[bytes, bytes],
    tuple[int, Membership] | None,
]


class RamDisk:
    """A disk in RAM that tells durable from written: an image of the last commit is what a power cut leaves."""

    def __init__(self) -> None:
        self._log: dict[int, Entry] = {}
        self._hard = (0, "")
        self._applied = (0, 0)
        self._members: tuple[int, Membership] | None = None
        self._state = RamView()
        self._incoming = RamView()
        self.commits = 0
        self._durable = self._image()
        self._dirty = False

    def _image(self) -> _Image:
        return dict(self._log), self._hard, self._applied, dict(self._state.items), dict(self._incoming.items), self._members

    def power_cut(self) -> None:
        """What the next life finds."""
        log, hard, applied, state, incoming, self._members = self._durable
        self._log, self._hard, self._applied = dict(log), hard, applied
        self._state, self._incoming = RamView(state), RamView(incoming)
        self._dirty = False

    @property
    def state(self) -> View:
        self._dirty = True
        return self._state

    @property
    def incoming(self) -> View:
        self._dirty = True
        return self._incoming

    @property
    def state_items(self) -> dict[bytes, bytes]:
        """For checks: the state as it is."""
        return self._state.items

    def entries(self) -> list[Entry]:
        return [self._log[index] for index in sorted(self._log)]

    def put_entry(self, entry: Entry) -> None:
        self._log[entry.index] = entry
        self._dirty = True

    def delete_entries(self, first: int, last: int) -> None:
        for index in range(first, last + 1):
            self._log.pop(index, None)
        self._dirty = True

    def hard_state(self) -> tuple[int, str]:
        return self._hard

    def set_hard_state(self, term: int, vote: str) -> None:
        self._hard = (term, vote)
        self._dirty = True

    def applied(self) -> tuple[int, int]:
        return self._applied

    def set_applied(self, index: int, term: int) -> None:
        self._applied = (index, term)
        self._dirty = True

    def members(self) -> tuple[int, Membership] | None:
        return self._members

    def set_members(self, index: int, membership: Membership) -> None:
        self._members = (index, membership)
        self._dirty = True

    def clear_incoming(self) -> None:
        self._incoming = RamView()
        self._dirty = True

    def adopt_incoming(self) -> None:
        self._state, self._incoming = self._incoming, RamView()
        self._dirty = True

    def snapshot(self) -> RamSnapshot:
        members = self._durable[5]
        return RamSnapshot(self._durable[3], *self._durable[2], None if members is None else members[1])

    def commit(self) -> None:
        if self._dirty:
            self._durable = self._image()
            self._dirty = False
            self.commits += 1

    def close(self, *, abort: bool = False) -> None:
        if abort:
            self.power_cut()
        else:
            self.commit()
