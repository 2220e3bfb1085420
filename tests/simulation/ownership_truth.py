"""What must hold, checked at every step by somebody who sees everything.

``Truth`` keeps the official history of an object: the records that the owner of the moment has executed, in order. When an epoch
begins with a log that ends earlier, the history is cut there, and what is cut must not have been promised to anybody.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from objectrouter.requests import Done, Failed, RequestKind
from registry import DtlState, ObjectRecord
from volumedriver import Origin

if TYPE_CHECKING:
    from tests.simulation.ownership_world import World


class Violation(AssertionError):
    pass


@dataclass(slots=True)
class Operation:
    """A client's request, from its submission to its completion."""

    origin: Origin
    kind: RequestKind
    stream: tuple[str, int, int]
    block: int
    value: int  # of a write
    submitted_at: float
    epochs: int = 0
    lsn: int = 0  # of an executed write
    dropped: bool = False  # executed, and cut from the history
    completed: bool = False
    needs: list[Operation] = field(default_factory=list)  # a flush: writes of its sender completed before it, not told to be lost
    promises: int = 0  # a flush: the last LSN that was completed before it, by anybody


class Truth:
    def __init__(self, world: World, object_id: str) -> None:
        self.world, self.object = world, object_id
        self.history: list[tuple[int, Origin | None, int, int]] = []  # (epoch, origin, block, value)
        self.values: dict[int, list[tuple[float, int]]] = {}  # block -> (since, value)
        self.operations: dict[Origin, Operation] = {}
        self.flushes: dict[Origin, Operation] = {}  # that are not over
        self.acknowledged_lsn = self.completed_lsn = 0
        self.flushed_lsn = 0
        self.unreported: dict[tuple[str, int, int], list[Operation]] = {}  # by stream: completed writes that no flush has covered
        self.heads: list[int] = [0]  # last LSN by number of TLog
        self.head: tuple[str, int, int] | None = None  # name of the last
        self.banned: dict[str, int] = {}  # node -> last incarnation that was over when the epoch began
        self.counts = {"writes": 0, "reads": 0, "flushes": 0, "lost": 0, "in-sync": 0, "following": 0}

    def record(self) -> ObjectRecord:
        return self.world.registry.now.objects[self.object]

    def fail(self, text: str) -> None:
        raise Violation(f"{self.object[-2:]} at {self.world.now:.4f}: {text}")

    # -- clients ---------------------------------------------------------------------------------------------------------

    def submitted(self, origin: Origin, kind: RequestKind, block: int, value: int, client: int) -> None:
        operation = self.operations[origin] = Operation(
            origin, kind, (origin.node, origin.incarnation, client), block, value, self.world.now
        )
        if kind is RequestKind.FLUSH:
            operation.needs = list(self.unreported.get(operation.stream, ()))
            operation.promises = self.completed_lsn
            self.flushes[origin] = operation

    def completed(self, origin: Origin, answer: Done | Failed) -> None:
        operation = self.operations[origin]
        self.flushes.pop(origin, None)
        # one that is fenced or waited in vain may be executed yet: nobody has been told anything about it
        operation.completed = isinstance(answer, Done) or answer.why == "lost"
        if isinstance(answer, Failed):
            if operation.kind is RequestKind.FLUSH and answer.why == "lost":
                self.counts["lost"] += 1
                self._told(operation)
            return
        if operation.kind is RequestKind.READ:
            self.counts["reads"] += 1
            self._check_read(operation, answer.value)
        elif operation.kind is RequestKind.WRITE:
            self.counts["writes"] += 1
            if not operation.lsn:
                self.fail(f"{origin} is completed and was never executed")
            self.unreported.setdefault(operation.stream, []).append(operation)
            if not operation.dropped:
                self.completed_lsn = max(self.completed_lsn, operation.lsn)
        else:
            self.counts["flushes"] += 1
            self._told(operation)

    def _told(self, operation: Operation) -> None:
        told = {write.origin for write in operation.needs}
        left = [write for write in self.unreported.get(operation.stream, ()) if write.origin not in told]
        self.unreported[operation.stream] = left

    def _check_read(self, operation: Operation, value: Any) -> None:
        since = operation.submitted_at
        timeline = self.values.get(operation.block, [])
        at = bisect_right(timeline, (since, 1 << 60))
        before = timeline[at - 1][1] if at else 0
        if value != before and all(value != later for _, later in timeline[at:]):
            self.fail(
                f"{operation.origin} read {value} of block {operation.block}, not a value since {since:.4f}: {timeline[-6:]}"
            )

    # -- owners ----------------------------------------------------------------------------------------------------------

    def executed(self, node: str, epoch: int, lsn: int, origin: Origin | None, block: int, value: int) -> None:
        """A record has been appended to the log of a node that believes to own the object."""
        record = self.record()
        if (record.owner, record.epoch) != (node, epoch):
            return  # nobody will ever see it
        if lsn != len(self.history) + 1:
            self.fail(f"{node} writes record {lsn} behind {len(self.history)} at epoch {epoch}")
        if origin is not None:
            operation = self.operations[origin]
            if operation.lsn and not operation.dropped:
                self.fail(f"{origin} is executed twice: at {operation.lsn} and {lsn}")
            if operation.completed:
                self.fail(f"{origin} is executed after it was over")
            if origin.incarnation <= self.banned.get(origin.node, 0):
                self.fail(f"{origin} is executed at epoch {epoch}, which began after that life of its node was over")
            operation.lsn, operation.dropped = lsn, False
        self.history.append((epoch, origin, block, value))
        self.values.setdefault(block, []).append((self.world.now, value))

    def answered(self, node: str, epoch: int, origin: Origin, kind: RequestKind, answer: object) -> None:
        """A node answers at an epoch."""
        if not isinstance(answer, Done):
            return
        record = self.record()
        if (record.owner, record.epoch) != (node, epoch):
            self.fail(f"{node} answers {kind.value} at epoch {epoch}, the owner is {record.owner} at {record.epoch}")
        operation = self.operations[origin]
        if kind is RequestKind.WRITE:
            if operation.lsn != answer.lsn or operation.dropped:
                self.fail(f"{node} acknowledges {origin} at {answer.lsn}, it is at {operation.lsn}")
            self.acknowledged_lsn = max(self.acknowledged_lsn, answer.lsn)
        elif kind is RequestKind.READ:
            self._check_read(operation, answer.value)
        else:
            for write in operation.needs:
                if write.dropped:
                    self.fail(f"{origin} is flushed, {write.origin} that was completed before is gone")
            self.flushed_lsn = max(self.flushed_lsn, min(operation.promises, len(self.history)))
            self.check_sync()

    def opened(self, node: str, epoch: int, log: list[tuple[int, int, int]], end_lsn: int, *, all_kept: bool) -> None:
        """A node begins to serve: ``log`` has (LSN, block, value) of what is not in the backend."""
        record = self.record()
        if (record.owner, record.epoch) != (node, epoch):
            return
        if end_lsn > len(self.history):
            self.fail(f"{node} opens epoch {epoch} with {end_lsn} records, there are {len(self.history)}")
        for lsn, block, value in log:
            if self.history[lsn - 1][2:] != (block, value):
                self.fail(f"{node} opens epoch {epoch} with another record {lsn}")
        if end_lsn < self.flushed_lsn:
            self.fail(f"{node} opens epoch {epoch} at {end_lsn}: flushed through {self.flushed_lsn} is gone")
        if all_kept and end_lsn < self.acknowledged_lsn:
            self.fail(f"{node} opens epoch {epoch} at {end_lsn}: acknowledged through {self.acknowledged_lsn} is gone")
        self._cut(end_lsn)

    def _cut(self, end_lsn: int) -> None:
        if end_lsn == len(self.history):
            return
        blocks = set()
        for _, origin, block, _ in self.history[end_lsn:]:
            blocks.add(block)
            if origin is not None:
                self.operations[origin].dropped = True
        del self.history[end_lsn:]
        self.acknowledged_lsn = min(self.acknowledged_lsn, end_lsn)
        self.completed_lsn = min(self.completed_lsn, end_lsn)
        for operation in self.flushes.values():
            operation.promises = min(operation.promises, end_lsn)
        for block in blocks:
            value = next((entry[3] for entry in reversed(self.history) if entry[2] == block), 0)
            self.values[block].append((self.world.now, value))

    # -- the registry and the backend ------------------------------------------------------------------------------------

    def consented(self, before: ObjectRecord, fenced_peer: str, head_lsn: int) -> None:
        """An administrator has agreed to a loss: of no more than the bound, where the tail is that of a peer that follows."""
        kept = head_lsn
        if before.dtl.state is DtlState.FOLLOWING and fenced_peer == before.dtl.peer:
            kept = max(head_lsn, self.flushed_lsn - self.world.lag_records)
        self.flushed_lsn = min(self.flushed_lsn, kept)
        self.acknowledged_lsn = min(self.acknowledged_lsn, head_lsn)

    def committed(self, before: ObjectRecord | None, after: ObjectRecord) -> None:
        """A command has changed the object's record."""
        if before is not None and after.head != before.head:
            self._check_head(after)
        if before is not None and after.epoch < before.epoch:
            self.fail("an epoch goes back")
        if before is None or after.epoch > before.epoch:
            nodes = self.world.registry.now.nodes.values()
            self.banned = {node.id: node.incarnation - (not node.expired) for node in nodes}
        self.check_sync()

    def _check_head(self, record: ObjectRecord) -> None:
        assert record.head is not None
        name: Any = (self.object, record.head.tlog.epoch, record.head.tlog.number)
        tlogs = []
        while name != self.head:  # more than one, if several commands have been applied at once
            tlog = self.world.backend.get(name)
            if tlog is None:
                self.fail(f"the head is over a gap: {name} is not there")
            assert tlog is not None
            tlogs.append(tlog)
            name = tlog.previous
        for tlog in reversed(tlogs):
            if tlog.first_lsn != self.heads[-1] + 1:
                self.fail(f"the head is over a gap: from {self.heads[-1]} to {tlog.first_lsn}")
            for entry in tlog.records:
                if entry.lsn > len(self.history) or self.history[entry.lsn - 1][2:] != entry.payload:
                    self.fail(f"the head includes another record {entry.lsn}")
            self.heads.append(tlog.last_lsn)
        self.head = (self.object, record.head.tlog.epoch, record.head.tlog.number)

    def check_sync(self) -> None:
        """While the registry says *in sync* the peer has whatever was flushed; *following*: but for what the bound allows."""
        record = self.record()
        if record.dtl.state not in (DtlState.IN_SYNC, DtlState.FOLLOWING):
            return
        self.counts[record.dtl.state.value] += 1
        peer = record.dtl.peer
        if peer == record.owner:
            self.fail("the owner is in sync with itself")
        held = self.world.durable_at_peer(peer, self.object)
        if held is None:  # destroyed
            return
        lineage, end_lsn = held
        need = self.flushed_lsn - (self.world.lag_records if record.dtl.state is DtlState.FOLLOWING else 0)
        if need > self.heads[-1] and (end_lsn < need or lineage.epoch_at(need) != self.history[need - 1][0]):
            state = record.dtl.state.value
            self.fail(f"{state} at epoch {record.epoch} v{record.dtl.version}, {need} is needed; {peer} has {end_lsn}")
