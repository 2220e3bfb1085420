"""Where a volume's objects are: bucket and name. Pure.

Formats: docs/formats/tlog.md, checkpoint.md, volume-json.md.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from zlib import crc32

from registry import ObjectKind
from registry.model import RootName, TlogName
from vpool.errors import Corrupt

FORMAT_VERSION = 1
TOMBSTONES = "deleted/"  # in the shared bucket: docs/formats/namespace-export.md
TOMBSTONE = b"vPoolDEL"
CLUSTER_BYTES = 4096
SCO_CLUSTERS = 1024
_TOMBSTONE = re.compile(r"deleted/([0-9a-f]{32})\.([0-9a-f]{16})")


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
    return Place(bucket=shared_bucket(vpool_id), prefix=f"{object_id}/")


def shared_bucket(vpool_id: str) -> str:
    """The bucket that a vPool has for logs of files, exports of the namespace, and tombstones."""
    return f"vpool-{vpool_id}-files"


def tombstone_name(object_id: str, time_ns: int) -> str:
    """What says that a volume was deleted, whatever is still found of it; in the shared bucket."""
    return f"{TOMBSTONES}{object_id}.{time_ns:016x}"


def tombstone_object(name: str) -> str | None:
    """Whose tombstone it is; None for another name."""
    match = _TOMBSTONE.fullmatch(name)
    return match[1] if match else None


def tombstone_time_ns(name: str) -> int | None:
    """When it was written, in nanoseconds since 1970."""
    match = _TOMBSTONE.fullmatch(name)
    return int(match[2], 16) if match else None


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
