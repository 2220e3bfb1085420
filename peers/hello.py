"""The first frame of each side of a link: who, what for, which versions; and the refusal that may follow. Pure.

Format (MessagePack): hello ``[protocol, purpose, vpool, node, format, process, unix_s, commands, commands_least]``; refusal
``[0, reason]``. A later release may add fields behind; a reader ignores what it does not know. ``protocol`` is what the sender
speaks; both sides must speak a common one, and the lower of the two is spoken. ``commands`` is the level of the registry's
commands that the sender's release knows, ``commands_least`` the one that others must know, since such commands may be in the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgpack

from peers.certificates import Peer, Role
from peers.frames import Malformed
from vpool.errors import Conflict, Denied, Invalid

PROTOCOL = 2  # 2: frames of data between routers (``objectrouter.wire_data``)
PROTOCOL_OLDEST = 1
COMMANDS = 2  # raised when a command is added to ``registry.codec`` or comes to mean more
COMMANDS_LEAST = 1
HELLO_BYTES_MAX = 4096
REASON_CHARACTERS_MAX = 1000


class Purpose(str, Enum):
    """What a link is for; a listener serves some of them."""

    REGISTRY = "registry"  # raft between registries
    JOIN = "join"  # of the bearer of a token
    ROUTER = "router"  # forwarded requests, hand-over
    DTL = "dtl"


@dataclass(frozen=True, slots=True)
class Hello:
    """What one side says first."""

    protocol: int
    purpose: Purpose
    vpool: str
    node: str
    format: int  # of the vPool
    process: str  # random, one per life of the process: tells a restart from a second one with the same identity
    unix_s: float  # the sender's wall clock
    commands: int = COMMANDS
    commands_least: int = COMMANDS_LEAST


def encode_hello(hello: Hello) -> bytes:
    """Bytes of a hello."""
    fields = [
        hello.protocol, hello.purpose.value, hello.vpool, hello.node, hello.format, hello.process, hello.unix_s,
        hello.commands, hello.commands_least,
    ]  # fmt: skip
    return _packed(fields)


def encode_refusal(reason: str) -> bytes:
    """Bytes of a refusal."""
    return _packed([0, reason[:REASON_CHARACTERS_MAX]])


def decode_hello(data: bytes) -> Hello | str:
    """A hello, or the reason of a refusal. Errors: ``Malformed``, ``Invalid`` (a purpose we do not know)."""
    try:
        fields = msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise Malformed(f"not msgpack: {error}") from error
    if isinstance(fields, list) and len(fields) == 2 and fields[0] == 0 and isinstance(fields[1], str):
        return str(fields[1])
    kinds = [int, str, str, str, int, str, float]
    if not isinstance(fields, list) or [type(field) for field in fields[:7]] != kinds:
        raise Malformed("not a hello")
    try:
        purpose = Purpose(fields[1])
    except ValueError:
        raise Invalid("a link for something that this release does not know", purpose=fields[1][:32]) from None
    levels = fields[7:9] or [1, 1]
    if [type(level) for level in levels] != [int, int]:
        raise Malformed("not a hello")
    return Hello(fields[0], purpose, *fields[2:7], *levels)


def check_hello(peer: Peer, hello: Hello, mine: Hello) -> None:
    """See that a hello fits the certificate it came under, and us.

    Errors: ``Denied`` (another identity, or one that may not ask this), ``Conflict`` (another vPool or format), ``Invalid`` (no
    common protocol).
    """
    if (hello.node, hello.vpool) != (peer.node, peer.vpool):
        raise Denied("the peer says to be another than its certificate says", says=hello.node[:64], is_=peer.node)
    if hello.vpool != mine.vpool:
        raise Conflict("the peer belongs to another vpool", peer=hello.vpool, here=mine.vpool)
    if hello.protocol < PROTOCOL_OLDEST:
        raise Invalid("the peer's release is too old to talk to", protocol=hello.protocol, oldest=PROTOCOL_OLDEST)
    if hello.commands < mine.commands_least:
        raise Invalid(
            "the peer's release does not know all commands that the registry may have in its log; upgrade it first",
            knows=hello.commands,
            needed=mine.commands_least,
        )
    if hello.format != mine.format:
        raise Conflict(
            "the peer has another format of the vpool; use releases that know the same", peer=hello.format, here=mine.format
        )
    if peer.role is Role.JOIN and hello.purpose is not Purpose.JOIN:
        raise Denied("a join token is good for joining only", purpose=hello.purpose.value)


def _packed(fields: list[Any]) -> bytes:
    packed = msgpack.packb(fields, use_bin_type=True)
    assert isinstance(packed, bytes)
    return packed
