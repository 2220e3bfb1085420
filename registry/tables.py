"""The records of the registry in a key-value view: keys, values and the few indexes, by name. Pure.

``docs/formats/registry.md`` has the layout to the byte. ``Tables`` reads; ``WritableTables`` changes. Nothing here
judges whether a change is allowed: that is what the command modules are for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from registry.codec import decode_record, encode_record
from registry.commands import NAME_BYTES_MAX
from registry.kv import ReadableView, View
from registry.model import (
    ROOT_INODE,
    ClusterRecord,
    DirectoryEntry,
    Inode,
    MemberRecord,
    NodeRecord,
    ObjectKind,
    ObjectRecord,
    TokenRecord,
    VPoolRecord,
)

FIRST_NUMBER = 16  # numbers below stay free for "." and ".." in cookies, and for inodes with a meaning (1: root)

NUMBER_MAX = 1 << 63
DEPTH_MAX = 4096

KEY_VPOOL = b"Mvpool"
KEY_NEXT = b"Mnext"
KEY_GENERATION = b"Mgeneration"
KEY_COUNT = b"Mcount"
KEY_INDEXED = b"Mindexed"

_u64 = struct.Struct(">Q")
_u64x2 = struct.Struct(">QQ")
_u64x3 = struct.Struct(">QQQ")
_u32 = struct.Struct(">I")


def name_bytes(name: str) -> bytes:
    """A name as its bytes."""
    return name.encode("utf-8", "surrogateescape")


def is_node_id(text: str) -> bool:
    """Whether this is 1–64 of A–Z a–z 0–9 . _ - (a node)."""
    return 0 < len(text) <= 64 and text.isascii() and all(char.isalnum() or char in "._-" for char in text)


def is_object_id(text: str) -> bool:
    """Whether this is 32 lower-case hexadecimal digits (an object, a vPool)."""
    return len(text) == 32 and not text.strip("0123456789abcdef")


def _inode(number: int) -> bytes:
    return b"I" + _u64.pack(number)


def _by_name(parent: int, name: str) -> bytes:
    return b"L" + _u64.pack(parent) + name_bytes(name)


def _by_cookie(parent: int, cookie: int) -> bytes:
    return b"C" + _u64x2.pack(parent, cookie)


def _back(inode: int, parent: int, cookie: int) -> bytes:
    return b"B" + _u64x3.pack(inode, parent, cookie)


def _handle(inode: int, node: str) -> bytes:
    return b"H" + _u64.pack(inode) + node.encode()


def _handle_of_node(node: str, inode: int) -> bytes:
    return b"G" + node.encode() + b"\0" + _u64.pack(inode)


def _remembered(node: str, sequence: int) -> bytes:
    return b"Q" + node.encode() + b"\0" + _u64.pack(sequence)


def _attribute(inode: int, name: str) -> bytes:
    return b"X" + _u64.pack(inode) + name_bytes(name)


def after(prefix: bytes) -> bytes:
    """The first key behind all that begin with ``prefix`` (whose last byte is not 0xff)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


class Tables:
    """Reads. May be used with any view, by the state machine and by readers in other processes."""

    def __init__(self, view: ReadableView) -> None:
        self._read = view

    def vpool(self) -> VPoolRecord | None:
        data = self._read.get(KEY_VPOOL)
        return None if data is None else decode_record(VPoolRecord, data)

    def generation(self) -> int:
        """One more than how often the registry has been rebuilt."""
        data = self._read.get(KEY_GENERATION)
        return 1 if data is None else int(_u64.unpack(data)[0])

    def node(self, node: str) -> NodeRecord | None:
        if not is_node_id(node):
            return None
        data = self._read.get(b"N" + node.encode())
        return None if data is None else decode_record(NodeRecord, data)

    def nodes(self) -> Iterator[NodeRecord]:
        return (decode_record(NodeRecord, value) for _, value in self._read.scan(b"N", b"O"))

    def cluster(self) -> ClusterRecord | None:
        """None: the vPool has one node and no links."""
        data = self._read.get(b"K")
        return None if data is None else decode_record(ClusterRecord, data)

    def member(self, node: str) -> MemberRecord | None:
        """Also one that has been removed."""
        data = self._read.get(b"K" + node.encode()) if is_node_id(node) else None
        return None if data is None else decode_record(MemberRecord, data)

    def members(self) -> Iterator[MemberRecord]:
        """By id; those too that have been removed."""
        return (decode_record(MemberRecord, value) for _, value in self._read.scan(b"K\0", b"L"))

    def token(self, serial: str) -> TokenRecord | None:
        data = self._read.get(b"T" + serial.encode("utf-8", "surrogateescape"))
        return None if data is None else decode_record(TokenRecord, data)

    def tokens(self) -> Iterator[TokenRecord]:
        return (decode_record(TokenRecord, value) for _, value in self._read.scan(b"T", b"U"))

    def revoked(self, serial: str) -> bool:
        """Whether a certificate has been taken back."""
        return self._read.get(b"W" + serial.encode("utf-8", "surrogateescape")) is not None

    def inode(self, number: int) -> Inode | None:
        if not 0 < number < NUMBER_MAX:
            return None
        data = self._read.get(_inode(number))
        return None if data is None else decode_record(Inode, data)

    def entry(self, parent: int, name: str) -> DirectoryEntry | None:
        """One entry by its name, O(log n)."""
        if not 0 < parent < NUMBER_MAX or len(name) > NAME_BYTES_MAX or len(name_bytes(name)) > NAME_BYTES_MAX:
            return None
        data = self._read.get(_by_name(parent, name))
        if data is None:
            return None
        cookie, inode = _u64x2.unpack(data)
        return DirectoryEntry(cookie, name, inode)

    def entries(self, parent: int, after_cookie: int, limit: int) -> list[DirectoryEntry]:
        """Entries behind a cookie in order of cookies; O(log n + limit)."""
        if not (0 < parent < NUMBER_MAX and 0 <= after_cookie < NUMBER_MAX):
            return []
        start = _by_cookie(parent, after_cookie + 1)
        found = self._read.scan(start, b"C" + _u64.pack(parent + 1))
        return [
            DirectoryEntry(_u64.unpack_from(key, 9)[0], value[8:].decode("utf-8", "surrogateescape"), _u64.unpack_from(value)[0])
            for key, value in islice(found, limit)
        ]

    def names(self, inode: int) -> Iterator[tuple[int, str]]:
        """(parent, name) of every name an inode has."""
        for key, _ in self._read.scan(_back(inode, 0, 0), _back(inode + 1, 0, 0)):
            _, parent, cookie = _u64x3.unpack_from(key, 1)
            value = self._read.get(_by_cookie(parent, cookie))
            if value is not None:
                yield parent, value[8:].decode("utf-8", "surrogateescape")

    def path_of(self, inode: int) -> str | None:
        """One path of an inode from the root (of several names, the first by parent); None without a name."""
        parts: list[str] = []
        while inode != ROOT_INODE:
            name = next(self.names(inode), None)
            if name is None or len(parts) > DEPTH_MAX:
                return None
            inode = name[0]
            parts.append(name[1])
        return "/" + "/".join(reversed(parts))

    def object(self, object_id: str) -> ObjectRecord | None:
        if not is_object_id(object_id):
            return None
        data = self._read.get(b"O" + object_id.encode())
        return None if data is None else decode_record(ObjectRecord, data)

    def objects(self) -> Iterator[ObjectRecord]:
        return (decode_record(ObjectRecord, value) for _, value in self._read.scan(b"O", b"P"))

    def objects_with_log(self) -> Iterator[ObjectRecord]:
        """Volumes and file logs: all objects but files, of which there may be very many."""
        found = (self.object(key[1:].decode()) for key, _ in self._read.scan(b"V", b"W"))
        return (record for record in found if record is not None)

    def nameless(self) -> Iterator[str]:
        """Ids of volumes and file logs without a name that are not forgotten yet."""
        return (key[1:].decode() for key, _ in self._read.scan(b"R", b"S"))

    def nameless_files(self, log: str, after_address: int = 0) -> Iterator[tuple[int, str]]:
        """(address, object) of the files of a log whose last name is gone, ascending."""
        return self._by_address(b"U" + log.encode(), after_address)

    def free_addresses(self, log: str) -> Iterator[tuple[int, str]]:
        """(address, "") of those that may be given again, ascending."""
        return self._by_address(b"E" + log.encode(), 0)

    def file_at(self, log: str, address: int) -> str | None:
        """The object that has an address in a file log."""
        data = self._read.get(b"F" + log.encode() + _u32.pack(address))
        return None if data is None else data.decode()

    def files_in(self, log: str, after_address: int = 0) -> Iterator[tuple[int, str]]:
        """(address, object) of the files in a log, ascending."""
        return self._by_address(b"F" + log.encode(), after_address)

    def had_files(self, log: str) -> bool:
        """Whether an address of the log has ever been given."""
        return self._read.get(b"A" + log.encode()) is not None

    def _by_address(self, prefix: bytes, after_address: int) -> Iterator[tuple[int, str]]:
        for key, value in self._read.scan(prefix + _u32.pack(after_address + 1), after(prefix)):
            yield _u32.unpack_from(key, len(prefix))[0], value.decode()

    def attribute(self, inode: int, name: str) -> bytes | None:
        """The value of an extended attribute."""
        return self._read.get(_attribute(inode, name)) if 0 < inode < NUMBER_MAX else None

    def attributes(self, inode: int) -> Iterator[tuple[str, bytes]]:
        """(name, value) of the extended attributes of an inode, by name."""
        for key, value in self._read.scan(_attribute(inode, ""), _attribute(inode + 1, "")):
            yield key[9:].decode("utf-8", "surrogateescape"), value

    def counted(self) -> tuple[int, int]:
        """(inodes, bytes that their contents hold)."""
        data = self._read.get(KEY_COUNT)
        if data is not None:
            return _u64x2.unpack(data)
        inodes = held_bytes = 0
        for _, value in self._read.scan(b"I", b"J"):  # once, for a registry of an earlier release
            inodes, held_bytes = inodes + 1, held_bytes + decode_record(Inode, value).held_bytes
        return inodes, held_bytes

    def handles(self, inode: int) -> list[tuple[str, int]]:
        """(node, open handles) on an inode."""
        found = self._read.scan(_handle(inode, ""), _handle(inode + 1, ""))
        return [(key[9:].decode(), _u64.unpack(value)[0]) for key, value in found]

    def inodes_held(self, node: str) -> list[int]:
        """Inodes that a node has handles on."""
        prefix = b"G" + node.encode() + b"\0"
        return [_u64.unpack_from(key, len(prefix))[0] for key, _ in self._read.scan(prefix, after(prefix))]

    def handles_of(self, inode: int, node: str) -> int:
        data = self._read.get(_handle(inode, node))
        return 0 if data is None else int(_u64.unpack(data)[0])

    def session(self, node: str) -> tuple[int, int] | None:
        """(incarnation, highest sequence applied) of a node."""
        data = self._read.get(b"S" + node.encode())
        return None if data is None else _u64x2.unpack(data)

    def remembered(self, node: str, sequence: int) -> bytes | None:
        """The encoded outcome of a command of the node's session."""
        return self._read.get(_remembered(node, sequence))


class WritableTables(Tables):
    """Changes. Only ``apply`` may have one."""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._view = view

    def put_vpool(self, record: VPoolRecord) -> None:
        self._view.put(KEY_VPOOL, encode_record(record))

    def put_generation(self, generation: int) -> None:
        """Only for a registry that is being rebuilt."""
        self._view.put(KEY_GENERATION, _u64.pack(generation))

    def next_number(self) -> int:
        """A number never given before, for inodes and cookies."""
        data = self._view.get(KEY_NEXT)
        number = FIRST_NUMBER if data is None else int(_u64.unpack(data)[0])
        self._view.put(KEY_NEXT, _u64.pack(number + 1))
        return number

    def put_node(self, record: NodeRecord) -> None:
        self._view.put(b"N" + record.id.encode(), encode_record(record))

    def put_cluster(self, record: ClusterRecord) -> None:
        self._view.put(b"K", encode_record(record))

    def put_member(self, record: MemberRecord) -> None:
        self._view.put(b"K" + record.id.encode(), encode_record(record))

    def put_token(self, record: TokenRecord) -> None:
        self._view.put(b"T" + record.serial.encode(), encode_record(record))

    def delete_token(self, serial: str) -> None:
        self._view.delete(b"T" + serial.encode())

    def revoke(self, serial: str, until_ns: int) -> None:
        """Remembered until the certificate's own end."""
        self._view.put(b"W" + serial.encode(), _u64.pack(until_ns))

    def forget_revoked(self, now_ns: int) -> None:
        """Those that have ended by themselves."""
        for key in [key for key, value in self._view.scan(b"W", b"X") if _u64.unpack(value)[0] < now_ns]:
            self._view.delete(key)

    def put_inode(self, inode: Inode) -> Inode:
        self._view.put(_inode(inode.number), encode_record(inode))
        return inode

    def change_inode(self, before: Inode, inode: Inode) -> Inode:
        """``put_inode`` of one whose content may have grown or shrunk."""
        if before.held_bytes != inode.held_bytes:
            self.count(held_bytes=inode.held_bytes - before.held_bytes)
        return self.put_inode(inode)

    def delete_inode(self, inode: Inode) -> None:
        """The record with its extended attributes."""
        self.count(inodes=-1, held_bytes=-inode.held_bytes)
        self._view.delete(_inode(inode.number))
        for name in [name for name, _ in self.attributes(inode.number)]:
            self.delete_attribute(inode.number, name)

    def put_attribute(self, inode: int, name: str, value: bytes) -> None:
        self._view.put(_attribute(inode, name), value)

    def delete_attribute(self, inode: int, name: str) -> None:
        self._view.delete(_attribute(inode, name))

    def count(self, inodes: int = 0, held_bytes: int = 0) -> None:
        """To be called before the inodes change: a registry that has no count yet counts what it has."""
        known = self.counted()
        self._view.put(KEY_COUNT, _u64x2.pack(known[0] + inodes, known[1] + held_bytes))

    def put_entry(self, parent: int, entry: DirectoryEntry) -> None:
        """Add an entry to all three indexes, or let an existing name (same cookie) mean another inode."""
        self._view.put(_by_name(parent, entry.name), _u64x2.pack(entry.cookie, entry.inode))
        self._view.put(_by_cookie(parent, entry.cookie), _u64.pack(entry.inode) + name_bytes(entry.name))
        self._view.put(_back(entry.inode, parent, entry.cookie), b"")

    def delete_entry(self, parent: int, entry: DirectoryEntry) -> None:
        self._view.delete(_by_name(parent, entry.name))
        self._view.delete(_by_cookie(parent, entry.cookie))
        self._view.delete(_back(entry.inode, parent, entry.cookie))

    def put_object(self, record: ObjectRecord) -> ObjectRecord:
        self._view.put(b"O" + record.id.encode(), encode_record(record))
        if record.kind is not ObjectKind.FILE:
            self._view.put(b"V" + record.id.encode(), b"")
        return record

    def upgrade(self) -> None:
        """Make the indexes that a registry of an earlier release lacks, once; every life of a node begins with it."""
        if self._view.get(KEY_INDEXED) is not None:
            return
        self.count()
        for record in list(self.objects()):
            self.put_object(record)
        for object_id in list(self.nameless()):
            record_or_none = self.object(object_id)
            if record_or_none is not None and record_or_none.log:
                self._view.delete(b"R" + object_id.encode())
                self.mark_nameless(record_or_none)
        self._view.put(KEY_INDEXED, b"")

    def delete_object(self, record: ObjectRecord) -> None:
        """The record with all that hangs on it: marks, address (which is free from now on), a log's own addresses."""
        for prefix in (b"O", b"V", b"R", b"A"):
            self._view.delete(prefix + record.id.encode())
        if record.kind is ObjectKind.FILE_LOG:
            for address, _ in list(self.free_addresses(record.id)):
                self._view.delete(b"E" + record.id.encode() + _u32.pack(address))
        if record.log:
            place = record.log.encode() + _u32.pack(record.address)
            self._view.delete(b"F" + place)
            self._view.delete(b"U" + place)
            if record.layout > 1:  # what layout 1 leaves behind at an address does not say whose it was
                self._view.put(b"E" + place, b"")

    def drop_object(self, record: ObjectRecord) -> None:
        """An object and its inode."""
        self.delete_object(record)
        inode = self.inode(record.inode)
        if inode is not None:
            self.delete_inode(inode)

    def mark_nameless(self, record: ObjectRecord) -> None:
        if record.log:
            self._view.put(b"U" + record.log.encode() + _u32.pack(record.address), record.id.encode())
        else:
            self._view.put(b"R" + record.id.encode(), b"")

    def take_address(self, log: str) -> int:
        """The lowest free address of a log, or one never given before, from 1; the caller checks the limit."""
        free = next(iter(self.free_addresses(log)), None)
        if free is not None:
            self._view.delete(b"E" + log.encode() + _u32.pack(free[0]))
            return free[0]
        key = b"A" + log.encode()
        data = self._view.get(key)
        address = 1 if data is None else int(_u32.unpack(data)[0])
        self._view.put(key, _u32.pack(address + 1))
        return address

    def reserve_address(self, log: str, address: int) -> None:
        """See that an address that is in use already is not given again; only for a registry that is being rebuilt."""
        self._view.delete(b"E" + log.encode() + _u32.pack(address))
        key = b"A" + log.encode()
        data = self._view.get(key)
        if data is None or int(_u32.unpack(data)[0]) <= address:
            self._view.put(key, _u32.pack(address + 1))

    def put_file(self, log: str, address: int, object_id: str) -> None:
        self._view.put(b"F" + log.encode() + _u32.pack(address), object_id.encode())

    def move_file(self, record: ObjectRecord, log: str, address: int = 0) -> ObjectRecord:
        """Let a file be in another log, at an address that is in use already or (0) the next; the one that it had stays taken."""
        place = record.log.encode() + _u32.pack(record.address)
        self._view.delete(b"F" + place)
        is_nameless = self._view.get(b"U" + place) is not None
        self._view.delete(b"U" + place)
        if address:
            self.reserve_address(log, address)
        moved = self.put_object(replace(record, log=log, address=address or self.take_address(log)))
        self.put_file(log, moved.address, moved.id)
        if is_nameless:
            self.mark_nameless(moved)
        return moved

    def put_handles(self, inode: int, node: str, count: int) -> None:
        """Set how often a node has an inode open; 0 removes the record."""
        if count:
            self._view.put(_handle(inode, node), _u64.pack(count))
            self._view.put(_handle_of_node(node, inode), b"")
        else:
            self._view.delete(_handle(inode, node))
            self._view.delete(_handle_of_node(node, inode))

    def drop_handles(self, node: str) -> None:
        """All of a node's handles, when its incarnation is over."""
        prefix = b"G" + node.encode() + b"\0"
        for key in [key for key, _ in self._view.scan(prefix, after(prefix))]:
            self.put_handles(_u64.unpack_from(key, len(prefix))[0], node, 0)

    def put_session(self, node: str, incarnation: int, top: int) -> None:
        self._view.put(b"S" + node.encode(), _u64x2.pack(incarnation, top))

    def remember(self, node: str, sequence: int, outcome: bytes) -> None:
        self._view.put(_remembered(node, sequence), outcome)

    def forget_outcome(self, node: str, sequence: int) -> None:
        self._view.delete(_remembered(node, sequence))

    def forget_outcomes(self, node: str) -> None:
        prefix = b"Q" + node.encode() + b"\0"
        for key in [key for key, _ in self._view.scan(prefix, after(prefix))]:
            self._view.delete(key)
