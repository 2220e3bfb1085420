"""Commands, results and records as plain data (msgpack), and back, with every type checked where bytes come from outside. Pure.

A dataclass is the list of its fields in order of declaration; an enumeration is its value. A reader takes a list that is too
short if the missing fields have defaults: that is how a field is added. Numbers of classes (``TAGS``) are never reused. The
outermost lists begin with ``VERSION``, and a reader refuses a newer one. Text that is not UTF-8 (names of files) passes as
``surrogateescape``.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from operator import attrgetter, itemgetter
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgpack

from peers import Malformed as Malformed
from registry import commands as c
from registry import member_commands as mc
from registry import model as m

VERSION = 1
FRAME_BYTES_MAX = 1 << 20

TAGS: dict[type, int] = {
    c.Initialise: 1,
    c.RegisterNode: 2,
    c.RenewLease: 3,
    c.Expire: 4,
    c.Create: 5,
    c.Rename: 6,
    c.Link: 7,
    c.Unlink: 8,
    c.RemoveDirectory: 9,
    c.SetAttributes: 10,
    c.OpenHandle: 11,
    c.CloseHandle: 12,
    c.CreateObject: 13,
    c.NewEpoch: 14,
    c.AdvanceHeads: 15,
    c.Publish: 16,
    c.Resize: 17,
    c.Condemn: 18,
    c.Forget: 19,
    c.Halt: 20,
    c.Unhalt: 21,
    c.Settle: 22,
    c.ForgetFiles: 23,
    c.SetAttribute: 24,
    c.RemoveAttribute: 25,
    c.Relocate: 26,
    c.Transfer: 40,
    c.Abort: 41,
    c.ProposeDtl: 42,
    c.Steal: 43,
    c.DropRemains: 44,
    c.SetNode: 45,
    mc.FormCluster: 60,
    mc.GrantToken: 61,
    mc.Admit: 62,
    mc.SetRole: 63,
    mc.RemoveMember: 64,
    mc.ChangeMember: 65,
    mc.RevokeCertificate: 66,
    c.Refusal: 100,
    m.VPoolRecord: 101,
    m.NodeRecord: 102,
    m.Inode: 103,
    m.ObjectRecord: 104,
    c.Created: 105,
    c.Renamed: 106,
    c.Closed: 107,
    c.HeadAdvanced: 108,
    c.Settled: 109,
    m.ClusterRecord: 140,
    m.MemberRecord: 141,
    m.TokenRecord: 142,
}
COMMAND_TAG_MAX = 99
_CLASSES = {tag: cls for cls, tag in TAGS.items()}
_LISTS = {TAGS[cls]: cls for cls in (c.HeadAdvanced, c.Settled)}  # outcomes that are tuples of these

T = TypeVar("T")
Plain = Any  # what msgpack carries: None, bool, int, str, bytes, list


def pack(value: Plain) -> bytes:
    """Plain data to bytes."""
    return cast(bytes, msgpack.packb(value, use_bin_type=True, unicode_errors="surrogateescape"))


def unpack(data: bytes) -> Plain:
    """Bytes to plain data. Errors: ``Malformed``."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, unicode_errors="surrogateescape")
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise Malformed(f"not msgpack: {error}") from error


# -- one type: how it is turned into plain data, and back; None where nothing is to be done -----------------------------------

Convert = Callable[[Any], Any]


def _identity(value: Any) -> Any:
    return value


def _checked(expected: type) -> Convert:
    def check(value: Any) -> Any:
        if type(value) is not expected:
            raise Malformed(f"{expected.__name__} expected, found {type(value).__name__}")
        return value

    return check


def _converters(hint: Any) -> tuple[Convert, Convert]:
    """(to plain, from plain) for a field's type."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = [arm for arm in get_args(hint) if arm is not type(None)]
        if len(inner) != 1:  # str | int, in details of refusals
            return _identity, _scalar
        to_plain, from_plain = _converters(inner[0])
        return (
            lambda value: None if value is None else to_plain(value),
            lambda value: None if value is None else from_plain(value),
        )
    if origin is tuple:
        arms = get_args(hint)
        if len(arms) == 2 and arms[1] is Ellipsis:
            to_plain, from_plain = _converters(arms[0])
            return lambda value: [to_plain(item) for item in value], lambda value: tuple(map(from_plain, _list(value)))
        pairs = [_converters(arm) for arm in arms]
        return (
            lambda value: [pair[0](item) for pair, item in zip(pairs, value, strict=True)],
            lambda value: tuple(pair[1](item) for pair, item in zip(pairs, _list(value, len(pairs)), strict=True)),
        )
    if origin is typing.Literal:
        return _identity, _checked(str)
    if isinstance(hint, type) and issubclass(hint, Enum):
        assert issubclass(hint, str), "an enumeration is written as its text"
        return _identity, _member(hint)
    if is_dataclass(hint):
        cls = cast(type[Any], hint)
        return lambda value: to_list(value), lambda value: from_list(cls, value)
    return _identity, _checked(hint)


def _scalar(value: Any) -> Any:
    if not isinstance(value, str | int):
        raise Malformed(f"text or number expected, found {type(value).__name__}")
    return value


def _member(cls: type[Enum]) -> Convert:
    members = {member.value: member for member in cls}

    def member(value: Any) -> Any:
        try:
            return members[value]
        except (KeyError, TypeError):
            raise Malformed(f"{value!r} is not a valid {cls.__name__}") from None

    return member


def _list(value: Any, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or (length is not None and len(value) != length):
        raise Malformed("a list of another length was expected" if isinstance(value, list) else "a list was expected")
    return value


class _Plan:
    """What to do with each field of one dataclass; made once.

    Every look-up in the registry decodes a record, so a list that is as it should be is not looked at field by field: the types
    of all plain fields are compared at once, and only ``special`` ones are converted. What is wrong is found in the slow way.
    """

    def __init__(self, cls: type[Any]) -> None:
        hints = get_type_hints(cls)
        self.names = [field.name for field in fields(cls)]
        pairs = [_converters(hints[name]) for name in self.names]
        self.encode = [(index, pair[0]) for index, pair in enumerate(pairs) if pair[0] is not _identity]
        self.decode = [pair[1] for pair in pairs]
        self.required = sum(field.default is MISSING for field in fields(cls))
        plain = [index for index, name in enumerate(self.names) if hints[name] in (int, str, bytes, bool)]
        self.special = [(index, self.decode[index]) for index in range(len(pairs)) if index not in plain]
        self.plain_types = tuple(hints[self.names[index]] for index in plain)
        self.pick_plain = itemgetter(*plain) if len(plain) > 1 else None
        self.pick_all = attrgetter(*self.names) if len(self.names) > 1 else None

    def is_as_it_should_be(self, values: list[Any]) -> bool:
        """Whether the list is whole, with plain fields of the right types."""
        return (
            self.pick_plain is not None
            and len(values) == len(self.names)
            and self.pick_plain(list(map(type, values))) == self.plain_types
        )


_plans: dict[type, _Plan] = {}


def _plan(cls: type[Any]) -> _Plan:
    plan = _plans.get(cls)
    if plan is None:
        plan = _plans[cls] = _Plan(cls)
    return plan


def to_list(record: Any) -> list[Plain]:
    """A dataclass as the list of its fields."""
    plan = _plan(type(record))
    values = list(plan.pick_all(record)) if plan.pick_all is not None else [getattr(record, name) for name in plan.names]
    for index, convert in plan.encode:
        values[index] = convert(values[index])
    return values


def from_list(cls: type[T], values: Plain) -> T:
    """The reverse of ``to_list``; checks every type. Errors: ``Malformed``."""
    plan = _plan(cls)
    if not isinstance(values, list) or not plan.required <= len(values) <= len(plan.names):
        raise Malformed(f"not the fields of {cls.__name__}")
    try:
        if plan.is_as_it_should_be(values):
            values = values.copy()
            for index, convert in plan.special:
                values[index] = convert(values[index])
            return cls(*values)
        return cls(*[convert(value) for convert, value in zip(plan.decode, values, strict=False)])
    except Malformed as error:
        raise Malformed(f"{cls.__name__}: {error}") from None


def encode_record(record: Any) -> bytes:
    """A record of the state as the value of a key."""
    return pack(to_list(record))


def decode_record(cls: type[T], data: bytes) -> T:
    """The reverse of ``encode_record``. Errors: ``Malformed``."""
    return from_list(cls, unpack(data))


# -- envelopes and results -------------------------------------------------------------------------------------------------


def encode_envelope(envelope: c.Envelope) -> bytes:
    """``[version, node, incarnation, sequence, tag, fields]``. Errors: ``Malformed`` (a number of more than 64 bits)."""
    command = envelope.command
    try:
        return pack([VERSION, envelope.node, envelope.incarnation, envelope.sequence, TAGS[type(command)], to_list(command)])
    except (OverflowError, ValueError) as error:
        raise Malformed(f"{type(command).__name__}: {error}") from error


def decode_envelope(data: bytes) -> c.Envelope:
    """The reverse of ``encode_envelope``. Errors: ``Malformed``."""
    raw = _versioned(unpack(data))
    if len(raw) != 6 or not (type(raw[1]) is str and type(raw[2]) is int and type(raw[3]) is int and type(raw[4]) is int):
        raise Malformed("not an envelope")
    cls = _CLASSES.get(raw[4])
    if cls is None or raw[4] > COMMAND_TAG_MAX:
        raise Malformed(f"no command has number {raw[4]}")
    return c.Envelope(raw[1], raw[2], raw[3], from_list(cls, raw[5]))


def encode_outcome(outcome: c.Result | c.Refusal) -> bytes:
    """``[version, tag, fields]``; tag 0: None or a number; tags of ``_LISTS``: a list of them."""
    if outcome is None or isinstance(outcome, int):
        return pack([VERSION, 0, outcome])
    if isinstance(outcome, tuple):
        tag = TAGS[type(outcome[0]) if outcome else c.HeadAdvanced]
        return pack([VERSION, tag, [to_list(item) for item in outcome]])
    return pack([VERSION, TAGS[type(outcome)], to_list(outcome)])


def decode_outcome(data: bytes) -> c.Result | c.Refusal:
    """The reverse of ``encode_outcome``. Errors: ``Malformed``."""
    raw = _versioned(unpack(data))
    if len(raw) != 3:
        raise Malformed("not an outcome")
    if raw[1] == 0:
        return cast(c.Result, raw[2])
    if raw[1] in _LISTS:
        return cast(c.Result, tuple(from_list(_LISTS[raw[1]], item) for item in _list(raw[2])))
    cls = _CLASSES.get(raw[1])
    if cls is None or raw[1] <= COMMAND_TAG_MAX:
        raise Malformed(f"no result has number {raw[1]}")
    return cast(c.Result, from_list(cls, raw[2]))


def _versioned(raw: Plain) -> list[Plain]:
    if not isinstance(raw, list) or not raw or type(raw[0]) is not int:
        raise Malformed("no version")
    if raw[0] != VERSION:
        raise Malformed(f"version {raw[0]}, this program knows {VERSION}")
    return raw
