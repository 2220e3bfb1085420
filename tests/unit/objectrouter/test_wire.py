"""Frames between routers: all come back as they were sent, and nothing else is taken."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectrouter.handover_messages import Ask, Cancelled, Copied, Copy, Denied, Finish, Granted, Ready
from objectrouter.requests import Done, Failed, Moved, Reply, Request
from objectrouter.wire import (
    PART_BYTES,
    Attach,
    Attached,
    Attributes,
    Look,
    Message,
    NotAttached,
    Operation,
    Ping,
    Seen,
    decode,
    encode,
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


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back(message: Message) -> None:
    assert decode(encode(message)) == message


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
