"""Commands on the namespace, by the rules of POSIX (IEEE 1003.1, renameat2(2)). Pure; called by ``registry.state`` only."""

from __future__ import annotations

from dataclasses import replace

from registry import commands as c
from registry.model import ROOT_INODE, DirectoryEntry, Inode, InodeKind, ObjectKind, ObjectRecord, ObjectState
from registry.refusals import Refused
from registry.tables import WritableTables, is_object_id, name_bytes

_WITH_OBJECT = {InodeKind.FILE: ObjectKind.FILE, InodeKind.VOLUME: ObjectKind.VOLUME}
_DEVICES = (InodeKind.CHARACTER_DEVICE, InodeKind.BLOCK_DEVICE)
SET_GID = 0o2000
RDEV_MAX = (1 << 64) - 1
LAYOUTS = (1, 2)


def create(tables: WritableTables, envelope: c.Envelope, command: c.Create) -> c.Created:
    """A new inode with its first name; or, not exclusive, the file or volume that has the name."""
    parent = _directory(tables, command.parent)
    _check_name(command.name)
    taken = tables.entry(parent.number, command.name)
    if taken is not None:
        return _existing(tables, envelope, command, _inode(tables, taken.inode))
    _check_create(tables, command)
    number = tables.next_number()
    record = _new_object(tables, command, number)
    is_directory = command.kind is InodeKind.DIRECTORY
    inherits = bool(parent.mode & SET_GID)
    now = command.now_ns
    inode = Inode(
        number=number,
        kind=command.kind,
        object=command.object,
        mode=command.mode | SET_GID if inherits and is_directory else command.mode,
        uid=command.uid,
        gid=parent.gid if inherits else command.gid,
        nlink=2 if is_directory else 1,
        size=len(name_bytes(command.target)) if command.kind is InodeKind.SYMLINK else command.size,
        atime_ns=now,
        mtime_ns=now,
        ctime_ns=now,
        target=command.target,
        parent=parent.number if is_directory else 0,
        rdev=command.rdev,
        allocated=0 if record is not None and not command.size else None,
    )
    tables.count(inodes=1, held_bytes=inode.held_bytes)
    tables.put_inode(inode)
    if command.opened:
        tables.put_handles(number, envelope.node, 1)
    tables.put_entry(parent.number, DirectoryEntry(number, command.name, number))
    tables.put_inode(_touched(parent, now, nlink=1 if is_directory else 0))
    return c.Created(inode, record, existed=False)


def rename(tables: WritableTables, envelope: c.Envelope, command: c.Rename) -> c.Renamed:
    """Move a name; over what is there if POSIX allows that, or against it (exchange)."""
    if command.no_replace and command.exchange:
        raise Refused("Invalid", "noreplace and exchange exclude each other")
    old_parent, new_parent = _directory(tables, command.parent), _directory(tables, command.new_parent)
    _check_name(command.name)
    _check_name(command.new_name)
    source = _entry(tables, old_parent, command.name)
    moved = _inode(tables, source.inode)
    target = tables.entry(new_parent.number, command.new_name)
    if command.exchange:
        return _exchange(tables, command, source, _entry(tables, new_parent, command.new_name))
    if target is not None and command.no_replace:
        raise Refused("Exists", "the new name is taken", name=command.new_name)
    if target is not None and target.inode == source.inode:
        return c.Renamed(moved, None)
    _check_not_into_itself(tables, moved, new_parent)
    replaced = None
    if target is not None:
        replaced = _replace(tables, moved, new_parent, target, command.now_ns)
    tables.delete_entry(old_parent.number, source)
    tables.put_entry(new_parent.number, DirectoryEntry(tables.next_number(), command.new_name, moved.number))
    is_directory = moved.kind is InodeKind.DIRECTORY
    _count_names(tables, old_parent.number, command.now_ns, nlink=-1 if is_directory else 0)
    _count_names(tables, new_parent.number, command.now_ns, nlink=1 if is_directory else 0)
    moved = tables.put_inode(replace(moved, ctime_ns=command.now_ns, parent=new_parent.number if is_directory else 0))
    return c.Renamed(moved, replaced)


def link(tables: WritableTables, envelope: c.Envelope, command: c.Link) -> Inode:
    """One more name for an inode."""
    parent = _directory(tables, command.new_parent)
    _check_name(command.new_name)
    inode = _inode(tables, command.inode)
    if inode.kind is InodeKind.DIRECTORY:
        raise Refused("Denied", "a directory has one name only", inode=inode.number, reason="not_permitted")
    if inode.nlink == 0:
        raise Refused("NotFound", "the inode has no name any more", inode=inode.number)
    if tables.entry(parent.number, command.new_name) is not None:
        raise Refused("Exists", "the name is taken", name=command.new_name)
    if inode.nlink >= c.LINKS_MAX:
        raise Refused("NoSpace", "the inode has as many names as it can have", links=inode.nlink, reason="too_many_links")
    inode = tables.put_inode(replace(inode, nlink=inode.nlink + 1, ctime_ns=command.now_ns))
    tables.put_entry(parent.number, DirectoryEntry(tables.next_number(), command.new_name, inode.number))
    tables.put_inode(_touched(parent, command.now_ns))
    return inode


def unlink(tables: WritableTables, envelope: c.Envelope, command: c.Unlink) -> Inode:
    """Remove a name of anything but a directory."""
    parent = _directory(tables, command.parent)
    entry = _entry(tables, parent, command.name)
    inode = _inode(tables, entry.inode)
    if inode.kind is InodeKind.DIRECTORY:
        raise Refused("Invalid", "a directory is not unlinked but removed", name=command.name, reason="is_directory")
    tables.delete_entry(parent.number, entry)
    tables.put_inode(_touched(parent, command.now_ns))
    return _lose_name(tables, inode, command.now_ns)


def remove_directory(tables: WritableTables, envelope: c.Envelope, command: c.RemoveDirectory) -> Inode:
    """Remove an empty directory."""
    parent = _directory(tables, command.parent)
    entry = _entry(tables, parent, command.name)
    inode = _inode(tables, entry.inode)
    if inode.kind is not InodeKind.DIRECTORY:
        raise Refused("Invalid", "not a directory", name=command.name, reason="not_directory")
    if tables.entries(inode.number, 0, 1):
        raise Refused("Conflict", "the directory is not empty", name=command.name, reason="not_empty")
    tables.delete_entry(parent.number, entry)
    tables.delete_inode(inode)
    tables.put_inode(_touched(parent, command.now_ns, nlink=-1))
    return inode


def set_attributes(tables: WritableTables, envelope: c.Envelope, command: c.SetAttributes) -> Inode:
    """Change what is given, leave the rest."""
    inode = _inode(tables, command.inode)
    if command.mode is not None and not 0 <= command.mode <= 0o7777:
        raise Refused("Invalid", "a mode has bits 0o7777 only", mode=command.mode)
    if command.size is not None:
        if inode.kind is not InodeKind.FILE:
            raise Refused("Invalid", "only a file's size is an attribute; a volume is resized by its owner", inode=inode.number)
        check_size(command.size)
        record = tables.object(inode.object)
        if record is not None:
            tables.put_object(replace(record, size=command.size))
    return tables.change_inode(
        inode,
        replace(
            inode,
            mode=_or(command.mode, inode.mode),
            uid=_or(command.uid, inode.uid),
            gid=_or(command.gid, inode.gid),
            size=_or(command.size, inode.size),
            atime_ns=_or(command.atime_ns, inode.atime_ns),
            mtime_ns=_or(command.mtime_ns, inode.mtime_ns),
            ctime_ns=_or(command.ctime_ns, inode.ctime_ns),
        ),
    )


def check_size(size: int) -> None:
    """Refuse what is not a size."""
    if not 0 <= size <= c.SIZE_BYTES_MAX:
        raise Refused("Invalid", "a size is at least 0 and less than 2**63 bytes", size=size if abs(size) < 1 << 63 else "huge")


# -- parts of the above ------------------------------------------------------------------------------------------------


def _or(new: int | None, old: int) -> int:
    return old if new is None else new


def _touched(directory: Inode, now_ns: int, nlink: int = 0) -> Inode:
    return replace(directory, mtime_ns=now_ns, ctime_ns=now_ns, nlink=directory.nlink + nlink)


def _count_names(tables: WritableTables, directory: int, now_ns: int, nlink: int) -> None:
    """Read again before writing: both parents of a rename may be the same directory."""
    tables.put_inode(_touched(_directory(tables, directory), now_ns, nlink))


def _inode(tables: WritableTables, number: int) -> Inode:
    inode = tables.inode(number)
    if inode is None:
        raise Refused("NotFound", "no such inode", inode=number)
    return inode


def _directory(tables: WritableTables, number: int) -> Inode:
    inode = _inode(tables, number)
    if inode.kind is not InodeKind.DIRECTORY:
        raise Refused("Invalid", "not a directory", inode=number, reason="not_directory")
    return inode


def _entry(tables: WritableTables, parent: Inode, name: str) -> DirectoryEntry:
    _check_name(name)
    entry = tables.entry(parent.number, name)
    if entry is None:
        raise Refused("NotFound", "no such name", name=name, parent=parent.number)
    return entry


def _check_name(name: str) -> None:
    try:
        length = len(name_bytes(name))
    except UnicodeEncodeError:
        raise Refused("Invalid", "a name is UTF-8, or bytes as surrogateescape", reason="bad_name") from None
    if length > c.NAME_BYTES_MAX:
        raise Refused("Invalid", "a name has at most 255 bytes", bytes=length, reason="name_too_long")
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise Refused("Invalid", 'a name is not empty, "." or "..", and has no "/" or NUL', reason="bad_name")


def _existing(tables: WritableTables, envelope: c.Envelope, command: c.Create, inode: Inode) -> c.Created:
    if command.exclusive or command.kind not in _WITH_OBJECT:
        raise Refused("Exists", "the name is taken", name=command.name)
    if inode.kind is InodeKind.DIRECTORY:
        raise Refused("Invalid", "the name is a directory's", name=command.name, reason="is_directory")
    if not inode.object:
        raise Refused("Exists", "the name is neither a file's nor a volume's", name=command.name)
    if command.opened:
        tables.put_handles(inode.number, envelope.node, tables.handles_of(inode.number, envelope.node) + 1)
    return c.Created(inode, tables.object(inode.object), existed=True)


def _check_create(tables: WritableTables, command: c.Create) -> None:
    if not 0 <= command.mode <= 0o7777:
        raise Refused("Invalid", "a mode has bits 0o7777 only", mode=command.mode)
    target_bytes = len(command.target.encode("utf-8", "surrogateescape"))
    if command.kind is InodeKind.SYMLINK:
        if not 0 < target_bytes <= c.TARGET_BYTES_MAX or "\0" in command.target:
            raise Refused("Invalid", "a symbolic link's target has 1 to 4095 bytes without NUL", bytes=target_bytes)
    elif command.target:
        raise Refused("Invalid", "only a symbolic link has a target")
    if command.kind in _WITH_OBJECT:
        if not is_object_id(command.object):
            raise Refused("Invalid", "an object's id has 32 lower-case hexadecimal digits", object=command.object[:64])
        if tables.object(command.object) is not None:
            raise Refused("Exists", "the object's id is taken", object=command.object)
        check_size(command.size)
    elif command.object or command.size or command.opened:
        raise Refused("Invalid", "only volumes and files have an object, a size and handles")
    if not 0 <= command.rdev <= RDEV_MAX or (command.rdev and command.kind not in _DEVICES):
        raise Refused("Invalid", "only device nodes have a device number, of at most 64 bits")
    if command.layout not in LAYOUTS:
        raise Refused("Invalid", "no such layout of a file's region", layout=command.layout)
    if (command.kind is InodeKind.FILE) != bool(command.log):
        raise Refused("Invalid", "files, and only they, name their file log")


def _new_object(tables: WritableTables, command: c.Create, inode: int) -> ObjectRecord | None:
    kind = _WITH_OBJECT.get(command.kind)
    if kind is None:
        return None
    address = 0
    if kind is ObjectKind.FILE:
        log = tables.object(command.log)
        if log is None or log.kind is not ObjectKind.FILE_LOG:
            raise Refused("NotFound", "no such file log", log=command.log[:64])
        if log.state is not ObjectState.LIVE:
            raise Refused("Halted" if log.state is ObjectState.HALTED else "NotFound", "the file log takes no files", log=log.id)
        address = tables.take_address(log.id)
        if address > c.ADDRESS_MAX:
            raise Refused("NoSpace", "the file log has as many files as it can have", log=log.id, reason="log_full")
        tables.put_file(log.id, address, command.object)
    layout = command.layout if kind is ObjectKind.FILE else 1
    record = ObjectRecord(
        command.object, kind, ObjectState.LIVE, "", 0, None, None, command.size, inode, address, command.log, "", layout
    )
    return tables.put_object(record)


def _lose_name(tables: WritableTables, inode: Inode, now_ns: int) -> Inode:
    """One name less; the last one makes an orphan of an object, and ends a symbolic link."""
    inode = replace(inode, nlink=inode.nlink - 1, ctime_ns=now_ns)
    if inode.nlink == 0 and not inode.object:
        tables.delete_inode(inode)
        return inode
    if inode.nlink == 0:
        record = tables.object(inode.object)
        assert record is not None, "an inode's object has a record"
        tables.mark_nameless(record)
        if record.state is ObjectState.LIVE:
            tables.put_object(replace(record, state=ObjectState.ORPHAN))
    return tables.put_inode(inode)


def _check_not_into_itself(tables: WritableTables, moved: Inode, new_parent: Inode) -> None:
    if moved.kind is not InodeKind.DIRECTORY:
        return
    step = new_parent
    while step.number != ROOT_INODE:
        if step.number == moved.number:
            raise Refused("Invalid", "a directory cannot be moved into itself", inode=moved.number, reason="into_itself")
        step = _directory(tables, step.parent)


def _replace(tables: WritableTables, moved: Inode, parent: Inode, target: DirectoryEntry, now_ns: int) -> Inode:
    """Take the new name from what has it."""
    there = _inode(tables, target.inode)
    if there.kind is InodeKind.DIRECTORY:
        if moved.kind is not InodeKind.DIRECTORY:
            raise Refused("Invalid", "the new name is a directory's", name=target.name, reason="is_directory")
        if tables.entries(there.number, 0, 1):
            raise Refused("Conflict", "the directory at the new name is not empty", name=target.name, reason="not_empty")
        tables.delete_entry(parent.number, target)
        tables.delete_inode(there)
        _count_names(tables, parent.number, now_ns, nlink=-1)
        return replace(there, nlink=0, ctime_ns=now_ns)
    if moved.kind is InodeKind.DIRECTORY:
        raise Refused("Invalid", "the new name is not a directory's", name=target.name, reason="not_directory")
    tables.delete_entry(parent.number, target)
    return _lose_name(tables, there, now_ns)


def _exchange(tables: WritableTables, command: c.Rename, one: DirectoryEntry, two: DirectoryEntry) -> c.Renamed:
    first, second = _inode(tables, one.inode), _inode(tables, two.inode)
    if first.number == second.number:
        return c.Renamed(first, None)
    old_parent, new_parent = _directory(tables, command.parent), _directory(tables, command.new_parent)
    _check_not_into_itself(tables, first, new_parent)
    _check_not_into_itself(tables, second, old_parent)
    tables.delete_entry(old_parent.number, one)
    tables.delete_entry(new_parent.number, two)
    tables.put_entry(old_parent.number, replace(one, inode=second.number))
    tables.put_entry(new_parent.number, replace(two, inode=first.number))
    shift = (first.kind is InodeKind.DIRECTORY) - (second.kind is InodeKind.DIRECTORY)
    _count_names(tables, old_parent.number, command.now_ns, nlink=-shift)
    _count_names(tables, new_parent.number, command.now_ns, nlink=shift)
    for inode, parent in ((first, new_parent), (second, old_parent)):
        # Read again: one of the two may be the other's parent's parent, whose link count has just changed.
        again = _inode(tables, inode.number)
        is_directory = again.kind is InodeKind.DIRECTORY
        tables.put_inode(replace(again, ctime_ns=command.now_ns, parent=parent.number if is_directory else 0))
    return c.Renamed(_inode(tables, first.number), None)
