"""The mark of a volume that is being filled: by an import or a copy that has not ended yet.

It stands in a cluster of its own beyond the addresses that can be read and written, in the same log as the data
(docs/formats/volume-json.md): so what it says has been done is there, also when a cache was lost and the volume came back as an
earlier prefix.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from struct import Struct
from zlib import crc32

from engine import CLUSTER
from volumedriver.region import VOLUME_META_OFFSET
from volumedriver.volume import Volume
from vpool.errors import Corrupt

FILLING_OFFSET = VOLUME_META_OFFSET + CLUSTER
MAGIC = b"vPoolFIL"
VERSION = 1
SOURCE_CHARS_MAX = 512

_HEAD = Struct("<8sIIQ")
_SUM = Struct("<I")


@dataclass(frozen=True, slots=True)
class Filling:
    """How far a volume has been filled, and from what."""

    kind: str  # "import" or "copy"
    source: str  # for people
    fingerprint: str  # of the source's content, as far as that can be told without reading it
    done_bytes: int  # everything of the source before this is in the volume

    def encode(self) -> bytes:
        """The cluster."""
        fields = asdict(self)
        del fields["done_bytes"]
        text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")
        body = _HEAD.pack(MAGIC, VERSION, len(text), self.done_bytes) + text
        return (body + _SUM.pack(crc32(body))).ljust(CLUSTER, b"\0")

    @classmethod
    def decode(cls, cluster: bytes) -> Filling | None:
        """Read the cluster; None: the volume is not being filled. Corrupt."""
        if cluster.count(0) == len(cluster):
            return None
        magic, version, length, done_bytes = _HEAD.unpack_from(cluster)
        end = _HEAD.size + length
        if magic != MAGIC or end + _SUM.size > len(cluster) or _SUM.unpack_from(cluster, end)[0] != crc32(cluster[:end]):
            raise Corrupt("the mark of an unfinished import or copy cannot be read")
        if version > VERSION:
            raise Corrupt("the mark of an unfinished import or copy is of a newer format; use a newer vPool", version=version)
        fields = json.loads(cluster[_HEAD.size : end])
        return cls(fields["kind"], fields["source"], fields["fingerprint"], done_bytes)


async def read_filling(volume: Volume) -> Filling | None:
    """The mark of an open volume; None: it is complete. Corrupt, Halted."""
    return Filling.decode(await volume.read(FILLING_OFFSET, CLUSTER))


async def write_filling(volume: Volume, filling: Filling | None) -> None:
    """Set or remove the mark; ordered behind every write acknowledged before. Acknowledged, not flushed, on return."""
    if filling is None:
        await volume.zero(FILLING_OFFSET, CLUSTER)
    else:
        await volume.write(FILLING_OFFSET, filling.encode())
