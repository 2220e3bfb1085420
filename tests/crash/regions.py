"""What stands where in each kind of file: every byte of a file belongs to one region, which is named by the field it is in.

A partition after ``docs/formats``, so that damage can go through all fields of all files; pure but for the bytes it is given.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

CLUSTER = 4096
RECORDS, DATA = 4096, 65536  # of a segment

Layout = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes ``start`` to ``end`` are of one field: ``part`` of the file, ``name`` of the field there."""

    part: str
    name: str
    start: int
    end: int


def layout(text: str) -> Layout:
    """``"magic:8 version:4"`` as pairs."""
    return tuple((name, int(size)) for name, size in (field.split(":") for field in text.split()))


SEGMENT_HEADER = layout(
    "magic:8 version:4 reserved:4 volume:16 epoch:8 number:8 nonce:8 lsn:8 previous:8 durable:8 reserved:40 checksum:8"
)
SEAL = layout("lsn:8 chain:8 durable:8 slots:4 records:4 checksum:8")
RECORD = layout("self:4 kind:1 reserved:1 sums:2 lsn:8 lba:8 slot:8 durable:8 chain:8")
TLOG_HEADER = layout(
    "magic:8 version:4 flags:4 volume:16 epoch:8 number:8 previous_epoch:8 previous_number:8 previous_sco:8 "
    "previous_checksum:8 first:8 next:8 scos:4 entries:4 entry_bytes:8 lsn:8 reserved:8"
)
TLOG_ROW = layout("number:8 clusters:4 crc:4")
TLOG_ENTRY = layout("kind:1 reserved:1 sums:2 slot:4 lba:8 number:8")
COMBINED_TRAILER = layout("data_bytes:8 tlog_bytes:8 magic:8")
OBJECT_HEADER = layout("magic:8 version:4 reserved:4 volume:16")
OBJECT_TRAILER = layout("index:8 items:8 root:8 checksum:8 magic:8")
INDEX_ITEM = layout("kind:1 level:1 reserved:2 length:4 key:8 offset:4 crc:4")
NODE = layout("kind:1 level:1 items:2 reserved:4 key:8")
MAP_LEAF_ITEM = layout("slot:2 reserved:2 crc:4 location:8")
LIVE_LEAF_ITEM = layout("slot:2 live:2 clusters:2 reserved:2")
INNER_ITEM = layout("slot:2 reserved:6 object:8 offset:4 length:4 crc:4 reserved:4")
NODE_KINDS = {
    1: ("map_leaf", MAP_LEAF_ITEM),
    2: ("live_leaf", LIVE_LEAF_ITEM),
    3: ("map_inner", INNER_ITEM),
    4: ("live_inner", INNER_ITEM),
}
ROOT = layout(
    "magic:8 version:4 map_levels:1 live_levels:1 reserved:2 volume:16 epoch:8 tlog_epoch:8 tlog_number:8 next:8 map:24 live:24 "
    "lineage_entries:4 objects:4"
)
LINEAGE = layout("first:8 origin:16 epoch:8")
OBJECT_ROW = layout("number:8 origin:16 epoch:8 live:8 bytes:8")
CACHE_HEADER = layout("magic:8 version:4 reserved:4 slots:8 reserved:40")
CACHE_SLOT = layout("origin:16 epoch:8 number:8 block:2 present:2 queue:1 uses:1 reserved:18 checksum:8")
PAGE = 4096
MAP_HEAD = layout("magic:8 version:4 page_bytes:4 commit:8 pages:8 root:8 root_checksum:8 level:1 reserved:7 checksum:8")
MAP_PAGE = layout("kind:1 level:1 count:2 bytes:4 page:8 commit:8")
MAP_KEY = layout("table:1 volume:16 number:8")
MAP_POINTER = layout("page:8 checksum:8")
MAP_KINDS = {1: "leaf", 2: "branch", 3: "part"}
PAGE_HEADER = layout("number:8 pad:2 flags:2 lower:2 upper:2")
META = layout("magic:4 version:4 address:8 map_bytes:8 free_tree:48 main_tree:48 last_page:8 transaction:8")
BRANCH, LEAF, OVERFLOW, META_PAGE = 1, 2, 4, 8


def regions(kind: str, data: bytes) -> list[Region]:
    """All regions of a file of a kind (``Damage.kind``), from its first byte to its last."""
    found = sorted(PARSERS.get(kind, text)(data), key=lambda region: region.start)
    assert [region.end for region in found[:-1]] == [region.start for region in found[1:]], f"{kind}: gaps or overlaps"
    assert found[0].start == 0, kind
    assert found[-1].end == len(data), kind
    return found


def fields(part: str, start: int, of: Layout) -> Iterator[Region]:
    for name, size in of:
        yield Region(part, name, start, start + size)
        start += size


def size_of(of: Layout) -> int:
    return sum(size for _, size in of)


def some(part: str, name: str, start: int, end: int) -> Iterator[Region]:
    """One region, if it has any bytes."""
    if start < end:
        yield Region(part, name, start, end)


def text(data: bytes) -> Iterator[Region]:
    """What is short, in pieces of 8 bytes."""
    for at in range(0, len(data), 8):
        yield Region("text", f"{at:04}", at, min(at + 8, len(data)))


def clusters(data: bytes, part: str = "data", start: int = 0, end: int | None = None) -> Iterator[Region]:
    """Content: the first cluster, the last one, and what is between."""
    end = len(data) if end is None else end
    first, last = min(start + CLUSTER, end), max(end - CLUSTER, min(start + CLUSTER, end))
    yield from some(part, "first", start, first)
    yield from some(part, "between", first, last)
    yield from some(part, "last", last, end)


def segment(data: bytes) -> Iterator[Region]:
    if not any(data[:4096]):
        yield Region("free", "header", 0, RECORDS)
        yield Region("free", "records", RECORDS, DATA)
        yield Region("free", "data", DATA, len(data))
        return
    yield from fields("header", 0, SEGMENT_HEADER)
    sealed = any(data[128:168])
    yield from fields("seal", 128, SEAL) if sealed else some("no seal", "all", 128, 168)
    yield from some("header", "padding", 168, RECORDS)
    (lsn,), at, slots = struct.unpack_from("<Q", data, 56), RECORDS, 0
    while at + size_of(RECORD) <= DATA and struct.unpack_from("<Q", data, at + 8)[0] == lsn:
        kind, sums, slot = data[at + 4], *struct.unpack_from("<H", data, at + 6), *struct.unpack_from("<Q", data, at + 24)
        part = {1: "write", 2: "zero", 3: "mark"}[kind]
        yield from fields(part, at, RECORD)
        end = at + size_of(RECORD) + 4 * sums
        yield from some(part, "checksums", at + size_of(RECORD), end)
        yield from some(part, "padding", end, end + end % 8)
        at, lsn = end + end % 8, lsn + 1
        slots = max(slots, slot + sums) if kind == 1 else slots
    yield from some("behind", "records", at, DATA)
    yield from clusters(data, "data", DATA, DATA + slots * CLUSTER)
    yield from some("behind", "data", DATA + slots * CLUSTER, len(data))


def tlog(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Region]:
    end = len(data) if end is None else end
    rows, entries = struct.unpack_from("<II", data, start + 96)
    yield from fields("header", start, TLOG_HEADER)
    at = start + size_of(TLOG_HEADER)
    for _ in range(rows):
        yield from fields("table", at, TLOG_ROW)
        at += size_of(TLOG_ROW)
    for _ in range(entries):
        part, (sums,) = "write" if data[at] == 1 else "zero", struct.unpack_from("<H", data, at + 2)
        yield from fields(part, at, TLOG_ENTRY)
        stop = at + size_of(TLOG_ENTRY) + 4 * sums
        yield from some(part, "checksums", at + size_of(TLOG_ENTRY), stop)
        yield from some(part, "padding", stop, stop + stop % 8)
        at = stop + stop % 8
    yield Region("footer", "checksum", at, end)


def sco(data: bytes) -> Iterator[Region]:
    if data[-8:] != b"vPoolCMB":
        yield from clusters(data)
        return
    trailer = len(data) - size_of(COMBINED_TRAILER)
    (data_bytes,) = struct.unpack_from("<Q", data, trailer)
    yield from clusters(data, "data", 0, data_bytes)
    for region in tlog(data, data_bytes, trailer):
        yield Region(f"tlog_{region.part}", region.name, region.start, region.end)
    yield from fields("trailer", trailer, COMBINED_TRAILER)


def checkpoint(data: bytes) -> Iterator[Region]:
    trailer = len(data) - size_of(OBJECT_TRAILER)
    index, items, root = struct.unpack_from("<QQQ", data, trailer)
    yield from fields("header", 0, OBJECT_HEADER)
    for at in range(index, index + items * size_of(INDEX_ITEM), size_of(INDEX_ITEM)):
        yield from fields("index", at, INDEX_ITEM)
        kind, _, length, _, offset, _ = struct.unpack_from("<BBxxIQII", data, at)
        part, item = NODE_KINDS[kind]
        yield from fields(part, offset, NODE)
        for item_at in range(offset + size_of(NODE), offset + length, size_of(item)):
            yield from fields(f"{part}_item", item_at, item)
    if root:
        yield from fields("root", root, ROOT)
        lineage, objects = struct.unpack_from("<II", data, root + 112)
        at = root + size_of(ROOT)
        for part, of, count in (("root_lineage", LINEAGE, lineage), ("root_objects", OBJECT_ROW, objects)):
            for _ in range(count):
                yield from fields(part, at, of)
                at += size_of(of)
        yield Region("root", "checksum", at, at + 8)
    yield from fields("trailer", trailer, OBJECT_TRAILER)


def cache_index(data: bytes) -> Iterator[Region]:
    yield from fields("header", 0, CACHE_HEADER)
    for at in range(size_of(CACHE_HEADER), len(data), size_of(CACHE_SLOT)):
        used = any(data[at : at + size_of(CACHE_SLOT)])
        yield from fields("slot", at, CACHE_SLOT) if used else some("free", "slot", at, at + size_of(CACHE_SLOT))


def cache_data(data: bytes) -> Iterator[Region]:
    for at in range(0, len(data), 1 << 16):
        used = any(data[at : at + (1 << 16)])
        yield Region("block" if used else "free", "data", at, min(at + (1 << 16), len(data)))


def map_tree(data: bytes) -> Iterator[Region]:
    """Pages of the local map; of those that are free now, what they were."""
    for at in range(0, 2 * PAGE, PAGE):
        yield from fields("head", at, MAP_HEAD)
        yield from some("behind", "head", at + size_of(MAP_HEAD), at + PAGE)
    for at in range(2 * PAGE, len(data), PAGE):
        kind = MAP_KINDS.get(data[at])
        if kind is None:
            yield Region("empty", "page", at, min(at + PAGE, len(data)))
            continue
        yield from fields(kind, at, MAP_PAGE)
        (body,) = struct.unpack_from("<I", data, at + 4)
        start, end = at + size_of(MAP_PAGE), at + size_of(MAP_PAGE) + body
        yield from {"leaf": map_leaf, "branch": map_branch}.get(kind, map_part)(data, start, end)
        yield from some(kind, "free", end, at + PAGE - 8)
        yield Region(kind, "checksum", at + PAGE - 8, at + PAGE)


def map_leaf(data: bytes, at: int, end: int) -> Iterator[Region]:
    """Records; content is told from what finds it."""
    while at < end:
        yield from fields("leaf_record", at, MAP_KEY)
        at += size_of(MAP_KEY)
        (size,) = struct.unpack_from("<H", data, at)
        yield Region("leaf_record", "size", at, at + 2)
        stop = at + 2 + (size & 0x7FFF)
        yield from some("leaf_record" if size & 0x8000 else "value", "content", at + 2, stop)
        at = stop


def map_branch(_data: bytes, at: int, end: int) -> Iterator[Region]:
    """Keys, each with a child."""
    for start in range(at, end, size_of(MAP_KEY + MAP_POINTER)):
        yield from fields("branch_pointer", start, MAP_KEY + MAP_POINTER)


def map_part(_data: bytes, at: int, end: int) -> Iterator[Region]:
    """A piece of a long value."""
    yield from fields("part_next", at, MAP_POINTER)
    yield from some("part", "content", at + size_of(MAP_POINTER), end)


def lmdb(data: bytes) -> Iterator[Region]:
    """Pages as LMDB lays them out on a 64-bit machine; of those that are free now, what they were."""
    at = 0
    while at < len(data):
        flags, lower, upper = struct.unpack_from("<HHH", data, at + 10)
        if not any(data[at : at + PAGE]):
            yield Region("empty", "page", at, at + PAGE)
        elif flags & META_PAGE:
            yield from fields("meta", at, PAGE_HEADER)
            yield from fields("meta", at + 16, META)
            yield Region("meta", "padding", at + 16 + size_of(META), at + PAGE)
        elif flags & OVERFLOW:
            (pages,) = struct.unpack_from("<I", data, at + 12)
            yield from fields("overflow", at, PAGE_HEADER)
            yield Region("overflow", "content", at + 16, at + pages * PAGE)
            at += (pages - 1) * PAGE
        else:
            part = "branch" if flags & BRANCH else "leaf"
            yield from fields(part, at, PAGE_HEADER)
            yield from some(part, "pointers", at + 16, at + lower)
            yield from some(part, "free", at + lower, at + upper)
            yield from lmdb_nodes(part, data, at, lower, upper)
        at += PAGE


def lmdb_nodes(part: str, data: bytes, page: int, lower: int, upper: int) -> Iterator[Region]:
    """The nodes of a page, which fill it from its end; content is told from what LMDB itself lives by."""
    end = page + PAGE
    count = (lower - size_of(PAGE_HEADER)) // 2
    for start in sorted((page + at for at in struct.unpack_from(f"<{count}H", data, page + 16)), reverse=True):
        low, _, flags, key_bytes = struct.unpack_from("<HHHH", data, start)
        key_end = start + 8 + key_bytes
        yield Region(f"{part}_node", "header", start, start + 8)
        yield from some(f"{part}_node", "key", start + 8, key_end)
        if part == "leaf":
            content = "leaf_node" if flags else "value"  # a database's root, or the address of what did not fit
            stop = key_end + (8 if flags & 1 else low)
            yield from some(content, "content", key_end, stop)
            key_end = stop
        yield from some(f"{part}_node", "padding", key_end, end)
        end = start
    yield from some(part, "between", page + upper, end)


PARSERS: dict[str, Callable[[bytes], Iterator[Region]]] = {
    "cache/log": segment,
    "cache/map/map.tree": map_tree,
    "cache/read/index": cache_index,
    "cache/read/data": cache_data,
    "registry/data.mdb": lmdb,
    "object sco": sco,
    "object tlog": tlog,
    "object map": checkpoint,
}
