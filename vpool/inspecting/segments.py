"""A log segment: docs/formats/segment.md."""

from __future__ import annotations

from dataclasses import dataclass

from engine import crc32c, xxh3
from vpool.inspecting.findings import Bytes, Findings, hexadecimal

MAGIC = b"vPoolSEG"
CLUSTER = 4096
RECORDS_AT = 4096
RECORDS_END = 65_536
DATA_AT = 65_536
BYTES = DATA_AT + 1024 * CLUSTER
SLOTS = 1024
KINDS = {1: "write", 2: "zero", 3: "mark"}


@dataclass(frozen=True)
class _Header:
    nonce: int
    first_lsn: int
    durable_lsn: int
    checksum: int
    chain: int


@dataclass(frozen=True)
class _Record:
    kind: int
    lsn: int
    lba: int
    argument: int
    durable_lsn: int
    chain: int
    checksums: tuple[int, ...]
    body: bytes  # what the chain covers
    length: int


def inspect_segment(data: bytes, findings: Findings) -> None:
    """Header, seal, every record along the chain, and the clusters that they name."""
    findings.expect(len(data) == BYTES, f"a segment has {BYTES} bytes, not {len(data)}")
    if not any(data[:CLUSTER]):
        findings.fields["state"] = "free"
        return
    header = _header(data, findings)
    if header is None:
        return
    seal = _seal(data, header, findings)
    _records(data, header, seal, findings)


def _header(data: bytes, findings: Findings) -> _Header | None:
    bytes_ = Bytes(data)
    findings.magic(bytes_, MAGIC, 1)
    bytes_.u32()
    fields = findings.fields
    fields["volume"] = bytes_.uuid()
    epoch, number, nonce, first_lsn, previous, durable = (bytes_.u64() for _ in range(6))
    fields |= {"epoch": epoch, "number": number, "nonce": hexadecimal(nonce), "first LSN": first_lsn}
    fields |= {"previous chain": hexadecimal(previous), "durable LSN": durable}
    stored = Bytes(data, 120).u64()
    if not findings.expect(stored == xxh3(data[:120]), "the header does not match its checksum"):
        return None
    findings.expect(min(number, nonce, first_lsn) > 0, "number, nonce and first LSN are never 0")
    return _Header(nonce, first_lsn, durable, stored, xxh3(data[:120], previous))


def _seal(data: bytes, header: _Header, findings: Findings) -> dict[str, int] | None:
    if not any(data[128:168]):
        findings.fields["state"] = "open, or not closed cleanly"
        return None
    findings.fields["state"] = "sealed"
    bytes_ = Bytes(data, 128)
    seal = {"last LSN": bytes_.u64(), "chain": bytes_.u64(), "durable LSN": bytes_.u64()}
    seal |= {"slots": bytes_.u32(), "record bytes": bytes_.u32()}
    if not findings.expect(bytes_.u64() == xxh3(data[128:160], header.checksum), "the seal does not match its checksum"):
        return None
    findings.fields |= {f"seal: {name}": hexadecimal(value) if name == "chain" else value for name, value in seal.items()}
    return seal


def _record(data: bytes, at: int, nonce: int) -> _Record | None:
    """A record that is right by itself."""
    if at + 48 > RECORDS_END or len(data) < RECORDS_END:
        return None
    bytes_ = Bytes(data, at)
    self_, kind, _, count = bytes_.u32(), bytes_.u8(), bytes_.u8(), bytes_.u16()
    length = (48 + 4 * count + 7) // 8 * 8
    if kind not in KINDS or count > SLOTS or at + length > RECORDS_END:
        return None
    if self_ != crc32c(data[at + 4 : at + length], crc32c(nonce.to_bytes(8, "little"))):
        return None
    lsn, lba, argument, durable, chain = (bytes_.u64() for _ in range(5))
    checksums = tuple(bytes_.u32() for _ in range(count))
    body = data[at + 4 : at + 40] + data[at + 48 : at + 48 + 4 * count]
    return _Record(kind, lsn, lba, argument, durable, chain, checksums, body, length)


def _records(data: bytes, header: _Header, seal: dict[str, int] | None, findings: Findings) -> None:
    table = findings.table("records", "LSN", "kind", "LBA", "clusters", "first slot", "durable LSN", "data")
    chain, lsn, at, count, clusters = header.chain, header.first_lsn, RECORDS_AT, 0, 0
    durable = max(header.durable_lsn, seal["durable LSN"] if seal else 0)
    end = RECORDS_AT + seal["record bytes"] if seal else RECORDS_END
    while at < end:
        record = _record(data, at, header.nonce)
        if record is None or record.lsn != lsn or record.chain != xxh3(record.body, chain):
            break
        durable = max(durable, record.durable_lsn)
        wrong = _wrong_slots(data, record)
        what = "–" if record.kind != 1 else f"{len(wrong)} wrong" if wrong else "right"
        size = len(record.checksums) if record.kind == 1 else record.argument
        first = record.argument if record.kind == 1 else None
        findings.row(table, lsn, KINDS[record.kind], record.lba, size, first, record.durable_lsn, what)
        if wrong:
            said = f"record {lsn}: {len(wrong)} clusters from slot {wrong[0]} on do not match their checksums"
            if lsn <= durable or seal is not None:
                findings.problem(said)
            else:
                findings.note(f"{said}; it was not durable yet, so the log ends before it")
        chain, lsn, at, count, clusters = record.chain, lsn + 1, at + record.length, count + 1, clusters + len(record.checksums)
    findings.fields |= {"records": count, "last record": lsn - 1, "clusters": clusters, "chain after it": hexadecimal(chain)}
    if seal is not None:
        reached = lsn - 1 == seal["last LSN"] and chain == seal["chain"] and at == end
        findings.expect(reached, f"the chain of records ends at LSN {lsn - 1}, the seal says {seal['last LSN']}")
    else:
        _beyond(data, header.nonce, at, lsn, findings)


def _wrong_slots(data: bytes, record: _Record) -> list[int]:
    if record.kind != 1:
        return []
    wrong = []
    for slot, checksum in enumerate(record.checksums, record.argument):
        at = DATA_AT + slot * CLUSTER
        if slot >= SLOTS or crc32c(data[at : at + CLUSTER]) != checksum or at + CLUSTER > len(data):
            wrong.append(slot)
    return wrong


def _beyond(data: bytes, nonce: int, at: int, lsn: int, findings: Findings) -> None:
    """Evidence behind the end of the chain that more had been durable."""
    for place in range(at + 8, RECORDS_END - 47, 8):
        record = _record(data, place, nonce)
        if record is not None and record.lsn > lsn and record.durable_lsn >= lsn:
            findings.problem(
                f"the chain ends at LSN {lsn - 1}, but record {record.lsn} behind it says that {record.durable_lsn} was durable"
            )
            return
