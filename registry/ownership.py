"""Commands on who owns an object and who mirrors its tail. Pure; called by ``registry.state`` only.

Each clause here closes a hole: docs/adr/0012-ownership.md says which, and tests/simulation/test_ownership.py takes them out
one by one to see that it is missed.
"""

from __future__ import annotations

from dataclasses import replace

from registry import commands as c
from registry.model import Dtl, DtlState, NodeRecord, NodeStatus, ObjectKind, ObjectRecord, Remains
from registry.objects import check_epoch, check_owner, known, served
from registry.refusals import Refused
from registry.tables import NUMBER_MAX, WritableTables


def new_epoch(tables: WritableTables, envelope: c.Envelope, command: c.NewEpoch) -> ObjectRecord:
    """An opening by the owner, or of what nobody owns."""
    record = _with_epoch(tables, command.object, command.expected_epoch)
    if command.node != envelope.node:
        raise Refused("Invalid", "a node opens for itself; to hand over there is Transfer", node=command.node[:64])
    if record.owner not in ("", envelope.node):
        owner = tables.node(record.owner)
        if owner is not None and not owner.expired:
            raise Refused("Conflict", "the owner's lease lives", owner=owner.id, reason="owner_alive")
        raise Refused("Conflict", "the owner has expired; its objects are stolen", owner=record.owner, reason="steal")
    dtl = _degraded(record.dtl, record.dtl.peer)
    return tables.put_object(replace(record, owner=envelope.node, epoch=record.epoch + 1, base=record.head, dtl=dtl))


def transfer(tables: WritableTables, envelope: c.Envelope, command: c.Transfer) -> ObjectRecord:
    """Owner, epoch and DTL in one."""
    record = _with_epoch(tables, command.object, command.epoch)
    check_owner(tables, envelope.node, record, command.epoch)
    _check_attempt(record, command.attempt)
    if command.source != envelope.node or command.target == command.source:
        raise Refused("Invalid", "the owner hands over to another node", source=command.source[:64], target=command.target[:64])
    target = _takes(tables, command.target)
    if target.incarnation != command.target_incarnation:
        raise Refused("Conflict", "the target has begun another life", incarnation=target.incarnation, reason="incarnation")
    if target.room_bytes == 0:
        raise Refused("NoSpace", "the target's cache has no room", target=target.id)
    return tables.put_object(
        replace(
            record,
            owner=target.id,
            epoch=record.epoch + 1,
            base=record.head,
            attempt=command.attempt,
            dtl=_handed_over(record.dtl, command),
            remains=_with_remains(record, Remains(command.source, record.epoch, lost=False)),
        )
    )


def abort(tables: WritableTables, envelope: c.Envelope, command: c.Abort) -> ObjectRecord:
    """No transfer of this attempt from now on."""
    record = known(tables, command.object)
    check_owner(tables, envelope.node, record, command.epoch)
    if not 0 < command.attempt < NUMBER_MAX:
        raise Refused("Invalid", "an attempt has a positive number", attempt=command.attempt)
    return tables.put_object(replace(record, attempt=max(record.attempt, command.attempt)))


def propose_dtl(tables: WritableTables, envelope: c.Envelope, command: c.ProposeDtl) -> ObjectRecord:
    """Compare-and-set by version."""
    record = _with_epoch(tables, command.object, command.epoch)
    check_owner(tables, envelope.node, record, command.epoch)
    if record.dtl.version != command.version:
        raise Refused(
            "Conflict", "the DTL has changed", state=record.dtl.state.value, version=record.dtl.version, reason="dtl"
        )  # fmt: skip
    if command.state in (DtlState.IN_SYNC, DtlState.FOLLOWING, DtlState.CATCHING_UP) and (
        command.peer == record.owner or tables.node(command.peer) is None
    ):
        raise Refused("Invalid", "a peer is another node that is known", peer=command.peer[:64])
    if command.state in (DtlState.IN_SYNC, DtlState.FOLLOWING):
        _check_was_catching_up(record.dtl, command)
    dtl = Dtl(command.state, command.peer, record.dtl.version + 1, command.asynchronous)
    return tables.put_object(replace(record, dtl=dtl))


def steal(tables: WritableTables, envelope: c.Envelope, command: c.Steal) -> ObjectRecord:
    """Only from the expired, and only what cannot be lost or may be."""
    record = _with_epoch(tables, command.object, command.epoch)
    if command.thief != envelope.node or not record.owner:
        raise Refused("Invalid", "a node steals for itself, and from somebody", thief=command.thief[:64], owner=record.owner)
    _takes(tables, command.thief)
    owner = tables.node(record.owner)
    if owner is not None and not owner.expired and owner.id != command.thief:
        raise Refused("Conflict", "the owner's lease lives", owner=owner.id, reason="owner_alive")
    keeps_all = _has_fenced_tail(record, command)
    if not keeps_all:
        _check_consent(record, command)
    return tables.put_object(
        replace(
            record,
            owner=command.thief,
            epoch=record.epoch + 1,
            base=record.head,
            dtl=_degraded(record.dtl, ""),
            remains=_with_remains(record, Remains(record.owner, record.epoch, lost=not keeps_all)),
        )
    )


def drop_remains(tables: WritableTables, envelope: c.Envelope, command: c.DropRemains) -> ObjectRecord:
    """An administrator's word."""
    record = known(tables, command.object)
    left = tuple(remains for remains in record.remains if (remains.node, remains.epoch) != (command.node, command.epoch))
    if left == record.remains:
        raise Refused("NotFound", "no such remains", object=record.id, node=command.node[:64], epoch=command.epoch)
    return tables.put_object(replace(record, remains=left))


# -- parts of the above ------------------------------------------------------------------------------------------------


def _with_epoch(tables: WritableTables, object_id: str, epoch: int) -> ObjectRecord:
    record = served(tables, object_id)
    if record.kind is ObjectKind.FILE:
        raise Refused("Invalid", "a file has the epoch of its log", object=record.id)
    check_epoch(record, epoch)
    return record


def _check_attempt(record: ObjectRecord, attempt: int) -> None:
    if not record.attempt < attempt < NUMBER_MAX:
        raise Refused("Conflict", "this attempt has been given up", attempt=record.attempt, reason="attempt")


def _takes(tables: WritableTables, node: str) -> NodeRecord:
    """A node that may be given something."""
    record = tables.node(node)
    if record is None or record.expired:
        raise Refused("Fenced", "the new owner is not registered or has expired", node=node[:64])
    if record.status is not NodeStatus.ACTIVE:
        raise Refused("Conflict", "the node is given nothing now", node=node, status=record.status.value, reason="node_status")
    return record


def _degraded(dtl: Dtl, peer: str) -> Dtl:
    return dtl if dtl.state is DtlState.OFF else Dtl(DtlState.DEGRADED, peer, dtl.version + 1, dtl.asynchronous)


def _handed_over(dtl: Dtl, command: c.Transfer) -> Dtl:
    """The source holds the whole tail, so it is the natural peer, and in sync at once if flushes wait for one."""
    if dtl.state is DtlState.OFF or not command.source_holds_tail:
        return _degraded(dtl, "")
    if dtl.asynchronous:
        return _degraded(dtl, command.source)
    return Dtl(DtlState.IN_SYNC, command.source, dtl.version + 1)


def _check_was_catching_up(dtl: Dtl, command: c.ProposeDtl) -> None:
    if command.asynchronous is not (command.state is DtlState.FOLLOWING):
        raise Refused("Invalid", "in sync is synchronous, following is not", state=command.state.value)
    if (dtl.state, dtl.peer, dtl.asynchronous) != (DtlState.CATCHING_UP, command.peer, command.asynchronous):
        raise Refused("Conflict", "in sync is what a peer becomes that was catching up", peer=dtl.peer, reason="dtl")


def _has_fenced_tail(record: ObjectRecord, command: c.Steal) -> bool:
    dtl = record.dtl
    return (
        dtl.state is DtlState.IN_SYNC
        and command.dtl_version == dtl.version
        and command.fenced_peer == dtl.peer
        and dtl.peer not in ("", record.owner)
    )


def _check_consent(record: ObjectRecord, command: c.Steal) -> None:
    state = record.dtl.state
    if not command.accept_loss:
        raise Refused("Conflict", "what was flushed might be lost", object=record.id, dtl=state.value, reason="loss")
    if state is DtlState.IN_SYNC and not command.powered_off and record.owner != command.thief:
        raise Refused(
            "Conflict", "its peer is not fenced: the old owner may still serve by its word", peer=record.dtl.peer,
            reason="peer_unfenced",
        )  # fmt: skip


def _with_remains(record: ObjectRecord, remains: Remains) -> tuple[Remains, ...]:
    others = tuple(kept for kept in record.remains if (kept.node, kept.epoch) != (remains.node, remains.epoch))
    return (*others, remains)
