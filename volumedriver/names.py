"""Where a volume's objects are: bucket and name. Pure.

Formats: docs/formats/tlog.md, checkpoint.md, volume-json.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from zlib import crc32

from registry import ObjectKind
from registry.model import RootName, TlogName
from vpool.errors import Corrupt

FORMAT_VERSION = 1
CLUSTER_BYTES = 4096
SCO_CLUSTERS = 1024


@dataclass(frozen=True, slots=True)
class Place:
    """The part of the backend that one volume has for itself: a bucket, and a prefix in it."""

    bucket: str
    prefix: str

    def birth_record(self) -> str:
        return f"{self.prefix}volume.json"

    def sco(self, epoch: int, number: int) -> str:
        return f"{self.prefix}sco/{epoch:016x}/{number:016x}"

    def tlog(self, tlog: TlogName) -> str:
        if tlog.combined_sco:
            return self.sco(tlog.epoch, tlog.combined_sco)
        return f"{self.prefix}tlog/{tlog.epoch:016x}/{tlog.number:016x}"

    def map(self, epoch: int, number: int) -> str:
        return f"{self.prefix}map/{epoch:016x}/{number:016x}"

    def checkpoint(self, root: RootName) -> str:
        return self.map(root.epoch, root.object)


def place_of(object_id: str, kind: ObjectKind, vpool_id: str) -> Place:
    """A volume has a bucket of its own; the logs of files share one bucket per vPool."""
    if kind is ObjectKind.VOLUME:
        return Place(bucket=f"vpool-{object_id}", prefix="")
    return Place(bucket=f"vpool-{vpool_id}-files", prefix=f"{object_id}/")


@dataclass(frozen=True, slots=True)
class BirthRecord:
    """What ``volume.json`` says; fixed for the life of the volume."""

    vpool: str
    volume: str
    kind: str
    map_levels: int

    def encode(self) -> bytes:
        """The object's bytes: the same every time."""
        fields = {
            "cluster": CLUSTER_BYTES,
            "format": FORMAT_VERSION,
            "kind": self.kind,
            "map_levels": self.map_levels,
            "parent": None,
            "sco_clusters": SCO_CLUSTERS,
            "volume": self.volume,
            "vpool": self.vpool,
        }
        fields["crc32"] = crc32(_canonical(fields))
        return _canonical(fields) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> BirthRecord:
        """Read ``volume.json``. Corrupt where it is damaged or of a newer format."""
        try:
            fields = json.loads(data)
            checksum = fields.pop("crc32")
            if crc32(_canonical(fields)) != checksum:
                raise Corrupt("volume.json does not match its checksum")
            if fields["format"] > FORMAT_VERSION:
                raise Corrupt("volume.json is of a newer format; use a newer vPool", format=fields["format"])
            return cls(fields["vpool"], fields["volume"], fields["kind"], fields["map_levels"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt("volume.json cannot be read", reason=str(error)) from error


def _canonical(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
