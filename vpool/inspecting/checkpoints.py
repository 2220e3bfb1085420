"""Checkpoint objects: nodes, index, root, trailer. docs/formats/checkpoint.md."""

from __future__ import annotations

from engine import crc32c, xxh3
from vpool.inspecting.findings import Bytes, Findings, hexadecimal, location

MAGIC = b"vPoolMAP"
ROOT_MAGIC = b"vPoolROT"
END_MAGIC = b"vPoolMAE"
HEADER = 32
TRAILER = 40
ITEM = 24
KINDS = {1: "map leaf", 2: "live leaf", 3: "map inner", 4: "live inner"}
ITEM_BYTES = {1: 16, 2: 8, 3: 32, 4: 32}
LEAF_BITS = {1: 7, 3: 7, 2: 9, 4: 9}


def inspect_checkpoint(data: bytes, findings: Findings) -> None:
    """A whole checkpoint object."""
    bytes_ = Bytes(data)
    findings.magic(bytes_, MAGIC, 1)
    bytes_.u32()
    findings.fields["volume"] = bytes_.uuid()
    if not findings.expect(len(data) >= HEADER + TRAILER, "a checkpoint object is longer than that"):
        return
    end = Bytes(data, len(data) - TRAILER)
    index_at, items, root_at, checksum, magic = end.u64(), end.u64(), end.u64(), end.u64(), end.take(8)
    findings.fields |= {"nodes": items, "index at": index_at, "root at": root_at or "none"}
    findings.expect(magic == END_MAGIC, "the trailer's magic is not there: the object was cut")
    if not findings.expect(index_at + items * ITEM + TRAILER == len(data), "the index does not end where the trailer begins"):
        return
    covered = data[:HEADER] + data[index_at : index_at + items * ITEM] + data[len(data) - TRAILER : len(data) - 16]
    findings.expect(checksum == xxh3(covered), "header, index and trailer do not match their checksum")
    _nodes(data, Bytes(data, index_at), items, findings)
    if root_at:
        root(data[root_at:index_at], findings)


def _nodes(data: bytes, index: Bytes, items: int, findings: Findings) -> None:
    table = findings.table("nodes", "offset", "kind", "level", "first key", "items", "bytes")
    for _ in range(items):
        kind, level, _, length, key, offset, checksum = (
            index.u8(),
            index.u8(),
            index.u16(),
            index.u32(),
            index.u64(),
            index.u32(),
            index.u32(),
        )
        node = data[offset : offset + length]
        name = KINDS.get(kind, f"unknown ({kind})")
        findings.row(table, offset, name, level, key, Bytes(node, 2).u16() if len(node) >= 4 else None, length)
        if findings.expect(len(node) == length and crc32c(node) == checksum, f"the node at {offset} does not match its checksum"):
            _node(node, (kind, level, key), offset, findings)


def _node(node: bytes, told: tuple[int, int, int], offset: int, findings: Findings) -> None:
    """What the index says of a node must be what it says itself; its slots must ascend."""
    bytes_ = Bytes(node)
    kind, level, count, _, key = bytes_.u8(), bytes_.u8(), bytes_.u16(), bytes_.u32(), bytes_.u64()
    findings.expect((kind, level, key) == told, f"the node at {offset} is not the one that the index tells of")
    size = ITEM_BYTES.get(kind)
    if size is None or not findings.expect(len(node) == 16 + count * size, f"the node at {offset} has a wrong length"):
        return
    findings.expect((kind in (1, 2)) == (level == 0), f"the node at {offset}: kind and level do not agree")
    bits = LEAF_BITS[kind] + 9 * level
    findings.expect(bits >= 64 or key % (1 << bits) == 0, f"the node at {offset}: its first key is not aligned")
    slots = [int.from_bytes(node[at : at + 2], "little") for at in range(16, len(node), size)]
    most = 128 if kind == 1 else 512
    right = slots == sorted(set(slots)) and all(slot < most for slot in slots)
    findings.expect(right, f"the node at {offset}: its slots do not ascend")


def root(data: bytes, findings: Findings) -> None:
    """The root of a checkpoint, by itself."""
    bytes_ = Bytes(data)
    found = bytes_.take(8)
    findings.expect(found == ROOT_MAGIC, "the root's magic is not there")
    version = bytes_.u32()
    findings.expect(version == 1, f"the root's version {version} is not known here")
    fields = findings.fields
    fields |= {"root: levels": bytes_.u8(), "root: levels of live": bytes_.u8()}
    bytes_.u16()
    fields |= {"root: volume": bytes_.uuid(), "root: epoch": bytes_.u64()}
    fields["root: includes"] = f"TLog {bytes_.u64():x}/{bytes_.u64():x}"
    fields["root: next SCO"] = bytes_.u64()
    for tree in ("map", "live"):
        fields[f"root: top of {tree}"] = _pointer(bytes_)
    lineage_count, object_count = bytes_.u32(), bytes_.u32()
    body = 120 + 32 * lineage_count + 48 * object_count
    if not findings.expect(body + 8 <= len(data), "the root is cut short"):
        return
    lineage(bytes_, lineage_count, findings)
    table = findings.table("checkpoint objects", "number", "origin", "epoch", "live bytes", "bytes")
    last = 0
    for _ in range(object_count):
        number, origin, epoch, live, size = bytes_.u64(), bytes_.uuid(), bytes_.u64(), bytes_.u64(), bytes_.u64()
        findings.row(table, number, origin, epoch, live, size)
        findings.expect(number > last, f"checkpoint object {number} is out of order")
        last = number
    stored = bytes_.u64()
    fields["root: checksum"] = hexadecimal(stored)
    findings.expect(stored == xxh3(data[:body]), "the root does not match its checksum")


def lineage(bytes_: Bytes, count: int, findings: Findings) -> None:
    """Which bucket and epoch name the SCOs from a number on."""
    table = findings.table("lineage", "first SCO", "origin", "epoch")
    for _ in range(count):
        findings.row(table, bytes_.u64(), bytes_.uuid(), bytes_.u64())


def _pointer(bytes_: Bytes) -> str:
    number, offset, length, checksum = bytes_.u64(), bytes_.u32(), bytes_.u32(), bytes_.u32()
    bytes_.u32()
    return f"object {number} at {offset}, {length} bytes, CRC32C {checksum:08x}" if number else "none"


def page_rows(bytes_: Bytes, slots: list[int], findings: Findings, first_lba: int) -> None:
    """Entries of a local map page: locations, then checksums."""
    table = findings.table("entries", "LBA", "location", "CRC32C")
    locations = [bytes_.u64() for _ in slots]
    for slot, loc in zip(slots, locations, strict=True):
        findings.row(table, first_lba + slot, location(loc), f"{bytes_.u32():08x}")
