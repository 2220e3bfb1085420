"""Commands on objects: ownership, heads, handles, life and death. Pure; called by ``registry.state`` only."""

from __future__ import annotations

from dataclasses import replace

from registry import commands as c
from registry.model import Head, HeadAdvance, Inode, InodeKind, ObjectKind, ObjectRecord, ObjectState
from registry.namespace import check_size
from registry.refusals import Refused
from registry.tables import NUMBER_MAX, WritableTables, is_object_id

REASON_BYTES_MAX = 4096


def create_object(tables: WritableTables, envelope: c.Envelope, command: c.CreateObject) -> ObjectRecord:
    """An object without a name."""
    if command.kind is not ObjectKind.FILE_LOG:
        raise Refused("Invalid", "only file logs live outside the namespace", kind=command.kind.value)
    if not is_object_id(command.object):
        raise Refused("Invalid", "an object's id has 32 lower-case hexadecimal digits", object=command.object[:64])
    if tables.object(command.object) is not None:
        raise Refused("Exists", "the object's id is taken", object=command.object)
    if not 0 <= command.epoch < NUMBER_MAX:
        raise Refused("Invalid", "an epoch is not negative", epoch=command.epoch)
    return tables.put_object(
        ObjectRecord(command.object, command.kind, ObjectState.LIVE, "", command.epoch, None, None, 0, 0, 0, "", "")
    )


def advance_heads(tables: WritableTables, envelope: c.Envelope, command: c.AdvanceHeads) -> tuple[c.HeadAdvanced, ...]:
    """Each by itself: what is wrong with one does not hinder the others."""
    if len(command.advances) > c.ADVANCES_MAX:
        raise Refused("Invalid", "too many advances in one command", advances=len(command.advances), limit=c.ADVANCES_MAX)
    return tuple(_advance(tables, envelope.node, advance) for advance in command.advances)


def publish(tables: WritableTables, envelope: c.Envelope, command: c.Publish) -> Inode:
    """What the owner has kept to itself so far: size and times."""
    record = known(tables, command.object)
    check_owner(tables, envelope.node, record, command.epoch)
    inode = tables.inode(record.inode)
    if inode is None:
        raise Refused("Invalid", "the object has no inode", object=record.id)
    size = inode.size if command.size is None else command.size
    if size != inode.size:
        if inode.kind is InodeKind.VOLUME:
            raise Refused("Invalid", "a volume's size changes by Resize", object=record.id)
        check_size(size)
        tables.put_object(replace(record, size=size))
    return tables.change_inode(
        inode,
        replace(
            inode,
            size=size,
            mtime_ns=inode.mtime_ns if command.mtime_ns is None else command.mtime_ns,
            ctime_ns=inode.ctime_ns if command.ctime_ns is None else command.ctime_ns,
            atime_ns=inode.atime_ns if command.atime_ns is None else command.atime_ns,
        ),
    )


def resize(tables: WritableTables, envelope: c.Envelope, command: c.Resize) -> ObjectRecord:
    """A volume's new size."""
    record = served(tables, command.object)
    if record.kind is not ObjectKind.VOLUME:
        raise Refused("Invalid", "only volumes are resized", kind=record.kind.value)
    check_owner(tables, envelope.node, record, command.epoch)
    check_size(command.size)
    inode = tables.inode(record.inode)
    if inode is not None:
        changed = replace(inode, size=command.size, mtime_ns=command.now_ns, ctime_ns=command.now_ns)
        tables.change_inode(inode, changed)
    return tables.put_object(replace(record, size=command.size))


def open_handle(tables: WritableTables, envelope: c.Envelope, command: c.OpenHandle) -> int:
    """Count handles of the caller up."""
    inode = _with_object(tables, command.inode, command.count)
    if inode.nlink == 0 and not tables.handles(inode.number):
        raise Refused("NotFound", "neither name nor handle is left", inode=inode.number)
    count = tables.handles_of(inode.number, envelope.node) + command.count
    if count >= NUMBER_MAX:
        raise Refused("Invalid", "too many handles", inode=inode.number)
    tables.put_handles(inode.number, envelope.node, count)
    return count


def close_handle(tables: WritableTables, envelope: c.Envelope, command: c.CloseHandle) -> c.Closed:
    """Count handles of the caller down, and say whether anything still keeps the object."""
    inode = _with_object(tables, command.inode, command.count)
    count = tables.handles_of(inode.number, envelope.node) - command.count
    if count < 0:
        raise Refused("Conflict", "more handles closed than are open", inode=inode.number, open=count + command.count)
    tables.put_handles(inode.number, envelope.node, count)
    return c.Closed(count, orphaned=inode.nlink == 0 and not tables.handles(inode.number))


def condemn(tables: WritableTables, envelope: c.Envelope, command: c.Condemn) -> ObjectRecord:
    """Point of no return: from here its names in the backend may go."""
    record = known(tables, command.object)
    check_epoch(record, command.expected_epoch)
    if record.state is ObjectState.CONDEMNED:
        return record
    if record.state is ObjectState.HALTED:
        raise Refused("Halted", "the object is halted; an administrator decides", object=record.id, why=record.halted_reason)
    if record.kind is ObjectKind.FILE_LOG:
        if next(iter(tables.files_in(record.id)), None) is not None:
            raise Refused("Conflict", "there are files in this log", object=record.id)
        tables.mark_nameless(record)
    elif record.state is not ObjectState.ORPHAN:
        raise Refused("Conflict", "the object has a name", object=record.id)
    elif tables.handles(record.inode):
        raise Refused("Conflict", "the object is open somewhere", object=record.id, reason="handles")
    return tables.put_object(replace(record, state=ObjectState.CONDEMNED))


def forget(tables: WritableTables, envelope: c.Envelope, command: c.Forget) -> None:
    """The backend has nothing of it any more."""
    record = known(tables, command.object)
    if record.state is not ObjectState.CONDEMNED:
        raise Refused("Conflict", "only a condemned object is forgotten", object=record.id, state=record.state.value)
    tables.drop_object(record)


def halt(tables: WritableTables, envelope: c.Envelope, command: c.Halt) -> ObjectRecord:
    """Refuse service from now on; the first reason stays."""
    record = known(tables, command.object)
    if record.state is ObjectState.CONDEMNED:
        raise Refused("Conflict", "the object is condemned", object=record.id)
    if not 0 < len(command.reason.encode("utf-8", "surrogateescape")) <= REASON_BYTES_MAX:
        raise Refused("Invalid", "a reason has 1 to 4096 bytes", object=record.id)
    if record.state is ObjectState.HALTED:
        return record
    return tables.put_object(replace(record, state=ObjectState.HALTED, halted_reason=command.reason))


def unhalt(tables: WritableTables, envelope: c.Envelope, command: c.Unhalt) -> ObjectRecord:
    """Serve again: live, or an orphan if its last name went meanwhile."""
    record = known(tables, command.object)
    if record.state is not ObjectState.HALTED:
        raise Refused("Conflict", "the object is not halted", object=record.id, state=record.state.value)
    inode = tables.inode(record.inode)
    state = ObjectState.ORPHAN if inode is not None and inode.nlink == 0 else ObjectState.LIVE
    return tables.put_object(replace(record, state=state, halted_reason=""))


# -- parts of the above ------------------------------------------------------------------------------------------------


def known(tables: WritableTables, object_id: str) -> ObjectRecord:
    """The object, in whatever state; or NotFound."""
    record = tables.object(object_id)
    if record is None:
        raise Refused("NotFound", "no such object", object=object_id[:64])
    return record


def served(tables: WritableTables, object_id: str) -> ObjectRecord:
    """An object that may be worked on: neither condemned nor halted."""
    record = known(tables, object_id)
    if record.state is ObjectState.CONDEMNED:
        raise Refused("NotFound", "the object is condemned", object=object_id)
    if record.state is ObjectState.HALTED:
        raise Refused("Halted", "the object is halted", object=object_id, why=record.halted_reason)
    return record


def check_epoch(record: ObjectRecord, epoch: int) -> None:
    """Refuse who means another epoch of the object."""
    if record.epoch != epoch:
        raise Refused("Conflict", "the object's epoch is another one", object=record.id, epoch=record.epoch, reason="epoch")


def check_owner(tables: WritableTables, node: str, record: ObjectRecord, epoch: int) -> None:
    """The caller owns the object (a file: its log) at this epoch."""
    owned = known(tables, record.log) if record.kind is ObjectKind.FILE else record
    if owned.owner != node:
        raise Refused("Moved", "another node owns the object", object=record.id, owner=owned.owner, epoch=owned.epoch)
    check_epoch(owned, epoch)


def _with_object(tables: WritableTables, number: int, count: int) -> Inode:
    inode = tables.inode(number)
    if inode is None:
        raise Refused("NotFound", "no such inode", inode=number)
    if not inode.object:
        raise Refused("Invalid", "only volumes and files have handles", inode=number)
    if not 0 < count < NUMBER_MAX:
        raise Refused("Invalid", "a count of handles is positive", inode=number)
    return inode


def _advance(tables: WritableTables, node: str, advance: HeadAdvance) -> c.HeadAdvanced:
    record = tables.object(advance.object)
    try:
        record = served(tables, advance.object)
        check_owner(tables, node, record, advance.epoch)
        if record.kind is ObjectKind.FILE:
            raise Refused("Invalid", "a file has no head of its own", object=record.id)
        if record.head != advance.head:
            _check_advance(record, advance)
            record = tables.put_object(replace(record, head=advance.head))
        if advance.past_tail and any(not remains.lost for remains in record.remains):
            record = tables.put_object(replace(record, remains=tuple(remains for remains in record.remains if remains.lost)))
    except Refused as refused:
        return c.HeadAdvanced(advance.object, record.head if record else None, refused.refusal)
    return c.HeadAdvanced(record.id, record.head, None)


def _check_advance(record: ObjectRecord, advance: HeadAdvance) -> None:
    old, new = record.head, advance.head
    at = old.tlog.number if old else 0
    if advance.previous_tlog != at:
        raise Refused("Conflict", "the head is another one", object=record.id, head=at, reason="previous")
    same = old is not None and old.tlog == new.tlog
    if not same and (new.tlog.number != at + 1 or new.tlog.epoch != record.epoch):
        raise Refused(
            "Invalid", "a head moves to the very next tlog of this epoch", object=record.id, head=at, asked=new.tlog.number
        )
    if new.next_sco < (old.next_sco if old else 1) or (same and old is not None and new.next_sco != old.next_sco):
        raise Refused("Invalid", "the numbers of scos do not go back", object=record.id, next_sco=new.next_sco)
    _check_checkpoint(record.id, old, new)


def _check_checkpoint(object_id: str, old: Head | None, new: Head) -> None:
    if (new.checkpoint is None) != (new.checkpoint_tlog == 0) or not 0 <= new.checkpoint_tlog <= new.tlog.number:
        raise Refused("Invalid", "a checkpoint includes a tlog that is not beyond the head", object=object_id)
    if old is None or (new.checkpoint == old.checkpoint and new.checkpoint_tlog == old.checkpoint_tlog):
        return
    if new.checkpoint_tlog <= old.checkpoint_tlog:
        raise Refused("Invalid", "checkpoints do not go back", object=object_id, checkpoint_tlog=old.checkpoint_tlog)
