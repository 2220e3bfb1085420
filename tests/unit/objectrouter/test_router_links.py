"""Links between routers on real sockets: what waits holds up nothing else, and outlives the link it came over."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

import peers
from objectrouter import router_links, wire_data
from objectrouter.operation import Operation
from objectrouter.requests import Done, Reply, Request
from objectrouter.router_links import Received, RouterLink
from objectrouter.wire import FRAME_BYTES_MAX, Message, decode
from peers import Address, Malformed, Purpose
from tests.unit.peers.test_links import credentials, hello
from volumedriver import Origin
from vpool.errors import Unavailable, VPoolError

SEED = int(os.environ.get("VPOOL_SEED", "11"))


def files(directory: Path, node: str) -> peers.CredentialFiles:
    made = peers.CredentialFiles(directory / node)
    mine = credentials(node)
    made.save(peers.AUTHORITY, mine.authority)
    made.save(peers.IDENTITY, mine.identity)
    return made


class Ends:
    """Two ends of one link; the dialling one is not read from unless somebody does."""

    def __init__(self) -> None:
        self.asker: peers.Link
        self.owner: RouterLink
        self.ended = trio.Event()
        self.why: Exception | None = None


@asynccontextmanager
async def linked(
    directory: Path, received: Received, *, protocol: int = peers.PROTOCOL, pings: bool = False
) -> AsyncIterator[Ends]:
    """The owner reads; the asker is a bare link."""
    ends = Ends()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", probe.getsockname()[1])

    async with trio.open_nursery() as requests, trio.open_nursery() as nursery:

        async def handler(link: peers.Link) -> None:
            ends.owner = RouterLink(link, requests)
            served.set()
            try:
                await ends.owner.run(received, pings=pings)
            except (VPoolError, Malformed) as error:
                ends.why = error
            ends.ended.set()

        async def listen(task_status: trio.TaskStatus[None]) -> None:
            await peers.serve(
                address, files(directory, "owner"), lambda: hello("owner", Purpose.ROUTER), handler,
                frame_bytes_max=FRAME_BYTES_MAX, admit=lambda *_: None, task_status=task_status,
            )  # fmt: skip

        served = trio.Event()
        await nursery.start(listen)
        said = replace(hello("asker", Purpose.ROUTER), protocol=protocol)
        with trio.fail_after(60):
            ends.asker = await peers.dial(
                address, files(directory, "asker"), said, node="owner", frame_bytes_max=FRAME_BYTES_MAX
            )  # fmt: skip
            async with ends.asker:
                await served.wait()
                yield ends
        nursery.cancel_scope.cancel()
        requests.cancel_scope.cancel()


def request(number: int, data: bytes = b"data") -> Request:
    operation = Operation("write", (number, data))
    return Request("0" * 32, Origin("asker", 1, number), 1, 1, 1, 1, operation.kind, operation)


def reply(number: int, data: bytes) -> Reply:
    return Reply("0" * 32, Origin("asker", 1, number), 1, Done(data))


async def ask(link: peers.Link, message: Request) -> None:
    for frame in wire_data.encode(message) or ():
        await link.send(frame)


async def answer(link: peers.Link) -> Message:
    frame = await link.receive()
    return decode(frame, await link.receive() if frame[0] == 6 else None)


async def test_a_request_that_waits_holds_up_none_behind_it(tmp_path: Path) -> None:
    """Nor do those that come in the same piece of the stream; each is begun in its turn."""
    go_on, begun = trio.Event(), list[int]()

    def received(link: RouterLink, message: Message) -> Coroutine[Any, Any, None]:
        assert isinstance(message, Request)
        return done(link, message.origin.number)

    async def done(link: RouterLink, number: int) -> None:
        begun.append(number)
        if number % 3 == 0:
            await go_on.wait()
        link.send(reply(number, b"done"))

    async with linked(tmp_path, received) as ends:
        ends.asker.cork()
        for number in range(60):
            ends.asker.post(*(wire_data.encode(request(number)) or ()))
        ends.asker.uncork()
        first = [await answer(ends.asker) for _ in range(40)]
        assert first == [reply(number, b"done") for number in range(60) if number % 3]
        assert begun == list(range(60))
        go_on.set()
        rest = [await answer(ends.asker) for _ in range(20)]
        assert sorted(rest, key=str) == sorted([reply(number, b"done") for number in range(0, 60, 3)], key=str)


async def test_a_request_outlives_its_link(tmp_path: Path) -> None:
    """It may be half done: whoever executes it must be able to note that."""
    go_on, waits, noted = trio.Event(), trio.Event(), trio.Event()

    async def done() -> None:
        waits.set()
        await go_on.wait()
        await trio.lowlevel.checkpoint()  # would raise if it had been cancelled with the link
        noted.set()

    async with linked(tmp_path, lambda link, message: done()) as ends:
        await ask(ends.asker, request(1))
        await waits.wait()
        ends.asker.close()
        await ends.ended.wait()
        assert ends.owner.closed.is_set()
        assert isinstance(ends.why, Unavailable)
        go_on.set()
        await noted.wait()


async def test_an_error_of_a_request_that_waited_is_raised_in_it(tmp_path: Path) -> None:
    """What is thrown into it by whom it waits for gets there, and not into the task that reads on."""
    caught = trio.Event()

    async def done() -> None:
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(0.01):
                await trio.sleep_forever()
        caught.set()

    async with linked(tmp_path, lambda link, message: done()) as ends:
        await ask(ends.asker, request(1))
        await caught.wait()
        assert not ends.owner.closed.is_set()


async def test_who_does_not_read_holds_up_nobody_who_sends(tmp_path: Path) -> None:
    """Far more than the socket takes; it all arrives in order when the other side reads again."""
    chosen = random.Random(SEED)
    print(f"VPOOL_SEED={SEED}")
    sent = [chosen.randbytes(chosen.choice([0, 10, 5_000, 40_000, 1 << 20])) for _ in range(60)]

    async def done(link: RouterLink) -> None:
        for number, data in enumerate(sent):
            link.send(reply(number, data))

    async with linked(tmp_path, lambda link, message: done(link)) as ends:
        await ask(ends.asker, request(1))
        for number, data in enumerate(sent):
            assert await answer(ends.asker) == reply(number, data)


async def test_a_peer_of_an_older_release_is_spoken_to_in_its_way(tmp_path: Path) -> None:
    async def done(link: RouterLink, message: Message) -> None:
        assert isinstance(message, Request)
        link.send(reply(message.origin.number, bytes(1 << 16)))

    async with linked(tmp_path, done, protocol=1) as ends:
        await ask(ends.asker, request(1))
        frame = await ends.asker.receive()
        assert frame[0] >= wire_data.KINDS_END
        assert decode(frame) == reply(1, bytes(1 << 16))


@pytest.mark.parametrize("frames", [[b"\x07"], [b"\x05"], [b""], [b"\xc1"], [b"\x05", b"data"]])
async def test_what_is_no_message_ends_the_link(tmp_path: Path, frames: list[bytes]) -> None:
    async with linked(tmp_path, lambda link, message: None) as ends:
        with contextlib.suppress(VPoolError):
            for frame in [*frames, b""]:
                await ends.asker.send(frame)
        await ends.ended.wait()
        assert isinstance(ends.why, Malformed)


async def test_a_silent_link_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_links, "SILENCE_S", 0.2)
    async with linked(tmp_path, lambda link, message: None) as ends:
        await ends.ended.wait()
        assert "nothing has come" in str(ends.why)
