"""The local map's records: docs/formats/local-map.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from engine import xxh3
from vpool.inspecting.checkpoints import lineage, root
from vpool.inspecting.findings import Bytes, CutShort, Findings, hexadecimal

MAGIC = b"vPoolLMP"
LOADING = (1 << 64) - 1
TABLES = ("meta", "page", "changed", "live")
SIZES = {"changed": 48, "live": 32}


class Record(NamedTuple):
    """One record of the file. ``number``: of a page or an SCO, 0 in ``meta``."""

    table: int
    volume: bytes
    number: int
    value: bytes


def inspect_records(records: Iterable[Record], findings: Findings) -> None:
    """Every record of every volume."""
    table = findings.table("volumes", "volume", "pages", "clusters", "changed", "live", "included LSN", "cut")
    counts: dict[bytes, dict[str, int]] = {}
    metas: dict[bytes, bytes] = {}
    for record in records:
        if record.table >= len(TABLES):
            findings.problem(f"a record of table {record.table}, which there is not")
            continue
        name = TABLES[record.table]
        if name == "meta":
            metas[record.volume] = record.value
            continue
        count = counts.setdefault(record.volume, {})
        count[name] = count.get(name, 0) + 1
        if name == "page":
            clusters = page(record.value, f"page {record.number} of {record.volume.hex()}", findings)
            count["clusters"] = count.get("clusters", 0) + clusters
        else:
            right = len(record.value) == SIZES[name]
            findings.expect(right, f"{name}: a record of {len(record.value)} bytes")
    for volume in sorted(metas.keys() | counts.keys()):
        count = counts.get(volume, {})
        included, cut = "", ""
        if volume in metas:
            told = Findings("meta", findings.rows_max)
            meta(metas[volume], told)
            included, cut = str(told.fields.get("included: LSN", "?")), str(told.fields.get("cut", "?"))
            findings.problems += [f"{volume.hex()}: {problem}" for problem in told.problems]
            findings.notes += [f"{volume.hex()}: {note}" for note in told.notes]
        else:
            findings.note(f"{volume.hex()} has pages but no meta: what is left of a volume that was forgotten")
        row = (count.get("page", 0), count.get("clusters", 0), count.get("changed", 0), count.get("live", 0))
        findings.row(table, volume.hex(), *row, included, cut)


def meta(data: bytes, findings: Findings) -> None:
    """A record of ``meta``."""
    bytes_ = Bytes(data)
    try:
        findings.magic(bytes_, MAGIC, 1)
        fields = findings.fields
        fields["levels"] = bytes_.u32()
        lsn, number, chain = bytes_.u64(), bytes_.u64(), bytes_.u64()
        if number == LOADING:
            findings.note("the map was being loaded from the backend: only its lineage means something")
        fields |= {"included: LSN": lsn, "included: segment": number, "included: chain": hexadecimal(chain)}
        fields |= {"cut": bytes_.u64(), "cut of the ground": bytes_.u64(), "ground: object": bytes_.u64()}
        fields["ground: offset"] = bytes_.u32()
        root_bytes, lineage_count, cleared = bytes_.u32(), bytes_.u32(), bytes_.u32()
        ground = bytes_.take(root_bytes)
        if root_bytes:
            root(ground, findings)
        lineage(bytes_, lineage_count, findings)
        table = findings.table("cleared", "first page", "pages", "cut")
        end = 0
        for _ in range(cleared):
            first, pages, cut = bytes_.u64(), bytes_.u64(), bytes_.u64()
            findings.row(table, first, pages, cut)
            findings.expect(first >= end and pages > 0, "cleared ranges overlap or are out of order")
            end = first + pages
        covered = bytes_.at
        findings.expect(bytes_.u64() == xxh3(data[:covered]) and not bytes_.left(), "meta does not match its checksum")
    except CutShort as error:
        findings.problem(f"meta is cut short: {error}")


def page(data: bytes, name: str, findings: Findings) -> int:
    """A record of ``page``; its clusters with data."""
    if len(data) < 32 or int.from_bytes(data[-8:], "little") != xxh3(data[:-8]):
        findings.problem(f"{name} does not match its checksum")
        return 0
    bytes_ = Bytes(data)
    flags = bytes_.u8()
    bytes_.take(3)
    count, present = bytes_.u32(), bytes_.u128()
    right = count == present.bit_count() and len(data) == 32 + 12 * count and flags <= 1
    if not findings.expect(right, f"{name}: its counts do not agree"):
        return 0
    locations = [bytes_.u64() for _ in range(count)]
    findings.expect(all(loc == 1 or loc >= 1024 for loc in locations), f"{name} names a location that cannot be")
    return sum(loc != 1 for loc in locations)
