"""Questions about the cluster, and their answers: between registries, and on the local socket. Plain data; pure.

On the local socket a frame ``pack[kind, number, argument…]`` is a question (envelopes begin with a number), its answer
``pack[kind, number, ok, result]``; between nodes the same behind a byte (``registry.links``). Where ``ok`` is false the result is
``[name of the error's class, message]``.
"""

from __future__ import annotations

from typing import Any

from registry.codec import Malformed, pack, unpack
from vpool import errors

KINDS = ("status", "barrier", "token", "remove", "role", "rotate", "join", "sign", "authority")


def is_question(data: bytes) -> bool:
    """Whether a request on the local socket is one: a list that begins with text."""
    return len(data) > 1 and (data[0] & 0xF0) == 0x90 and (data[1] & 0xE0) == 0xA0


def encode_question(kind: str, number: int, *arguments: Any) -> bytes:
    """Bytes of a question."""
    return pack([kind, number, *arguments])


def decode_question(data: bytes) -> tuple[str, int, list[Any]]:
    """(kind, number, arguments). Errors: ``Malformed``."""
    raw = unpack(data)
    if not (isinstance(raw, list) and len(raw) >= 2 and raw[0] in KINDS and type(raw[1]) is int):
        raise Malformed("not a question")
    return raw[0], raw[1], raw[2:]


def encode_answer(kind: str, number: int, result: Any) -> bytes:
    """Bytes of an answer."""
    return pack([kind, number, True, result])


def encode_error(kind: str, number: int, error: errors.VPoolError) -> bytes:
    """Bytes of the answer that an error is."""
    return pack([kind, number, False, [type(error).__name__, str(error)]])


def decode_answer(data: bytes) -> tuple[str, int, Any | errors.VPoolError]:
    """(kind, number, result or error). Errors: ``Malformed``."""
    raw = unpack(data)
    if not (isinstance(raw, list) and len(raw) == 4 and raw[0] in KINDS and type(raw[1]) is int and type(raw[2]) is bool):
        raise Malformed("not an answer")
    if raw[2]:
        return raw[0], raw[1], raw[3]
    if not (isinstance(raw[3], list) and len(raw[3]) == 2 and all(isinstance(part, str) for part in raw[3])):
        raise Malformed("not an error")
    found = getattr(errors, raw[3][0], None)
    if not (isinstance(found, type) and issubclass(found, errors.VPoolError)):
        found = errors.Internal
    return raw[0], raw[1], found(raw[3][1])


def arguments_of(arguments: list[Any], *kinds: type) -> list[Any]:
    """Arguments of these types. Errors: ``Malformed``."""
    if [type(argument) for argument in arguments] != list(kinds):
        raise Malformed("a question with other arguments")
    return arguments
