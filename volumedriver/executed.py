"""Which requests an object's log has executed already, so that one sent again is answered and not done again. Pure.

A request is executed at most once if whoever owns the object knows what every owner before did. So the table goes where the log
goes: the records carry their origins, what is trimmed leaves its entries behind, and a hand-over sends the whole. A sender says
with each request which of its numbers are answered; below that nothing is kept. It may have ``WINDOW`` numbers open at most.

Reads and flushes are not in it: to do them again is harmless. Where the log was lost the table is, too: ``since`` says from which
epoch on it knows everything, and a write that may have been executed before is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from volumedriver.tail import Lineage, Origin, TailRecord

WINDOW = 4096
FORMER_MAX = 64  # epochs of former logs that are kept: who has not flushed for longer is told that something may be lost


@dataclass(frozen=True, slots=True)
class Entries:
    """The table as it is kept beside a log and sent with it."""

    since: int = 0  # nobody knows what was executed before this epoch: the log was lost
    # (who asked, epoch and LSN of the record). A negative LSN: of the first of several, all of which a log may have or not.
    done: tuple[tuple[Origin, int, int], ...] = ()


def joined(since: int, tables: Mapping[str, Entries]) -> Entries:
    """The tables of all files of a log as one: senders are named ``file/node``, and ``file/`` says since when a table is whole.

    ``since``: of the files that have none.
    """
    done = []
    for file, entries in tables.items():
        done.append((Origin(f"{file}/", 0, 0), entries.since, 0))
        done += [(replace(origin, node=f"{file}/{origin.node}"), epoch, lsn) for origin, epoch, lsn in entries.done]
    return Entries(since, tuple(done))


def parted(entries: Entries) -> dict[str, Entries]:
    """The reverse: the tables by file."""
    since: dict[str, int] = {}
    done: dict[str, list[tuple[Origin, int, int]]] = {}
    for origin, epoch, lsn in entries.done:
        file, _, node = origin.node.partition("/")
        if node or origin.number:
            done.setdefault(file, []).append((replace(origin, node=node), epoch, lsn))
        else:
            since[file] = epoch
    return {file: Entries(since.get(file, entries.since), tuple(done.get(file, ()))) for file in since.keys() | done.keys()}


@dataclass(slots=True)
class _Sender:
    incarnation: int
    lowest: int = 1  # below this everything has been answered
    done: dict[int, tuple[int, int]] = field(default_factory=dict)  # number -> (epoch, LSN)


class Executed:
    """The table of one object. Bounded by ``WINDOW`` per node."""

    def __init__(self, entries: Entries | None = None, lineage: Lineage | None = None, end_lsn: int = 0) -> None:
        """From ``entries``, as far as the log has the records: entries may be of records that have been cut off since."""
        entries = entries or Entries()
        self.since = entries.since
        self.former: dict[
            int, int
        ] = {}  # epoch -> LSN: of logs that a file was in before, and all of it through this LSN came along
        self._senders: dict[str, _Sender] = {}
        for origin, epoch, lsn in entries.done:
            if not origin.node:
                self.former[epoch] = lsn
            elif lineage is not None and lineage.holds(epoch, abs(lsn), end_lsn):
                self.note(origin, epoch, lsn)

    def record_of(self, origin: Origin) -> tuple[int, int] | None:
        """(epoch, LSN) of a request's record; None if it has not been executed as far as is known."""
        sender = self._senders.get(origin.node)
        if sender is None or sender.incarnation != origin.incarnation:
            return None
        return sender.done.get(origin.number)

    def is_over(self, origin: Origin) -> bool:
        """Whether the sender has had its answer, or has begun another life: the request is a late duplicate."""
        sender = self._senders.get(origin.node)
        if sender is None or sender.incarnation < origin.incarnation:
            return False
        return sender.incarnation > origin.incarnation or origin.number < sender.lowest

    def fits(self, origin: Origin) -> bool:
        """Whether the sender keeps to its window."""
        sender = self._senders.get(origin.node)
        lowest = sender.lowest if sender is not None and sender.incarnation == origin.incarnation else 1
        return origin.number < lowest + WINDOW

    def note(self, origin: Origin, epoch: int, lsn: int) -> None:
        """A request has been executed."""
        sender = self._life(origin.node, origin.incarnation)
        if sender is not None and origin.number >= sender.lowest:
            sender.done[origin.number] = (epoch, lsn)

    def note_records(self, records: Iterable[TailRecord], lineage: Lineage) -> None:
        """Everything that these records are the execution of."""
        for record in records:
            if record.origin is not None:
                self.note(record.origin, lineage.epoch_at(record.lsn), record.lsn)

    def settle(self, node: str, incarnation: int, lowest: int) -> None:
        """A sender has had the answers to all numbers below ``lowest``."""
        sender = self._life(node, incarnation)
        if sender is not None and lowest > sender.lowest:
            sender.lowest = lowest
            for number in [number for number in sender.done if number < lowest]:
                del sender.done[number]

    def entries(self) -> Entries:
        """What there is to keep or to send."""
        done = tuple(
            (Origin(node, sender.incarnation, number), epoch, lsn)
            for node, sender in sorted(self._senders.items())
            for number, (epoch, lsn) in sorted(sender.done.items())
        )
        former = tuple((Origin("", 0, epoch), epoch, lsn) for epoch, lsn in sorted(self.former.items()))
        return Entries(self.since, former + done)

    def relocated(self, lineage: Lineage, end_lsn: int, to_epoch: int, to_lsn: int) -> Entries:
        """The table of a file that is in another log from now on, whose record at ``to_lsn`` includes everything.

        ``lineage``, ``end_lsn``: of the log that it was in. What was written there counts as there, as far as it was not cut off.
        """
        former = dict(self.former)
        for (epoch, _), (_, after) in pairwise((*lineage.starts, (0, end_lsn + 1))):
            former[epoch] = after - 1
        kept = sorted(former.items())[-FORMER_MAX:]
        done = [(Origin("", 0, epoch), epoch, lsn) for epoch, lsn in kept]
        done += [(origin, to_epoch, to_lsn) for origin, _, _ in self.entries().done if origin.node]
        return Entries(self.since, tuple(done))

    def _life(self, node: str, incarnation: int) -> _Sender | None:
        """The sender in this life; None if a later one is known."""
        sender = self._senders.get(node)
        if sender is None or sender.incarnation < incarnation:
            sender = self._senders[node] = _Sender(incarnation)
        return sender if sender.incarnation == incarnation else None
