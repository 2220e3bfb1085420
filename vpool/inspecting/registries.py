"""The registry's records: docs/formats/registry.md. The names of fields are those of ``registry.model``."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import Any
from zlib import crc32

from registry.codec import decode_record, unpack
from registry.model import Inode, NodeRecord, ObjectRecord, VPoolRecord
from vpool.inspecting.findings import Findings

MAGIC = b"vPoolREG"
RECORDS = {b"I": ("inodes", Inode), b"O": ("objects", ObjectRecord), b"N": ("nodes", NodeRecord)}
KINDS = {
    "A": "next addresses", "B": "names of inodes", "C": "entries by cookie", "E": "free addresses", "F": "files by address",
    "G": "open by node", "H": "open handles", "I": "inodes", "L": "entries by name", "M": "facts of the vPool", "N": "nodes",
    "O": "objects", "Q": "outcomes", "R": "without a name", "S": "sessions", "U": "files without a name", "V": "with a log",
    "X": "extended attributes",
}  # fmt: skip


def inspect_registry(txn: Any, databases: dict[str, Any], findings: Findings) -> None:
    """Every record of every database: its seal, and what can be decoded."""
    sealed = {name: _unsealed(txn, name, db, findings) for name, db in databases.items()}
    _raft(sealed.get("raft", {}), findings)
    entries = sorted(sealed.get("log", {}))
    if entries:
        first, last = int.from_bytes(entries[0], "big"), int.from_bytes(entries[-1], "big")
        findings.fields |= {"log: first": first, "log: last": last}
        findings.expect(len(entries) == last - first + 1, "entries of the log are missing")
    _state(sealed.get("state", {}), findings)
    if sealed.get("incoming"):
        findings.note("a snapshot was coming in from another node")


def _unsealed(txn: Any, name: str, db: Any, findings: Findings) -> dict[bytes, bytes]:
    found = {}
    wrong = 0
    for key, value in txn.cursor(db):
        key, value = bytes(key), bytes(value)
        if len(value) < 4 or int.from_bytes(value[-4:], "little") != crc32(value[:-4], crc32(key)):
            wrong += 1
            if wrong <= 3:
                findings.problem(f"{name}: the record {key[:40]!r} does not match its checksum")
            continue
        found[key] = value[:-4]
    if wrong > 3:
        findings.problem(f"{name}: {wrong - 3} more records do not match their checksums")
    findings.fields[f"records in {name}"] = len(found)
    return found


def _raft(records: dict[bytes, bytes], findings: Findings) -> None:
    format_ = records.get(b"format", b"")
    right = format_[:8] == MAGIC and int.from_bytes(format_[8:], "little") == 1
    findings.expect(right, "the format record is not there or of a version that is not known here")
    for key in (b"hard", b"applied", b"changes"):
        if key in records:
            findings.fields[f"raft: {key.decode()}"] = str(_plain(unpack, records[key], findings, key))


def _state(records: dict[bytes, bytes], findings: Findings) -> None:
    table = findings.table("state", "key", "records", "what")
    counts: dict[str, int] = {}
    for key in records:
        kind = chr(key[0])
        counts[kind] = counts.get(kind, 0) + 1
    for kind, count in sorted(counts.items()):
        findings.row(table, kind, count, KINDS.get(kind, "not known here"))
    if b"Mvpool" in records:
        _fields(_plain(lambda data: decode_record(VPoolRecord, data), records[b"Mvpool"], findings, b"Mvpool"), "vPool", findings)
    for prefix, (title, kind_) in RECORDS.items():
        rows = None
        for key, value in sorted(records.items()):
            if not key.startswith(prefix):
                continue
            record = _plain(lambda data, cls=kind_: decode_record(cls, data), value, findings, key)
            if record is None:
                continue
            fields = asdict(record)
            rows = rows or findings.table(title, *fields)
            findings.row(rows, *(_shown(field) for field in fields.values()))


def _plain(decode: Any, data: bytes, findings: Findings, key: bytes) -> Any:
    """What the decoder says; a problem where it cannot."""
    try:
        return decode(data)
    except Exception as error:
        findings.problem(f"the record {key[:40]!r} cannot be decoded: {error}")
        return None


def _fields(record: Any, name: str, findings: Findings) -> None:
    if is_dataclass(record) and not isinstance(record, type):
        findings.fields |= {f"{name}: {key}": _shown(value) for key, value in asdict(record).items()}


def _shown(value: Any) -> str | int | float | bool | None:
    value = getattr(value, "value", value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value if isinstance(value, int | float | None) else str(value)
