"""What a node keeps beside the log that it has of an object: whose log it is, which epoch wrote what, who was answered what.

A node has one log of an object at most: the one it serves or served, the copy it keeps for a peer, or what a hand-over or a steal
is staging; physically they are the same segments. *Marks* say what it counts as (``log_to_open``, ``fate_of_log``). One file per
object, replaced whole: MessagePack, docs/formats/cluster.md has the table.

What was executed is written where the log's end is known: when a node stops in order, and when a hand-over has sent it. Where it
does not tell of the epoch just before, it is forgotten at the next opening: flushes of what older epochs acknowledged then fail
as lost, and so do writes that were waiting. It is never the other way round: nothing lost is confirmed, nothing is done twice.

Blocks; for a thread. Safe to be called by several.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgpack
import structlog

from volumedriver.executed import Entries, parted
from volumedriver.local_logs import StagedMark
from volumedriver.tail import Lineage, Origin
from vpool.durable import replace_file
from vpool.errors import Corrupt

log = structlog.get_logger()

_VERSION = 2

NO_LINEAGE, NOTHING_EXECUTED = Lineage(), Entries()


@dataclass(frozen=True, slots=True)
class StoreMark:
    """Of a log that is kept for its owner (DTL): see ``Kept``."""

    fenced: int
    epoch: int
    session: int
    trimmed_through: int


@dataclass(frozen=True, slots=True)
class Notes:
    """As of the last change.

    Attributes:
        epochs: it is the object's log at these: the one that is served, and, before ``NewEpoch`` is submitted, the one after.
        staged: it is what a hand-over or a steal has brought, as far as it has come.
        own_end_lsn: where the log ended before something was staged behind it; 0: nothing was here.
        store: it is kept for its owner.
        executed: what was executed, complete as of ``kept``.
        kept: (epoch, last LSN) at which ``executed`` is complete; None: it is not.
    """

    epochs: frozenset[int] = frozenset()
    staged: StagedMark | None = None
    own_end_lsn: int = 0
    store: StoreMark | None = None
    lineage: Lineage = NO_LINEAGE
    executed: Entries = NOTHING_EXECUTED
    kept: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """As of the beginning of an epoch."""

    lineage: Lineage
    executed: Entries


class LogNotes:
    """A directory of them; made when something is first written."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.RLock()

    def read(self, object_id: str) -> Notes | None:
        """What is noted; None: nothing ever was. Errors: ``Corrupt`` (it cannot be read: nobody may guess)."""
        path = self._directory / object_id
        try:
            return _decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, IndexError, msgpack.exceptions.UnpackException) as error:
            raise Corrupt(
                f"what is noted beside the local log cannot be read: {error}; without the file the log counts as this node's",
                path=str(path),
            ) from None

    def change(self, object_id: str, how: Callable[[Notes], Notes]) -> Notes:
        """Replace what is noted; durable on return. Errors: ``Corrupt``, ``OSError``."""
        with self._lock:
            before = self.read(object_id)
            after = how(before or Notes())
            if after != before:
                replace_file(self._directory / object_id, _encode(after))
            return after

    def opened(self, object_id: str, epoch: int, first_lsn: int) -> Notes:
        """An epoch begins; its log is the object's. Durable on return. Errors: ``Corrupt``, ``OSError``."""

        def opened(notes: Notes) -> Notes:
            lineage = notes.lineage.with_epoch(epoch, first_lsn)
            return replace(notes, epochs=frozenset({epoch}), staged=None, own_end_lsn=0, store=None, lineage=lineage)

        return self.change(object_id, opened)

    def begin(self, object_id: str, epoch: int, first_lsn: int, log_id: str = "") -> Known:
        """An epoch begins to be served to other nodes; durable on return. Errors: ``Corrupt``, ``OSError``.

        ``log_id``: of a file, the log that it is in, whose lineage is the file's; what was executed may have come with it.
        """
        found: list[Known] = []
        of_log = self.read(log_id) if log_id and log_id != object_id else None

        def begun(notes: Notes) -> Notes:
            if of_log is not None and (epoch, first_lsn) in of_log.lineage.starts:
                notes = _of_file(notes, of_log, object_id, epoch)
            starts, kept = notes.lineage.starts, notes.kept
            was_opened = (epoch, first_lsn) in starts  # noted when the log was opened, as were all before
            if not was_opened and (not starts or starts[-1][0] != epoch - 1):
                starts, kept = (), None
            lineage = Lineage(starts).with_epoch(epoch, first_lsn)
            # Behind the end that was noted the log may have got marks, which change nothing, but must not have lost anything.
            is_whole = kept is not None and kept[0] == epoch - 1 and kept[1] < first_lsn
            entries = notes.executed if is_whole else Entries(epoch)
            found.append(Known(lineage, entries))
            return replace(notes, lineage=lineage, executed=entries, kept=None)

        self.change(object_id, begun)
        return found[0]

    def files(self, log_id: str, epoch: int, first_lsn: int) -> tuple[Lineage, Entries]:
        """Lineage of a log of files that is served, and what came with it of its files' tables. Errors: as ``read``."""
        notes = self.read(log_id) or Notes()
        kept = notes.kept
        is_whole = kept is not None and kept[0] == epoch - 1 and kept[1] < first_lsn
        return notes.lineage.with_epoch(epoch, first_lsn), notes.executed if is_whole else Entries(epoch)

    def end(self, object_id: str, lineage: Lineage, executed: Entries, epoch: int, end_lsn: int) -> None:
        """The epoch is over in order: nothing is executed any more, and the log ends at ``end_lsn``. Errors: as ``begin``."""
        self.change(object_id, lambda notes: replace(notes, lineage=lineage, executed=executed, kept=(epoch, end_lsn)))

    def stored(self) -> list[str]:
        """Objects whose log is kept for another node. What cannot be read is no reason not to start: it is told, and left."""
        try:
            names = [name for name in os.listdir(self._directory) if not name.startswith(".")]
        except FileNotFoundError:
            return []
        return [name for name in sorted(names) if self._is_stored(name)]

    def _is_stored(self, object_id: str) -> bool:
        try:
            notes = self.read(object_id)
        except (Corrupt, OSError) as error:
            log.error("notes_not_read", object=object_id, reason=str(error))
            return False
        return notes is not None and notes.store is not None

    def forget(self, object_id: str) -> None:
        """There is no log of it here any more."""
        with self._lock:
            (self._directory / object_id).unlink(missing_ok=True)


def _of_file(notes: Notes, of_log: Notes, object_id: str, epoch: int) -> Notes:
    """What is noted of a file, with what its log knows better."""
    if notes.kept is not None and notes.kept[0] == epoch - 1:  # this very node has served it until now
        return replace(notes, lineage=of_log.lineage)
    executed = parted(of_log.executed).get(object_id, Entries(of_log.executed.since))
    return replace(notes, lineage=of_log.lineage, executed=executed, kept=of_log.kept)


def _encode(notes: Notes) -> bytes:
    staged, store = notes.staged, notes.store
    packed = msgpack.packb(
        [
            _VERSION,
            sorted(notes.epochs),
            None if staged is None else [staged.epoch, staged.attempt, staged.complete],
            notes.own_end_lsn,
            None if store is None else [store.fenced, store.epoch, store.session, store.trimmed_through],
            notes.lineage.starts,
            notes.executed.since,
            [[each.node, each.incarnation, each.number, epoch, lsn] for each, epoch, lsn in notes.executed.done],
            notes.kept,
        ],
        use_bin_type=True,
    )
    assert isinstance(packed, bytes)
    return packed


def _decode(data: bytes) -> Notes:
    fields: list[Any] = msgpack.unpackb(data, raw=False)
    if fields[0] != _VERSION:
        raise ValueError(f"version {fields[0]}")
    _, epochs, staged, own_end_lsn, store, starts, since, done, kept = fields
    return Notes(
        frozenset(int(epoch) for epoch in epochs),
        None if staged is None else StagedMark(int(staged[0]), None if staged[1] is None else int(staged[1]), bool(staged[2])),
        int(own_end_lsn),
        None if store is None else StoreMark(*(int(number) for number in store)),
        Lineage(tuple((int(epoch), int(first)) for epoch, first in starts)),
        Entries(
            int(since),
            tuple((Origin(str(node), int(life), int(number)), int(epoch), int(lsn)) for node, life, number, epoch, lsn in done),
        ),
        None if kept is None else (int(kept[0]), int(kept[1])),
    )
