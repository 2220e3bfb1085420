"""``volume.json`` in a bucket and ``vpool.json`` in a DIR: docs/formats/volume-json.md, directory.md."""

from __future__ import annotations

import json
from zlib import crc32

from vpool.inspecting.findings import Findings

VOLUME_KEYS = {"format", "vpool", "volume", "kind", "cluster", "sco_clusters", "map_levels", "parent", "crc32"}
PLACE_KEYS = {"format", "vpool", "node", "backend"}


def inspect_json(data: bytes, name: str, findings: Findings) -> bool:
    """One of the two; False: neither."""
    try:
        fields = json.loads(data)
    except ValueError as error:
        if name not in ("volume.json", "vpool.json"):
            return False
        findings.problem(f"not JSON: {error}")
        return True
    if not isinstance(fields, dict) or "vpool" not in fields:
        return False
    findings.fields |= {key: value if isinstance(value, int | str) else json.dumps(value) for key, value in fields.items()}
    if "node" in fields:
        findings.kind = "marker of a DIR (vpool.json)"
        _keys(fields, PLACE_KEYS, findings)
        findings.note("this format has no checksum")
    else:
        findings.kind = "birth record of a volume (volume.json)"
        _keys(fields, VOLUME_KEYS, findings)
        stored = fields.pop("crc32", None)
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
        findings.expect(stored == crc32(canonical), "the record does not match its checksum")
        findings.expect(fields.get("format") == 1, f"format {fields.get('format')} is not known here, 1 is")
    return True


def _keys(fields: dict[str, object], wanted: set[str], findings: Findings) -> None:
    missing = wanted - fields.keys()
    findings.expect(not missing, f"keys are missing: {', '.join(sorted(missing))}")
