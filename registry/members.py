"""Commands on members, tokens and certificates. Pure; called by ``registry.state`` only."""

from __future__ import annotations

from dataclasses import replace

from registry import commands as c
from registry import member_commands as mc
from registry.model import ClusterRecord, MemberRecord, MemberRole, TokenRecord
from registry.refusals import Refused
from registry.tables import WritableTables, is_node_id

ADDRESS_BYTES_MAX = 255
TOKENS_MAX = 1024
TOKEN_LIFE_NS_MAX = 30 * 86_400 * 10**9


def form_cluster(tables: WritableTables, envelope: c.Envelope, command: mc.FormCluster) -> ClusterRecord:
    """The cluster record and its first voter."""
    known = tables.cluster()
    if known is not None:
        if known.fingerprint != command.fingerprint:
            raise Refused("Conflict", "this vpool is a cluster already, with another authority", fingerprint=known.fingerprint)
        return known
    _check_member(command.node, command.address, command.serial)
    record = ClusterRecord(command.fingerprint, command.backend, command.now_ns)
    tables.put_cluster(record)
    tables.put_member(
        MemberRecord(command.node, MemberRole.VOTER, command.address, command.serial, False, command.now_ns, "", command.name)
    )
    return record


def grant_token(tables: WritableTables, envelope: c.Envelope, command: mc.GrantToken) -> TokenRecord:
    """Note a token; old ones go."""
    _check_cluster(tables)
    known = tables.token(command.serial)
    if known is not None:
        return known
    _check_serial(command.serial)
    if not command.now_ns < command.expires_ns <= command.now_ns + TOKEN_LIFE_NS_MAX:
        raise Refused("Invalid", "a token lives between a moment and 30 days")
    for token in list(tables.tokens()):
        if token.expires_ns < command.now_ns - TOKEN_LIFE_NS_MAX:
            tables.delete_token(token.serial)
    if sum(1 for _ in tables.tokens()) >= TOKENS_MAX:
        raise Refused("NoSpace", "too many tokens", limit=TOKENS_MAX)
    record = TokenRecord(command.serial, command.expires_ns, "")
    tables.put_token(record)
    return record


def admit(tables: WritableTables, envelope: c.Envelope, command: mc.Admit) -> MemberRecord:
    """A token for a membership."""
    _check_cluster(tables)
    token = tables.token(command.token)
    if token is None:
        raise Refused("Denied", "this vpool has given no such token; ask for one with `vpool cluster token`")
    member = tables.member(command.node)
    if token.used_by:
        if token.used_by == command.node and member is not None and not member.removed:
            return member
        raise Refused("Denied", "the token has been used; ask for another with `vpool cluster token`", by=token.used_by)
    if command.now_ns > token.expires_ns:
        raise Refused("Denied", "the token has expired; ask for another with `vpool cluster token`")
    if member is not None:
        raise Refused("Exists", "a node with this id is, or has been, a member of this vpool", node=member.id)
    _check_member(command.node, command.address, command.serial)
    members = [found for found in tables.members() if not found.removed]
    if len(members) >= mc.MEMBERS_MAX:
        raise Refused("NoSpace", "the vpool has as many members as it can have", limit=mc.MEMBERS_MAX)
    taken = next((found.id for found in members if found.address == command.address), None)
    if taken is not None:
        raise Refused("Conflict", "another member is at this address", address=command.address, node=taken)
    tables.put_token(replace(token, used_by=command.node))
    record = MemberRecord(
        command.node, command.role, command.address, command.serial, False, command.now_ns, command.token, command.name
    )
    tables.put_member(record)
    return record


def set_role(tables: WritableTables, envelope: c.Envelope, command: mc.SetRole) -> MemberRecord:
    """What the leader then brings about, step by step."""
    member = _member(tables, command.node)
    if member.role is command.role:
        return member
    if MemberRole.WITNESS in (member.role, command.role):
        raise Refused("Invalid", "a witness is one from its joining on; remove it, and let it join anew", node=member.id)
    if command.role is MemberRole.REPLICA:
        _check_not_last(tables, member)
    record = replace(member, role=command.role)
    tables.put_member(record)
    return record


def remove_member(tables: WritableTables, envelope: c.Envelope, command: mc.RemoveMember) -> MemberRecord:
    """The record stays, as a mark that its certificate is good for nothing."""
    member = tables.member(command.node)
    if member is None:
        raise Refused("NotFound", "no such member", node=command.node[:64])
    if member.removed:
        return member
    _check_not_last(tables, member)
    node = tables.node(member.id)
    if node is not None and not node.expired:
        owned = sum(record.owner == member.id for record in tables.objects_with_log())
        if owned:
            raise Refused(
                "Conflict", "the node has objects and its lease lives; stop or drain it first", node=member.id, objects=owned
            )
        tables.drop_handles(member.id)
        tables.put_node(replace(node, expired=True))
    record = replace(member, removed=True)
    tables.put_member(record)
    return record


def change_member(tables: WritableTables, envelope: c.Envelope, command: mc.ChangeMember) -> MemberRecord:
    """Its address, its certificate."""
    member = _member(tables, command.node)
    _check_member(command.node, command.address, command.serial)
    if tables.revoked(command.serial):
        raise Refused("Denied", "this certificate has been taken back", serial=command.serial)
    if command.serial != member.serial:
        tables.revoke(member.serial, command.until_ns)
    record = replace(member, address=command.address, serial=command.serial, name=command.name or member.name)
    tables.put_member(record)
    return record


def revoke_certificate(tables: WritableTables, envelope: c.Envelope, command: mc.RevokeCertificate) -> None:
    """One serial number."""
    _check_serial(command.serial)
    for member in tables.members():
        if member.serial == command.serial and not member.removed:
            raise Refused("Conflict", "a member has this certificate; let it rotate first, or remove it", node=member.id)
    tables.forget_revoked(command.now_ns)
    tables.revoke(command.serial, command.until_ns)


def _check_cluster(tables: WritableTables) -> None:
    if tables.cluster() is None:
        raise Refused("Conflict", "this vpool is no cluster; make it one with `vpool cluster init`")


def _member(tables: WritableTables, node: str) -> MemberRecord:
    member = tables.member(node)
    if member is None:
        raise Refused("NotFound", "no such member", node=node[:64])
    if member.removed:
        raise Refused("Denied", "the node has been removed from the vpool", node=member.id)
    return member


def _check_not_last(tables: WritableTables, going: MemberRecord) -> None:
    """Somebody with storage must go on voting."""
    left = [
        member for member in tables.members() if member.id != going.id and not member.removed and member.role is MemberRole.VOTER
    ]
    if going.role is MemberRole.VOTER and not left:
        raise Refused("Conflict", "this is the last voter; let another join first", node=going.id)


def _check_member(node: str, address: str, serial: str) -> None:
    if not is_node_id(node) or "." in node:
        raise Refused("Invalid", "a member's id has 1 to 64 of A-Z a-z 0-9 _ -", node=node[:64])
    if not 0 < len(address.encode("utf-8", "surrogateescape")) <= ADDRESS_BYTES_MAX:
        raise Refused("Invalid", "an address has 1 to 255 bytes", bytes=len(address))
    _check_serial(serial)


def _check_serial(serial: str) -> None:
    if not 0 < len(serial) <= 64 or serial.strip("0123456789ABCDEF"):
        raise Refused("Invalid", "a serial number is upper-case hexadecimal", serial=serial[:64])
