"""Records in JSON: ``volume.json`` in a bucket, ``vpool.json`` and ``verify.json`` in a DIR; each has a page in docs/formats."""

from __future__ import annotations

import json
from typing import Any
from zlib import crc32

from vpool.inspecting.findings import Findings

VOLUME_KEYS = {"format", "vpool", "volume", "kind", "cluster", "sco_clusters", "map_levels", "parent", "crc32"}
PLACE_KEYS = {"format", "vpool", "node", "backend"}


def inspect_json(data: bytes, name: str, findings: Findings) -> bool:
    """One of the three; False: none of them."""
    try:
        fields = json.loads(data)
    except ValueError as error:
        if name not in ("volume.json", "vpool.json", "verify.json"):
            return False
        findings.problem(f"not JSON: {error}")
        return True
    if not isinstance(fields, dict):
        return False
    if {"pass", "lost", "needed"} <= fields.keys():
        _verification(fields, findings)
    elif "vpool" not in fields:
        return False
    elif "node" in fields:
        findings.kind = "marker of a DIR (vpool.json)"
        _show(fields, findings)
        _keys(fields, PLACE_KEYS, findings)
        findings.note("this format has no checksum")
    else:
        findings.kind = "birth record of a volume (volume.json)"
        _show(fields, findings)
        _keys(fields, VOLUME_KEYS, findings)
        _checksum(fields, findings)
    return True


def _verification(fields: dict[str, Any], findings: Findings) -> None:
    findings.kind = "state of the background verification (verify.json)"
    _show({key: value for key, value in fields.items() if key not in ("lost", "needed")}, findings)
    _checksum(fields, findings)
    for name in ("lost", "needed"):
        rows = fields[name] if isinstance(fields[name], list) else []
        if rows and isinstance(rows[0], dict):
            table = findings.table(name, *rows[0])
            for row in rows:
                findings.row(table, *(row.get(column) for column in rows[0]))


def _show(fields: dict[str, Any], findings: Findings) -> None:
    findings.fields |= {key: value if isinstance(value, int | str) else json.dumps(value) for key, value in fields.items()}


def _checksum(fields: dict[str, Any], findings: Findings) -> None:
    canonical = {key: value for key, value in fields.items() if key != "crc32"}
    right = fields.get("crc32") == crc32(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode())
    findings.expect(right, "the record does not match its checksum")
    findings.expect(fields.get("format") == 1, f"format {fields.get('format')} is not known here, 1 is")


def _keys(fields: dict[str, object], wanted: set[str], findings: Findings) -> None:
    missing = wanted - fields.keys()
    findings.expect(not missing, f"keys are missing: {', '.join(sorted(missing))}")
