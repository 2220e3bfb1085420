"""Commands on extended attributes (xattr(7)). Pure; called by ``registry.state`` only."""

from __future__ import annotations

from dataclasses import replace

from registry import commands as c
from registry.model import Inode
from registry.refusals import Refused
from registry.tables import WritableTables, name_bytes


def set_attribute(tables: WritableTables, envelope: c.Envelope, command: c.SetAttribute) -> Inode:
    """Make or replace one."""
    inode = _inode(tables, command.inode)
    length = _check_name(command.name)
    if len(command.value) > c.ATTRIBUTE_VALUE_BYTES_MAX:
        raise Refused("Invalid", "an extended attribute has at most 64 KiB", bytes=len(command.value), reason="value_too_long")
    old = tables.attribute(inode.number, command.name)
    if old is None and command.must_exist:
        raise _no_attribute(command.name)
    if old is not None and command.must_not_exist:
        raise Refused("Exists", "the inode has this extended attribute", name=command.name)
    total = inode.attributes_bytes + len(command.value) - (len(old) if old is not None else -length)
    if total > c.ATTRIBUTES_BYTES_MAX:
        raise Refused("NoSpace", "more extended attributes than an inode can have", bytes=total, limit=c.ATTRIBUTES_BYTES_MAX)
    tables.put_attribute(inode.number, command.name, command.value)
    return tables.put_inode(replace(inode, attributes_bytes=total, ctime_ns=max(inode.ctime_ns, command.now_ns)))


def remove_attribute(tables: WritableTables, envelope: c.Envelope, command: c.RemoveAttribute) -> Inode:
    """Take one away."""
    inode = _inode(tables, command.inode)
    length = _check_name(command.name)
    old = tables.attribute(inode.number, command.name)
    if old is None:
        raise _no_attribute(command.name)
    tables.delete_attribute(inode.number, command.name)
    total = inode.attributes_bytes - len(old) - length
    return tables.put_inode(replace(inode, attributes_bytes=total, ctime_ns=max(inode.ctime_ns, command.now_ns)))


def _inode(tables: WritableTables, number: int) -> Inode:
    inode = tables.inode(number)
    if inode is None:
        raise Refused("NotFound", "no such inode", inode=number)
    return inode


def _check_name(name: str) -> int:
    """Length of the name in bytes."""
    try:
        length = len(name_bytes(name))
    except UnicodeEncodeError:
        raise Refused("Invalid", "a name is UTF-8, or bytes as surrogateescape", reason="bad_name") from None
    if not 0 < length <= c.ATTRIBUTE_NAME_BYTES_MAX or "\0" in name:
        raise Refused("Invalid", "the name of an extended attribute has 1 to 255 bytes without NUL", bytes=length)
    return length


def _no_attribute(name: str) -> Refused:
    return Refused("NotFound", "no such extended attribute", name=name, reason="no_attribute")
