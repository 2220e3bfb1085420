"""Commands on the vPool's birth record, nodes and leases. Pure; called by ``registry.state`` only."""

from __future__ import annotations

from dataclasses import astuple, replace

from registry import commands as c
from registry.model import ROOT_INODE, Inode, InodeKind, NodeRecord, NodeStatus, VPoolRecord
from registry.refusals import Refused
from registry.tables import NUMBER_MAX, WritableTables, is_node_id, is_object_id

FORMAT = 1
ADDRESS_BYTES_MAX = 255
RELEASE_BYTES_MAX = 64
RULES_MAX = 256


def initialise(tables: WritableTables, envelope: c.Envelope, command: c.Initialise) -> VPoolRecord:
    """Write the birth record and the root directory, once."""
    known = tables.vpool()
    if known is not None:
        if known.id != command.vpool_id:
            raise Refused("Conflict", "this registry belongs to another vpool", vpool=known.id)
        return known
    if not is_object_id(command.vpool_id):
        raise Refused("Invalid", "a vpool's id has 32 lower-case hexadecimal digits", id=command.vpool_id[:64])
    if command.format != FORMAT:
        raise Refused("Invalid", "this program knows another format of the vpool", format=command.format, known=FORMAT)
    if len(command.volume_rules) > RULES_MAX or not all(
        0 < len(rule.encode()) <= c.NAME_BYTES_MAX for rule in command.volume_rules
    ):
        raise Refused("Invalid", "at most 256 rules of 1 to 255 bytes each")
    if not 0 <= command.mode <= 0o7777:
        raise Refused("Invalid", "a mode has bits 0o7777 only", mode=command.mode)
    record = VPoolRecord(command.vpool_id, command.name, command.format, command.volume_rules, command.now_ns)
    tables.put_vpool(record)
    now = command.now_ns
    tables.count(inodes=1)
    tables.put_inode(
        Inode(
            ROOT_INODE, InodeKind.DIRECTORY, "", command.mode, command.uid, command.gid, 2, 0, now, now, now, "", ROOT_INODE
        )
    )  # fmt: skip
    return record


def register_node(tables: WritableTables, envelope: c.Envelope, command: c.RegisterNode) -> NodeRecord:
    """Begin a new incarnation: the older one's handles are gone, its commands refused."""
    if (command.node, command.incarnation) != (envelope.node, envelope.incarnation):
        raise Refused("Invalid", "a node registers itself, in the incarnation that asks", node=envelope.node)
    if not is_node_id(command.node):
        raise Refused("Invalid", "a node's id has 1 to 64 of A-Z a-z 0-9 . _ -", node=command.node[:64])
    if not 0 < command.incarnation < NUMBER_MAX:
        raise Refused("Invalid", "an incarnation is positive", incarnation=command.incarnation)
    if len(command.address.encode("utf-8", "surrogateescape")) > ADDRESS_BYTES_MAX:
        raise Refused("Invalid", "an address has at most 255 bytes", bytes=len(command.address))
    if len(command.release.encode("utf-8", "surrogateescape")) > RELEASE_BYTES_MAX:
        raise Refused("Invalid", "a release has at most 64 bytes", bytes=len(command.release))
    member = tables.member(command.node)
    if member is not None and member.removed:
        raise Refused("Fenced", "the node has been removed from the vpool", node=member.id)
    known = tables.node(command.node)
    if known is not None and known.incarnation >= command.incarnation:
        raise Refused("Fenced", "this incarnation or a later one is registered", incarnation=known.incarnation)
    tables.upgrade()
    tables.drop_handles(command.node)
    status, domain = (known.status, known.domain) if known is not None else (NodeStatus.ACTIVE, "")
    if command.domain is not None:
        domain = _checked_domain(command.domain)
    record = NodeRecord(
        command.node, command.incarnation, command.address, 0, False, status, domain, None, command.release
    )  # fmt: skip
    tables.put_node(record)
    return record


def set_node(tables: WritableTables, envelope: c.Envelope, command: c.SetNode) -> NodeRecord:
    """An administrator's will for a node."""
    known = tables.node(command.node)
    if known is None:
        raise Refused("NotFound", "no such node", node=command.node[:64])
    domain = known.domain if command.domain is None else _checked_domain(command.domain)
    record = replace(known, status=command.status or known.status, domain=domain)
    tables.put_node(record)
    return record


def _checked_domain(domain: str) -> str:
    if domain and not is_node_id(domain):
        raise Refused("Invalid", "a failure domain has up to 64 of A-Z a-z 0-9 . _ -", domain=domain[:64])
    return domain


def renew_lease(tables: WritableTables, envelope: c.Envelope, command: c.RenewLease) -> NodeRecord:
    """A renewal with a number greater than any before."""
    known = tables.node(envelope.node)
    assert known is not None  # the state machine has fenced everybody else
    if not known.lease_number < command.number < NUMBER_MAX:
        raise Refused("Conflict", "a renewal has a number greater than the last", last=known.lease_number)
    if command.room_bytes is not None and not 0 <= command.room_bytes < NUMBER_MAX:
        raise Refused("Invalid", "room is not negative", room_bytes=command.room_bytes)
    if not all(0 <= value < NUMBER_MAX for value in astuple(command.unsaved)):
        raise Refused("Invalid", "what is unsaved is not negative")
    record = replace(known, lease_number=command.number, room_bytes=command.room_bytes, unsaved=command.unsaved)
    tables.put_node(record)
    return record


def expire(tables: WritableTables, envelope: c.Envelope, command: c.Expire) -> NodeRecord:
    """Declare one incarnation dead unless it has renewed since."""
    known = tables.node(command.node)
    if known is None:
        raise Refused("NotFound", "no such node", node=command.node[:64])
    if known.incarnation != command.incarnation or known.lease_number > command.lease_number:
        raise Refused("Conflict", "the node has been seen since", incarnation=known.incarnation, last=known.lease_number)
    if known.expired:
        return known
    tables.drop_handles(command.node)
    record = replace(known, expired=True)
    tables.put_node(record)
    return record
