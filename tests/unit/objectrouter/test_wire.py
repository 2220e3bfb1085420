"""Frames between routers: all come back as they were sent, and nothing else is taken."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectrouter import wire_data
from objectrouter.handover_messages import Ask, Cancelled, Copied, Copy, Denied, Finish, Granted, Ready
from objectrouter.operation import PART_BYTES, Attributes, Operation
from objectrouter.requests import Done, Failed, Moved, Reply, Request
from objectrouter.wire import (
    Attach,
    Attached,
    Look,
    Message,
    NotAttached,
    Ping,
    Seen,
    decode,
    encode,
    frames,
    is_first_of_two,
)  # fmt: skip
from objectrouter.wishes import Bid, Wish
from peers import Malformed
from volumedriver import Entries, Lineage, Origin, TailRecord
from vpool.errors import Halted, VPoolError

ORIGIN = Origin("b", 3, 17)
ATTRIBUTES = Attributes(1 << 40, 1_700_000_000_000_000_000, 1_700_000_000_000_000_001, None)


def request(operation: Operation) -> Request:
    return Request("0" * 32, ORIGIN, 2, 11, 5, 4, operation.kind, operation, ((4, 100), (5, 120)))


MESSAGES: list[Message] = [
    Attach("0" * 32),
    Attached("0" * 32, 7, ATTRIBUTES),
    Ping(False),
    Look("0" * 32, 3),
    Seen(3, None),
    Seen(3, ATTRIBUTES),
    Ping(True),
    request(Operation("read", (4096, PART_BYTES))),
    request(Operation("attributes")),
    request(Operation("write", (0, b"\0\xff" * 100))),
    request(Operation("zero", (0, 1 << 40))),
    request(Operation("truncate", (0,))),
    request(Operation("flush")),
    Reply("0" * 32, ORIGIN, 5, Done(b"data")),
    Reply("0" * 32, ORIGIN, 5, Done(ATTRIBUTES, 5, 121)),
    Reply("0" * 32, ORIGIN, 5, Done()),
    Reply("0" * 32, ORIGIN, 5, Moved("c", 6)),
    Reply("0" * 32, ORIGIN, 5, Failed("lost")),
    Ask("0" * 32, 5, 3, 2100.5, True),
    Denied("0" * 32, 5, "stay"),
    Granted("0" * 32, 5, 2, 101),
    Copy("0" * 32, 5, 2, (TailRecord(101, None, b"run", 17), TailRecord(118, ORIGIN, b"one"))),
    Copied("0" * 32, 5, 2, 118),
    Finish("0" * 32, 5, 2, 118, Lineage(((4, 1), (5, 90))), Entries(4, ((ORIGIN, 5, 118), (Origin("c", 1, 2), 4, 80)))),
    Ready("0" * 32, 5, 2),
    Cancelled("0" * 32, 5, 2),
    Bid("0" * 32, 1 << 61),
    Wish("0" * 32, 1 << 61, "failed", 17, 20, "no-room"),
]


LONG = bytes(range(256)) * (wire_data.LONG_BYTES // 256)
DATA: list[Message] = [
    request(Operation("write", (1 << 63, LONG))),
    replace(request(Operation("read", (4096, PART_BYTES))), acknowledged=()),
    replace(request(Operation("write", (1 << 63, b"few"))), acknowledged=()),
    replace(request(Operation("write", (0, b""))), acknowledged=()),
    replace(request(Operation("write", (0, LONG[1:]))), acknowledged=()),
    replace(request(Operation("write", (0, LONG))), acknowledged=()),
    Reply("0" * 32, ORIGIN, 5, Done(b"", 0, 0)),
    Reply("0" * 32, ORIGIN, 5, Done(LONG[1:], 0, 0)),
    Reply("0" * 32, ORIGIN, 5, Done(LONG * 32, 0, 0)),
    Reply("0" * 32, ORIGIN, 5, Done(Attributes(1 << 60, 5, 6, 4096), 5, 121)),
    Reply("0" * 32, ORIGIN, 5, Done(Attributes(0, 0, 0, 0), 5, 121)),
    Reply("0" * 32, ORIGIN, 1 << 80, Done(b"a number that fixed fields do not hold")),
]


@pytest.mark.parametrize("protocol", [1, 2, 3])
@pytest.mark.parametrize("message", MESSAGES + DATA, ids=lambda message: type(message).__name__)
def test_a_message_comes_back(message: Message, protocol: int) -> None:
    sent = encoded(message, protocol)
    if sent is None:
        return
    assert is_first_of_two(sent[0]) == (len(sent) == 2)
    assert decode(*sent) == message
    assert protocol >= wire_data.PROTOCOL or decode(encode(message)) == message


def encoded(message: Message, protocol: int) -> tuple[bytes, ...] | None:
    """None: MessagePack does not hold it either."""
    try:
        return frames(message, protocol)
    except OverflowError:
        return None


def test_an_older_peer_gets_what_it_knows() -> None:
    assert all(encode(message) == frames(message, 1)[0] for message in MESSAGES + DATA[:-1])
    assert frames(DATA[1], 2) != frames(DATA[1], 1)


def damaged() -> list[tuple[bytes, ...]]:
    """Frames of data as nobody sends them."""
    read, write, long_write = (frames(DATA[at], 2) for at in (1, 2, 5))
    data, long_data, changed = (frames(DATA[at], 2) for at in (7, 8, 9))
    longer = bytearray(read[0])
    longer[4:8] = (PART_BYTES + 1).to_bytes(4, "little")  # bytes to read
    ids = bytearray(write[0])
    ids[2] = 255  # the object's id ends behind the frame
    text = bytearray(write[0])
    text[-1 - len(b"few") - 31] = 0xFF  # not UTF-8
    return [
        (read[0] + b"x",), (bytes(longer),), (bytes(ids),), (bytes(text),), (changed[0] + b"x",), (changed[0][:-1],),
        (long_write[0],), (long_data[0],), (long_write[0] + b"x", LONG), (read[0], b""), (data[0], LONG),
        (b"\x07" + read[0][1:],),
        *[(each[0][:at],) for each in (read, data, changed) for at in range(0, 60, 7)],
    ]  # fmt: skip


@pytest.mark.parametrize("sent", damaged())
def test_data_that_cannot_be_are_refused(sent: tuple[bytes, ...]) -> None:
    with pytest.raises(Malformed):
        decode(*sent)


def test_an_error_of_the_owner_keeps_its_class() -> None:
    refused = decode(encode(NotAttached("0" * 32, Halted("the disk is dead", object="x", tries=3))))
    assert isinstance(refused, NotAttached)
    assert (type(refused.error), refused.error.message, refused.error.details) == (
        Halted, "the disk is dead", {"object": "x", "tries": "3"},
    )  # fmt: skip
    replied = decode(encode(Reply("0" * 32, ORIGIN, 5, Done(Halted("no")))))
    assert isinstance(replied, Reply)
    assert isinstance(replied.answer, Done)
    assert isinstance(replied.answer.value, Halted)


@pytest.mark.parametrize(
    "fields",
    [
        [], [99], [1], [1, 5], "text", [4, "o", ["b", 1, 1], 1, 1, 1, 1, ["exec", "x"], []],
        [4, "o", ["b", 1, -1], 1, 1, 1, 1, ["flush"], []], [4, "o", ["b", 1, 1], 1, 1, 1, 1, ["read", 0, PART_BYTES + 1], []],
        [4, "o", ["b", 1, 1], 1, 1, 1, 1, ["write", 0, "text"], []], [4, "o", ["b", 1, True], 1, 1, 1, 1, ["flush"], []],
        [5, "o", ["b", 1, 1], 1, ["failed", "because"]], [5, "o", ["b", 1, 1], 1, ["perhaps"]],
        [3, "o", ["VPoolError"]], [20, "o", 1, 1, float("nan"), True], [21, "o", 1, "because"], [22, "o", 1, 1],
        [23, "o", 1, 1, [[5, 0, None, b""]]], [23, "o", 1, 1, [[5, 1, None, "text"]]], [23, "o", 1, 1, {}],
        [25, "o", 1, 1, 9, [[2, 5], [1, 9]], [0, []]], [25, "o", 1, 1, 9, [], [0, [["b", 1, [1, 2]]]]],
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(fields: object) -> None:
    with pytest.raises(Malformed):
        decode(msgpack.packb(fields))


def test_an_error_that_is_none_of_ours_is_an_internal_one() -> None:
    refused = decode(msgpack.packb([3, "o", ["SystemExit", "x", {}]]))
    assert isinstance(refused, NotAttached)
    assert isinstance(refused.error, VPoolError)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        decode(data)
    with contextlib.suppress(Malformed):
        decode(data, b"data")
