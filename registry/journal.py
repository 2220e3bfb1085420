"""PySyncObj's journal interface on a :class:`registry.disk.Disk`: a copy of the log in RAM, every change written through. Pure.

Nothing here syncs: changes belong to the disk's open transaction, and ``RaftNode`` commits that before any message or answer
leaves. The first entry is the anchor: what the log was cut at (or the very first); its command has been applied long ago.
"""

from __future__ import annotations

from typing import Any

from pysyncobj.journal import Journal

from registry.disk import Disk, Entry
from vpool.errors import Halted

ANCHOR_INDEX = 1
ANCHOR_TERM = 0
NO_OP = b"\x01"  # pysyncobj's type byte of an empty entry

Row = tuple[bytes, int, int]  # (data, index, term), as PySyncObj has it


class DiskJournal(Journal):  # type: ignore[misc]
    """Positions in ``__getitem__``, ``deleteEntriesFrom`` and ``deleteEntriesTo`` count from the anchor, as in PySyncObj."""

    def __init__(self, disk: Disk) -> None:
        """Load; a new disk gets the anchor that all nodes begin with. Errors: ``Halted`` (log and state do not fit)."""
        self._disk = disk
        self._rows: list[Row] = [(entry.data, entry.index, entry.term) for entry in disk.entries()]
        self._term, self._vote = disk.hard_state()
        index, _ = disk.applied()
        if not self._rows and index == 0:
            self.add(NO_OP, ANCHOR_INDEX, ANCHOR_TERM)
            disk.set_applied(ANCHOR_INDEX, ANCHOR_TERM)
            index = ANCHOR_INDEX
        if not self._rows or not self._rows[0][1] <= index <= self._rows[-1][1]:
            raise Halted("the registry's log does not reach its state; restore it from another node or a backup", applied=index)
        if [row[1] for row in self._rows] != list(range(self._rows[0][1], self._rows[0][1] + len(self._rows))):
            raise Halted("the registry's log has a gap; restore it from another node or a backup", first=self._rows[0][1])

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append one entry."""
        self._rows.append((command, idx, term))
        self._disk.put_entry(Entry(idx, term, command))

    def clear(self) -> None:
        """Remove all, anchor included; the caller adds a new one."""
        if self._rows:
            self._disk.delete_entries(self._rows[0][1], self._rows[-1][1])
        self._rows = []

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803
        """Remove the entries at and behind a position."""
        cut = self._rows[entryFrom:]
        if cut:
            self._disk.delete_entries(cut[0][1], cut[-1][1])
            del self._rows[entryFrom:]

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803
        """Remove the entries before a position; the one there becomes the anchor."""
        if entryTo > 0:
            self._disk.delete_entries(self._rows[0][1], self._rows[entryTo][1] - 1)
            self._rows = self._rows[entryTo:]

    def __getitem__(self, item: Any) -> Any:
        return self._rows[item]

    def __len__(self) -> int:
        return len(self._rows)

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803
        """Term and vote, with the rest of the transaction."""
        if (term, votedForNodeId or "") != (self._term, self._vote):
            self._term, self._vote = term, votedForNodeId or ""
            self._disk.set_hard_state(self._term, self._vote)

    def getCurrentTerm(self) -> int:  # noqa: N802
        return self._term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802
        return self._vote or None

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803
        """Not kept: what is applied was committed, and the rest is learned again."""

    def getRaftCommitIndex(self) -> int:  # noqa: N802
        return self._disk.applied()[0]

    def _destroy(self) -> None:
        """The disk belongs to whoever made it."""
