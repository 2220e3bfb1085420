"""The meta cluster: what an object's region of a log says of itself (docs/formats/volume-json.md). Pure.

Layout 1 (volumes, and files made by the first release) tells the size; layout 2 (files) also whose region it is, because
addresses in the log of files are given again: when a log comes back as an older prefix, a region may be that of the file that had
the address before.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from zlib import crc32

from engine import CLUSTER
from vpool.errors import Corrupt

MAGIC = b"vPoolMET"
LAYOUT_PLAIN = 1
LAYOUT_NAMED = 2

_START = Struct("<8sI")
_FIELDS = {LAYOUT_PLAIN: Struct("<8sIIQQQ"), LAYOUT_NAMED: Struct("<8sIIQQQ16s")}
_SUM = Struct("<I")


@dataclass(frozen=True, slots=True)
class MetaCluster:
    """What one says."""

    size: int  # bytes of the object
    changed_ns: int  # when the size was last set, since 1970
    object_id: str = ""  # whose region it is; "" in layout 1, which does not say

    def encode(self) -> bytes:
        """A whole cluster."""
        layout = LAYOUT_NAMED if self.object_id else LAYOUT_PLAIN
        name = [bytes.fromhex(self.object_id)] if self.object_id else []
        fields = _FIELDS[layout].pack(MAGIC, layout, 0, self.size, self.changed_ns, 0, *name)
        return (fields + _SUM.pack(crc32(fields))).ljust(CLUSTER, b"\0")

    @classmethod
    def decode(cls, cluster: bytes) -> MetaCluster | None:
        """The reverse; None for a cluster of zeros, which no object has written yet.

        Raises:
            Corrupt: it is neither, or of a newer layout.
        """
        if cluster.count(0) == len(cluster):
            return None
        magic, layout = _START.unpack_from(cluster)
        fields = _FIELDS.get(layout)
        if magic != MAGIC or fields is None:
            raise Corrupt("the meta cluster of the object cannot be read, or is of a newer layout", layout=layout)
        if _SUM.unpack_from(cluster, fields.size)[0] != crc32(cluster[: fields.size]):
            raise Corrupt("the meta cluster of the object does not match its checksum", layout=layout)
        _, _, _, size, changed_ns, _, *name = fields.unpack_from(cluster)
        return cls(size, changed_ns, name[0].hex() if name else "")
