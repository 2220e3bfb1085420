"""Frames that move data, and their answers: a header of fixed fields, then the data as it is. Pure.

They say what the MessagePack frames of a read, a write and their answers say (``objectrouter.wire``), for a fraction of the work;
spoken to peers from ``PROTOCOL`` on. Their first byte is one that no MessagePack array begins with. Long data are a frame of
their own, right behind the header, so that nobody has to copy them. docs/formats/cluster.md has the table.
"""

from __future__ import annotations

import struct

from objectrouter.operation import PART_BYTES, Attributes, Operation
from objectrouter.requests import Done, Reply, Request, RequestKind
from volumedriver import Origin

PROTOCOL = 2
KINDS_END = 0x80  # kinds are below
_READ, _WRITE, _DATA, _CHANGED, _LONG_WRITE, _LONG_DATA = 1, 2, 3, 4, 5, 6
FIRST_OF_TWO = (bytes([_LONG_WRITE]), bytes([_LONG_DATA]))
LONG_BYTES = 1 << 15  # data of this length are a frame of their own
_REQUEST = struct.Struct("<BBBxIQQQQQQQ")  # kind, lengths of node and object, bytes to read; what ``encode`` packs
_REPLY = struct.Struct("<BBBxQQQQQ")  # kind, lengths of node and object; what ``encode`` packs
_ATTRIBUTES = struct.Struct("<QQQBQ")  # size, times, whether the last is known, bytes allocated


def encode(message: Request | Reply) -> tuple[bytes, ...] | None:
    """One frame or two; None: this message goes another way."""
    try:
        return _request_out(message) if isinstance(message, Request) else _reply_out(message)
    except struct.error:  # a number that does not fit
        return None


def decode(frame: bytes, second: bytes | None) -> Request | Reply:
    """What a frame says, with the one behind it where there are two. ``ValueError``, ``struct.error``: what cannot be."""
    kind = frame[0]
    if (kind in (_LONG_WRITE, _LONG_DATA)) != (second is not None):
        raise ValueError("one frame for two, or two for one")
    if kind in (_READ, _WRITE, _LONG_WRITE):
        return _request_in(kind, frame, second)
    if kind in (_DATA, _CHANGED, _LONG_DATA):
        return _reply_in(kind, frame, second)
    raise ValueError("an unknown kind of frame")


def _request_out(request: Request) -> tuple[bytes, ...] | None:
    operation, origin = request.payload, request.origin
    if operation.name not in ("read", "write") or request.acknowledged:
        return None
    node, name = origin.node.encode(), request.object.encode()
    offset, last = operation.arguments
    if operation.name == "read":
        kind, length, data = _READ, last, b""
    else:
        kind, length, data = _LONG_WRITE if len(last) >= LONG_BYTES else _WRITE, 0, last
    header = _REQUEST.pack(
        kind, len(node), len(name), length, offset, origin.incarnation, origin.number,
        request.session, request.lowest, request.epoch, request.first_epoch,
    )  # fmt: skip
    return (header + node + name, data) if kind == _LONG_WRITE else (b"".join((header, node, name, data)),)


def _request_in(kind: int, frame: bytes, second: bytes | None) -> Request:
    _, node_bytes, name_bytes, length, offset, incarnation, number, session, lowest, epoch, first = _REQUEST.unpack_from(frame)
    node, name, rest = _ids(frame, _REQUEST.size, node_bytes, name_bytes)
    if kind == _READ:
        if length > PART_BYTES or rest != len(frame):
            raise ValueError("longer than one request may be")
        operation, does = Operation("read", (offset, length)), RequestKind.READ
    else:
        operation, does = Operation("write", (offset, _data(frame, rest, second))), RequestKind.WRITE
    return Request(name, Origin(node, incarnation, number), session, lowest, epoch, first, does, operation)


def _reply_out(reply: Reply) -> tuple[bytes, ...] | None:
    answer, origin = reply.answer, reply.origin
    if not isinstance(answer, Done):
        return None
    value = answer.value
    if isinstance(value, bytes):
        kind = _LONG_DATA if len(value) >= LONG_BYTES else _DATA
    elif isinstance(value, Attributes):
        kind = _CHANGED
    else:
        return None
    node, name = origin.node.encode(), reply.object.encode()
    header = _REPLY.pack(
        kind, len(node), len(name), origin.incarnation, origin.number, reply.epoch, answer.epoch, answer.lsn
    )  # fmt: skip
    if kind == _LONG_DATA:
        return header + node + name, value
    if kind == _DATA:
        return (b"".join((header, node, name, value)),)
    allocated = value.allocated
    known = _ATTRIBUTES.pack(value.size, value.mtime_ns, value.ctime_ns, allocated is not None, allocated or 0)
    return (header + node + name + known,)


def _reply_in(kind: int, frame: bytes, second: bytes | None) -> Reply:
    _, node_bytes, name_bytes, incarnation, number, epoch, done_epoch, lsn = _REPLY.unpack_from(frame)
    node, name, rest = _ids(frame, _REPLY.size, node_bytes, name_bytes)
    value: bytes | Attributes
    if kind != _CHANGED:
        value = _data(frame, rest, second)
    else:
        if len(frame) != rest + _ATTRIBUTES.size:
            raise ValueError("attributes of another length")
        size, mtime_ns, ctime_ns, is_known, allocated = _ATTRIBUTES.unpack_from(frame, rest)
        value = Attributes(size, mtime_ns, ctime_ns, allocated if is_known else None)
    return Reply(name, Origin(node, incarnation, number), epoch, Done(value, done_epoch, lsn))


def _data(frame: bytes, start: int, second: bytes | None) -> bytes:
    """What is behind the header, or the frame behind it."""
    if second is None:
        return frame[start:]
    if start != len(frame):
        raise ValueError("data in both frames")
    return second


def _ids(frame: bytes, start: int, node_bytes: int, name_bytes: int) -> tuple[str, str, int]:
    """Node, object, and where what is behind them begins."""
    middle = start + node_bytes
    end = middle + name_bytes
    if end > len(frame):
        raise ValueError("a header that does not fit")
    return frame[start:middle].decode(), frame[middle:end].decode(), end
