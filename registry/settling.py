"""Commands that carry many objects, so that small files cost a share of one: what their owner publishes, and their end.

Pure; called by ``registry.state`` only.
"""

from __future__ import annotations

from dataclasses import replace

from registry import commands as c
from registry.model import ObjectKind, ObjectRecord, ObjectState
from registry.namespace import check_size
from registry.objects import check_owner, known, served
from registry.refusals import Refused
from registry.tables import WritableTables


def settle(tables: WritableTables, envelope: c.Envelope, command: c.Settle) -> tuple[c.Settled, ...]:
    """Each by itself: what is wrong with one does not hinder the others."""
    _check_number(len(command.settlements))
    return tuple(_settle(tables, envelope.node, settlement) for settlement in command.settlements)


def forget_files(tables: WritableTables, envelope: c.Envelope, command: c.ForgetFiles) -> tuple[c.Settled, ...]:
    """The log has nothing of them any more."""
    _check_number(len(command.objects))
    return tuple(_forget(tables, envelope.node, object_id) for object_id in command.objects)


def relocate(tables: WritableTables, envelope: c.Envelope, command: c.Relocate) -> ObjectRecord:
    """A file goes into another log."""
    record, to = known(tables, command.object), served(tables, command.to)
    if record.kind is not ObjectKind.FILE or to.kind is not ObjectKind.FILE_LOG:
        raise Refused("Invalid", "a file goes into a log of files", object=record.id, kind=record.kind.value, to=to.kind.value)
    if record.log != command.log:
        raise Refused("Conflict", "the file is in another log", object=record.id, log=record.log)
    if record.state not in (ObjectState.LIVE, ObjectState.ORPHAN):
        raise Refused("Halted", "the file is halted, or condemned", object=record.id, state=record.state.value)
    check_owner(tables, envelope.node, record, command.epoch)
    check_owner(tables, envelope.node, to, command.to_epoch)
    if to.epoch <= command.epoch:
        raise Refused("Invalid", "the epoch of a file grows", object=record.id, epoch=command.epoch, to_epoch=to.epoch)
    if tables.had_files(to.id):
        raise Refused("Conflict", "there has been a file in the log", log=to.id)
    return tables.move_file(record, to.id)


def _check_number(number: int) -> None:
    if number > c.SETTLEMENTS_MAX:
        raise Refused("Invalid", "too many objects in one command", objects=number, limit=c.SETTLEMENTS_MAX)


def _settle(tables: WritableTables, node: str, settlement: c.Settlement) -> c.Settled:
    try:
        record = known(tables, settlement.object)
        if settlement.close:
            _give_back(tables, node, record, settlement.close)
        _publish(tables, node, record, settlement)
    except Refused as refused:
        return c.Settled(settlement.object, refused.refusal)
    return c.Settled(settlement.object, None)


def _publish(tables: WritableTables, node: str, record: ObjectRecord, settlement: c.Settlement) -> None:
    check_owner(tables, node, record, settlement.epoch)
    inode = tables.inode(record.inode)
    if inode is None:
        raise Refused("Invalid", "the object has no inode", object=record.id)
    size = inode.size if settlement.size is None else settlement.size
    if size != inode.size:
        if record.kind is not ObjectKind.FILE:
            raise Refused("Invalid", "a volume's size changes by Resize", object=record.id)
        check_size(size)
        tables.put_object(replace(record, size=size))
    if settlement.allocated is not None:
        check_size(settlement.allocated)
    tables.change_inode(
        inode,
        replace(
            inode,
            size=size,
            mtime_ns=inode.mtime_ns if settlement.mtime_ns is None else settlement.mtime_ns,
            ctime_ns=inode.ctime_ns if settlement.ctime_ns is None else max(inode.ctime_ns, settlement.ctime_ns),
            atime_ns=inode.atime_ns if settlement.atime_ns is None else settlement.atime_ns,
            allocated=inode.allocated if settlement.allocated is None else settlement.allocated,
        ),
    )


def _give_back(tables: WritableTables, node: str, record: ObjectRecord, handles: int) -> None:
    held = tables.handles_of(record.inode, node)
    if not 0 < handles <= held:
        raise Refused("Conflict", "more handles closed than are open", object=record.id, open=held)
    tables.put_handles(record.inode, node, held - handles)


def _forget(tables: WritableTables, node: str, object_id: str) -> c.Settled:
    try:
        record = known(tables, object_id)
        if record.kind is not ObjectKind.FILE:
            raise Refused("Invalid", "only files are forgotten so", object=record.id, kind=record.kind.value)
        if record.state not in (ObjectState.ORPHAN, ObjectState.CONDEMNED):
            raise Refused("Conflict", "the file has a name, or is halted", object=record.id, state=record.state.value)
        if tables.handles(record.inode):
            raise Refused("Conflict", "the file is open somewhere", object=record.id, reason="handles")
        owner = known(tables, record.log).owner
        if owner != node:
            raise Refused("Moved", "another node owns the log of the file", object=record.id, owner=owner)
        tables.drop_object(record)
    except Refused as refused:
        return c.Settled(object_id, refused.refusal)
    return c.Settled(object_id, None)
