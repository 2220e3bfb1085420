"""Frames between routers (``Purpose.ROUTER``): bytes of requests and answers. Pure; docs/formats/cluster.md has the table.

A frame is a MessagePack array that begins with its kind, or one of data (``objectrouter.wire_data``). A reader checks the type of
every field: what does not fit is ``Malformed``, and the link ends. Errors of the owner travel by their class in ``vpool.errors``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from objectrouter import wire_data
from objectrouter.operation import OPERATIONS, PART_BYTES, Attributes, Operation
from objectrouter.requests import Done, Failed, Moved, Reply, Request
from objectrouter.wire_ownership import OWNERSHIP, OwnershipMessage
from objectrouter.wire_parts import origin_in, typed
from peers import Malformed
from vpool import errors

FRAME_BYTES_MAX = (4 << 20) + (1 << 18)  # the longest record of a log, with its checksums

_ATTACH, _ATTACHED, _REFUSED, _REQUEST, _REPLY, _PING, _PONG, _LOOK, _SEEN = 1, 2, 3, 4, 5, 6, 7, 8, 9


@dataclass(frozen=True, slots=True)
class Attach:
    """Open an object, and say under which epoch; to be sent first over every link."""

    object: str


@dataclass(frozen=True, slots=True)
class Attached:
    """It is open, and its owner serves it."""

    object: str
    epoch: int
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class NotAttached:
    """It is not."""

    object: str
    error: errors.VPoolError


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? ``answer``: yes."""

    answer: bool


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of an object beyond what is published? Opens nothing."""

    object: str
    ticket: int


@dataclass(frozen=True, slots=True)
class Seen:
    """The answer; None: what is published is right."""

    ticket: int
    attributes: Attributes | None


Message = Attach | Attached | NotAttached | Request | Reply | Ping | Look | Seen | OwnershipMessage


def frames(message: Message, protocol: int) -> tuple[bytes, ...]:
    """One frame or two of a message for a peer that speaks this protocol."""
    if protocol >= wire_data.PROTOCOL:
        found = wire_data.encode(message) if isinstance(message, Request | Reply) else None
        if found is not None:
            return found
    return (encode(message),)


def encode(message: Message) -> bytes:
    """Bytes of a message, as all releases read it."""
    packed = msgpack.packb(_fields(message), use_bin_type=True)
    assert isinstance(packed, bytes)
    return packed


def is_first_of_two(frame: bytes) -> bool:
    """Whether the next frame belongs to the same message."""
    return frame[:1] in wire_data.FIRST_OF_TWO


def decode(data: bytes, second: bytes | None = None) -> Message:
    """A message of one frame or two. Errors: ``Malformed``."""
    try:
        if data and data[0] < wire_data.KINDS_END:
            return wire_data.decode(data, second)
        fields = msgpack.unpackb(data, raw=False, use_list=True, strict_map_key=True)
        kind, rest = fields[0], fields[1:]
        if OWNERSHIP.knows(kind):
            found: Message = OWNERSHIP.decode(kind, rest)
            return found
        return _DECODERS[kind](rest)
    except (ValueError, TypeError, struct.error, KeyError, IndexError, msgpack.exceptions.UnpackException) as error:
        raise Malformed(f"not a router's frame: {error!r}"[:200]) from None


def _fields(message: Message) -> list[Any]:
    match message:
        case Attach():
            return [_ATTACH, message.object]
        case Attached():
            return [_ATTACHED, message.object, message.epoch, _attributes_out(message.attributes)]
        case NotAttached():
            return [_REFUSED, message.object, _error_out(message.error)]
        case Ping():
            return [_PONG if message.answer else _PING]
        case Look():
            return [_LOOK, message.object, message.ticket]
        case Seen():
            return [_SEEN, message.ticket, None if message.attributes is None else _attributes_out(message.attributes)]
        case Request():
            return [
                _REQUEST,
                message.object,
                [message.origin.node, message.origin.incarnation, message.origin.number],
                message.session,
                message.lowest,
                message.epoch,
                message.first_epoch,
                [message.payload.name, *message.payload.arguments],
                [list(pair) for pair in message.acknowledged],
            ]
        case Reply():
            origin = message.origin
            return [
                _REPLY,
                message.object,
                [origin.node, origin.incarnation, origin.number],
                message.epoch,
                _answer_out(message.answer),
            ]
        case _:
            found = OWNERSHIP.encode(message)
            assert found is not None, message
            return found


def _answer_out(answer: Done | Moved | Failed) -> list[Any]:
    match answer:
        case Done():
            return ["done", *_value_out(answer.value), answer.epoch, answer.lsn]
        case Moved():
            return ["moved", answer.owner, answer.epoch]
        case Failed():
            return ["failed", answer.why]


def _value_out(value: Any) -> tuple[str, Any]:
    if isinstance(value, errors.VPoolError):
        return "error", _error_out(value)
    if isinstance(value, Attributes):
        return "attributes", _attributes_out(value)
    return ("none", None) if value is None else ("bytes", value)


def _attributes_out(attributes: Attributes) -> list[Any]:
    return [attributes.size, attributes.mtime_ns, attributes.ctime_ns, attributes.allocated]


def _error_out(error: errors.VPoolError) -> list[Any]:
    return [type(error).__name__, error.message, {str(key): str(value) for key, value in error.details.items()}]


def _attributes_in(fields: Any) -> Attributes:
    size, mtime_ns, ctime_ns = typed(fields, int, int, int)
    allocated = fields[3]
    if allocated is not None and (type(allocated) is not int or allocated < 0):
        raise ValueError("a count of bytes expected")
    return Attributes(size, mtime_ns, ctime_ns, allocated)


def _error_in(fields: Any) -> errors.VPoolError:
    name, message, details = typed(fields, str, str, dict)
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, errors.VPoolError)):
        kind = errors.Internal
    return kind(message, **{str(key): value for key, value in details.items()})


def _attached_in(rest: list[Any]) -> Attached:
    object_id, epoch = typed(rest, str, int)
    return Attached(object_id, epoch, _attributes_in(rest[2]))


def _refused_in(rest: list[Any]) -> NotAttached:
    (object_id,) = typed(rest, str)
    return NotAttached(object_id, _error_in(rest[1]))


def _seen_in(rest: list[Any]) -> Seen:
    (ticket,) = typed(rest, int)
    return Seen(ticket, None if rest[1] is None else _attributes_in(rest[1]))


def _request_in(rest: list[Any]) -> Request:
    object_id, origin, session, lowest, epoch, first_epoch, payload, acknowledged = typed(
        rest, str, list, int, int, int, int, list, list
    )
    (name,) = typed(payload, str)
    kind, types = OPERATIONS[name]
    arguments = tuple(typed(payload[1:], *types))
    if name == "read" and arguments[1] > PART_BYTES:
        raise ValueError("longer than one request may be")
    return Request(
        object=object_id,
        origin=origin_in(origin),
        session=session,
        lowest=lowest,
        epoch=epoch,
        first_epoch=first_epoch,
        kind=kind,
        payload=Operation(name, arguments),
        acknowledged=tuple((pair[0], pair[1]) for pair in (typed(each, int, int) for each in acknowledged)),
    )


def _reply_in(rest: list[Any]) -> Reply:
    object_id, origin, epoch, answer = typed(rest, str, list, int, list)
    return Reply(object_id, origin_in(origin), epoch, _answer_in(answer))


def _answer_in(answer: list[Any]) -> Done | Moved | Failed:
    if answer[0] == "moved":
        owner, epoch = typed(answer[1:], str, int)
        return Moved(owner, epoch)
    if answer[0] == "failed":
        if answer[1] not in ("fenced", "lost", "invalid", "waited"):
            raise ValueError("an unknown reason")
        return Failed(answer[1])
    if answer[0] != "done":
        raise ValueError("an unknown answer")
    epoch, lsn = typed(answer[3:], int, int)
    return Done(_value_in(answer[1], answer[2]), epoch, lsn)


def _value_in(kind: str, value: Any) -> Any:
    if kind == "error":
        return _error_in(value)
    if kind == "attributes":
        return _attributes_in(value)
    if kind == "none":
        return None
    (data,) = typed([value], bytes)
    return data


_DECODERS: dict[int, Callable[[list[Any]], Message]] = {
    _ATTACH: lambda rest: Attach(*typed(rest, str)),
    _ATTACHED: _attached_in,
    _REFUSED: _refused_in,
    _REQUEST: _request_in,
    _REPLY: _reply_in,
    _LOOK: lambda rest: Look(*typed(rest, str, int)),
    _SEEN: _seen_in,
    _PING: lambda rest: Ping(False),
    _PONG: lambda rest: Ping(True),
}
