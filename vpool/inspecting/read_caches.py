"""The index of the read cache: docs/formats/read-cache.md."""

from __future__ import annotations

from pathlib import Path

from engine import xxh3
from vpool.inspecting.findings import Bytes, Findings

MAGIC = b"vPoolRDC"
RECORD = 64
SLOT_BYTES = 64 << 10


def inspect_read_cache(data: bytes, findings: Findings, path: Path) -> None:
    """Header and every record; a damaged record costs a cached block, never data."""
    bytes_ = Bytes(data)
    findings.magic(bytes_, MAGIC, 1)
    bytes_.u32()
    slots = bytes_.u64()
    used, free, clusters = 0, 0, 0
    table = findings.table("blocks", "slot", "origin", "epoch", "SCO", "block", "clusters", "queue", "uses")
    wrong = []
    for slot in range(min(slots, (len(data) - RECORD) // RECORD)):
        at = RECORD + slot * RECORD
        record = data[at : at + RECORD]
        present = int.from_bytes(record[34:36], "little")
        if not present and not any(record[:36]):
            free += 1
        elif int.from_bytes(record[56:], "little") != xxh3(record[:56]):
            wrong.append(slot)
        elif not present:
            free += 1
        else:
            used += 1
            clusters += present.bit_count()
            entry = Bytes(record)
            origin, epoch, number, block = entry.uuid(), entry.u64(), entry.u64(), entry.u16()
            queue = "main" if record[36] else "small"
            findings.row(table, slot, origin, epoch, number, block, present.bit_count(), queue, record[37])
    findings.fields |= {"slots": slots, "used": used, "free": free, "clusters": clusters}
    for slot in wrong[:3]:
        findings.problem(f"the record of slot {slot} does not match its checksum; it counts as free")
    if len(wrong) > 3:
        findings.problem(f"{len(wrong) - 3} more records do not match their checksums")
    if len(data) < RECORD + slots * RECORD:
        findings.note("the index is shorter than its slots: those behind its end are free")
    blocks = path.with_name("data")
    if path.name == "index" and blocks.exists():
        findings.expect(blocks.stat().st_size <= slots * SLOT_BYTES, "the data file is longer than its slots")
    findings.note("the blocks themselves have no checksums here: what is read from them is compared with the map")
