"""Exports of the namespace, backups of the registry, tombstones: docs/formats/namespace-export.md."""

from __future__ import annotations

import datetime
import hashlib
import zlib

from vpool.inspecting.findings import Bytes, CutShort, Findings

MAGIC = b"vPoolNSX"
TOMBSTONE = b"vPoolDEL"
HEADER = 192
FOOTER = 16
GONE = (1 << 32) - 1


def inspect_export(data: bytes, findings: Findings) -> None:
    """One part, or all parts of a backup one after the other."""
    table = findings.table("parts", "part", "flags", "items", "bytes", "footer")
    at, before, number = 0, b"", 0
    while at < len(data):
        length, before, last = _part(data[at:], before if number else b"", findings, table)
        if not length:
            return
        at, number = at + length, number + 1
        if last and at < len(data):
            findings.problem(f"{len(data) - at} bytes follow the last part")
            return
    findings.fields["parts"] = number


def _part(data: bytes, before: bytes, findings: Findings, table: object) -> tuple[int, bytes, bool]:
    """Length, footer, whether it says that it is the last; length 0: it cannot be gone on."""
    bytes_ = Bytes(data)
    findings.magic(bytes_, MAGIC, 1)
    flags = bytes_.u32()
    fields = findings.fields
    fields |= {"full": bool(flags & 1), "vPool": bytes_.uuid(), "generation": bytes_.u64(), "index": bytes_.u64()}
    fields |= {
        "since": bytes_.u64(),
        "incarnation": bytes_.u64(),
        "node": bytes_.take(64).rstrip(b"\0").decode("ascii", "replace"),
    }
    made = datetime.datetime.fromtimestamp(bytes_.u64() / 1e9, datetime.UTC)
    fields["exported"] = made.isoformat(timespec="seconds")
    part, items, size, stored_size = bytes_.u32(), bytes_.u32(), bytes_.u64(), bytes_.u64()
    link = bytes_.take(16)
    length = HEADER + stored_size + FOOTER
    if not findings.expect(length <= len(data), f"part {part} has {length} bytes, {len(data)} are there"):
        return 0, b"", True
    footer = data[length - FOOTER : length]
    right = footer == hashlib.blake2b(data[: length - FOOTER], digest_size=16).digest()
    findings.row(table, part, "last" if flags & 2 else "more", items, size, footer.hex())  # type: ignore[arg-type]
    findings.expect(right, f"part {part} does not match its checksum")
    if before or part == 0:
        findings.expect(link == (before or bytes(16)), f"part {part} does not follow the part before it")
    if right:
        _items(data[HEADER : length - FOOTER], items, size, part, findings)
    return length, footer, bool(flags & 2)


def _items(stored: bytes, count: int, size: int, part: int, findings: Findings) -> None:
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(stored, size + 1)
    except zlib.error as error:
        findings.problem(f"the items of part {part} cannot be unpacked: {error}")
        return
    if not findings.expect(len(data) == size, f"the items of part {part} have another length than it says"):
        return
    kinds: dict[str, int] = {}
    bytes_ = Bytes(data)
    try:
        for _ in range(count):
            key_size, value_size = bytes_.u16(), bytes_.u32()
            key = bytes_.take(key_size)
            kinds[chr(key[0]) if key else "?"] = kinds.get(chr(key[0]) if key else "?", 0) + 1
            bytes_.take(0 if value_size == GONE else value_size)
    except CutShort:
        findings.problem(f"the items of part {part} are cut short")
    findings.expect(not bytes_.left(), f"something follows the items of part {part}")
    known = findings.fields.get("keys", "")
    findings.fields["keys"] = f"{known} " * bool(known) + " ".join(f"{kind}:{number}" for kind, number in sorted(kinds.items()))
