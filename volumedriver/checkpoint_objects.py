"""Checkpoints as they stand in the backend, for whoever looks at them from outside. Pure. docs/formats/checkpoint.md."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from engine import crc32c, xxh3
from vpool.errors import Corrupt

HEADER_BYTES = 32
TRAILER_BYTES = 40
_MAGIC, _TRAILER_MAGIC, _ROOT_MAGIC = b"vPoolMAP", b"vPoolMAE", b"vPoolROT"
_TRAILER = struct.Struct("<QQQQ8s")
_ITEM = struct.Struct("<BBHIQII")
_ROOT = struct.Struct("<8sIBBH16sQQQQ24s24sII")
_LINEAGE_BYTES = 32
_OBJECT = struct.Struct("<Q16sQQQ")


@dataclass(frozen=True, slots=True)
class ObjectTrailer:
    """The end of a checkpoint's object."""

    index_at: int
    items: int
    root_at: int  # 0: it has no root
    checksum: int


@dataclass(frozen=True, slots=True)
class MapObject:
    """An object that a checkpoint's trees have nodes in."""

    number: int
    origin: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class RootFacts:
    """What a root says."""

    volume: bytes
    tlog_epoch: int  # the TLog that it includes
    tlog_number: int
    objects: tuple[MapObject, ...]
    checksum: int


def read_trailer(end: bytes) -> ObjectTrailer:
    """From the last 40 bytes of an object. Corrupt; its checksum covers the index too, see ``check_map_object``."""
    if len(end) != TRAILER_BYTES or end[-8:] != _TRAILER_MAGIC:
        raise Corrupt("a checkpoint's object has no trailer")
    index_at, items, root_at, checksum, _ = _TRAILER.unpack(end)
    return ObjectTrailer(index_at, items, root_at, checksum)


def read_root(data: bytes) -> RootFacts:
    """From the bytes of a root, checksum included. Corrupt."""
    if len(data) < _ROOT.size + 8 or data[:8] != _ROOT_MAGIC or xxh3(data[:-8]) != int.from_bytes(data[-8:], "little"):
        raise Corrupt("a checkpoint's root does not match its checksum")
    _, version, _, _, _, volume, _, tlog_epoch, tlog_number, _, _, _, lineages, count = _ROOT.unpack_from(data)
    first = _ROOT.size + lineages * _LINEAGE_BYTES
    if version != 1 or len(data) != first + count * _OBJECT.size + 8:
        raise Corrupt("a checkpoint's root is of a newer format, or contradicts itself", version=version)
    objects = tuple(MapObject(*_OBJECT.unpack_from(data, first + at * _OBJECT.size)[:3]) for at in range(count))
    return RootFacts(volume, tlog_epoch, tlog_number, objects, int.from_bytes(data[-8:], "little"))


def check_map_object(data: bytes) -> None:
    """See that all of an object is as it was written: header, index, and every node by its checksum. Corrupt."""
    trailer = read_trailer(data[-TRAILER_BYTES:])
    end = len(data) - TRAILER_BYTES
    if data[:8] != _MAGIC or trailer.index_at + trailer.items * _ITEM.size != end:
        raise Corrupt("a checkpoint's object contradicts itself")
    if xxh3(data[:HEADER_BYTES] + data[trailer.index_at : end + 24]) != trailer.checksum:
        raise Corrupt("the index of a checkpoint's object does not match its checksum")
    for at in range(trailer.index_at, end, _ITEM.size):
        _, _, _, length, key, offset, crc = _ITEM.unpack_from(data, at)
        if crc32c(data[offset : offset + length]) != crc:
            raise Corrupt("a node of a checkpoint's object does not match its checksum", key=key, offset=offset)
