"""TLogs, combined objects and SCOs: docs/formats/tlog.md."""

from __future__ import annotations

from engine import crc32c, xxh3
from vpool.inspecting.findings import Bytes, Findings, hexadecimal

MAGIC = b"vPoolTLG"
COMBINED = b"vPoolCMB"
CLUSTER = 4096
TRAILER = 24
HEADER = 128
KINDS = {1: "write", 2: "zero"}


def inspect_combined(data: bytes, findings: Findings) -> None:
    """Data, TLog, trailer; the clusters are compared with the TLog."""
    bytes_ = Bytes(data, len(data) - TRAILER)
    data_bytes, tlog_bytes = bytes_.u64(), bytes_.u64()
    findings.fields |= {"data bytes": data_bytes, "TLog bytes": tlog_bytes}
    fits = data_bytes + tlog_bytes + TRAILER == len(data) and data_bytes % CLUSTER == 0
    if not findings.expect(fits, "the trailer's lengths do not add up to the object's"):
        return
    sco = data[:data_bytes]
    inspect_tlog(data[data_bytes : data_bytes + tlog_bytes], findings, sco)
    if "combined" in findings.fields:
        findings.expect(findings.fields["combined"] is True, "the TLog does not say that it is combined")


def inspect_tlog(data: bytes, findings: Findings, sco: bytes | None = None) -> None:
    """Header, table, entries, footer; with ``sco``, the data of its one SCO."""
    if not findings.expect(len(data) >= HEADER + 8, "a TLog is longer than that"):
        return
    stored = Bytes(data, len(data) - 8).u64()
    findings.fields["checksum"] = hexadecimal(stored)
    findings.expect(stored == xxh3(data[:-8]), "the TLog does not match its checksum")
    bytes_ = Bytes(data)
    findings.magic(bytes_, MAGIC, 1)
    flags = bytes_.u32()
    fields = findings.fields
    fields |= {"combined": bool(flags & 1), "first of its epoch": bool(flags & 2), "volume": bytes_.uuid()}
    fields |= {"epoch": bytes_.u64(), "number": bytes_.u64()}
    previous = [bytes_.u64() for _ in range(4)]
    fields["previous"] = (
        f"epoch {previous[0]}, TLog {previous[1]}, combined SCO {previous[2]}, checksum {hexadecimal(previous[3])}"
        if previous[0]
        else "none"
    )
    first, next_ = bytes_.u64(), bytes_.u64()
    count, entries, entry_bytes = bytes_.u32(), bytes_.u32(), bytes_.u64()
    fields |= {"first SCO": first, "next SCO": next_, "SCOs": count, "entries": entries, "entry bytes": entry_bytes}
    fields["last LSN"] = bytes_.u64()
    bytes_.u64()
    expected = HEADER + 16 * count + entry_bytes + 8
    if not findings.expect(expected == len(data), f"the header tells of {expected} bytes, {len(data)} are there"):
        return
    scos = _table(bytes_, count, first, next_, findings)
    _entries(bytes_, entries, len(data) - 8, scos, findings, sco)
    if sco is not None:
        checksum = next(iter(scos.values()), (0, 0))[1]
        findings.expect(crc32c(sco) == checksum, "the data do not match the checksum of their SCO")


def _table(bytes_: Bytes, count: int, first: int, next_: int, findings: Findings) -> dict[int, tuple[int, int]]:
    table = findings.table("SCOs", "number", "clusters", "CRC32C")
    scos: dict[int, tuple[int, int]] = {}
    last = 0
    for _ in range(count):
        number, clusters, checksum = bytes_.u64(), bytes_.u32(), bytes_.u32()
        findings.row(table, number, clusters, f"{checksum:08x}")
        findings.expect(
            last < number and first <= number < next_, f"SCO {number} is out of order or outside of {first}–{next_ - 1}"
        )
        last = number
        scos[number] = clusters, checksum
    return scos


def _entries(
    bytes_: Bytes, count: int, end: int, scos: dict[int, tuple[int, int]], findings: Findings, sco: bytes | None
) -> None:
    table = findings.table("entries", "kind", "LBA", "clusters", "SCO", "first slot")
    last = (0, -1)
    for _ in range(count):
        kind, _, checksums, slot = bytes_.u8(), bytes_.u8(), bytes_.u16(), bytes_.u32()
        lba, argument = bytes_.u64(), bytes_.u64()
        crcs = [bytes_.u32() for _ in range(checksums)]
        bytes_.take(-len(crcs) % 2 * 4)
        if kind == 1:
            findings.row(table, "write", lba, checksums, argument, slot)
            room = scos.get(argument, (0, 0))[0]
            findings.expect(slot + checksums <= room, f"an entry names slots {slot}–{slot + checksums - 1} of SCO {argument}")
            findings.expect((argument, slot) > last, f"an entry of SCO {argument} is out of order")
            last = argument, slot + checksums - 1
            _compare(sco, slot, crcs, lba, findings)
        else:
            findings.row(table, KINDS.get(kind, f"unknown ({kind})"), lba, argument, None, None)
            findings.expect(kind == 2, f"an entry is of the unknown kind {kind}")
    findings.expect(bytes_.at == end, "the entries do not fill their area")


def _compare(sco: bytes | None, slot: int, checksums: list[int], lba: int, findings: Findings) -> None:
    if sco is None:
        return
    for index, checksum in enumerate(checksums):
        at = (slot + index) * CLUSTER
        if crc32c(sco[at : at + CLUSTER]) != checksum:
            findings.problem(f"the cluster in slot {slot + index} (LBA {lba + index}) does not match its checksum")


def inspect_sco(data: bytes, findings: Findings) -> None:
    """Clusters and nothing else: whether they are right, only a TLog or the map can tell."""
    findings.fields |= {"clusters": len(data) // CLUSTER, "CRC32C": f"{crc32c(data):08x}"}
    findings.note("a SCO has no checksums of its own; they are in its TLog, whose table has the CRC32C above if this is right")
