"""What the routers' port refuses: strangers, noise, forged and cut frames, requests that cannot be. The daemon serves on."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from contextlib import suppress
from pathlib import Path

import msgpack
import pytest
import trio

import peers
from objectrouter.operation import PART_BYTES, Attributes, Operation
from objectrouter.requests import Done, Failed, Reply, Request
from objectrouter.wire import (
    FRAME_BYTES_MAX,
    Attach,
    Attached,
    Look,
    Message,
    NotAttached,
    Ping,
    Seen,
    decode,
    encode,
)
from peers import CredentialFiles, Hello, Link, Purpose
from registry import RegistryView
from tests.cluster.running import vpool
from tests.cluster.test_forwarding import made_on, read, stamp, two, written
from tests.cluster.test_three_nodes import Daemon
from volumedriver import Origin
from vpool.errors import VPoolError
from vpool.place import FORMAT_CLUSTER, Identity, Place

pytestmark = pytest.mark.mount

SEED = int(os.environ.get("VPOOL_SEED", "7"))
ANSWER_S = 30.0


def identity_of(node: Daemon) -> Identity:
    found = Place(node.directory).identity
    assert found is not None
    return found


class Stranger:
    """A node that has joined, and says what it likes."""

    def __init__(self, owner: Daemon, third: Daemon) -> None:
        self._identity = identity_of(third)
        self.node = self._identity.node
        self._credentials = CredentialFiles(third.directory / "cluster")
        address = peers.parse_address(owner.address)
        self.address = peers.Address(address.host, address.port + 1)
        self._owner = identity_of(owner).node

    async def dial(self, purpose: Purpose = Purpose.ROUTER, **changed: object) -> Link:
        fields = {
            "protocol": peers.PROTOCOL, "purpose": purpose, "vpool": self._identity.vpool, "node": self.node,
            "format": FORMAT_CLUSTER, "process": "test", "unix_s": time.time(),
        }  # fmt: skip
        hello = Hello(**{**fields, **changed})  # type: ignore[arg-type]
        with trio.fail_after(ANSWER_S):
            return await peers.dial(self.address, self._credentials, hello, node=self._owner, frame_bytes_max=FRAME_BYTES_MAX)

    async def asked(self, link: Link, message: Message) -> Message:
        """The next answer that is no ping."""
        await link.send(encode(message))
        with trio.fail_after(ANSWER_S):
            while True:
                found = decode(await link.receive())
                if not isinstance(found, Ping):
                    return found


def request(object_id: str, node: str, number: int, at: int, operation: Operation, **changed: object) -> Request:
    fields = {
        "object": object_id, "origin": Origin(node, 1, number), "session": 1, "lowest": number, "epoch": at,
        "first_epoch": at, "kind": operation.kind, "payload": operation, "acknowledged": (),
    }  # fmt: skip
    return Request(**{**fields, **changed})  # type: ignore[arg-type]


def object_of(node: Daemon, name: str) -> str:
    with RegistryView(node.directory / "registry") as view:
        found = view.lookup(1, name)
        assert found is not None
        assert found.object is not None
        return found.object


async def ends(link: Link) -> None:
    """The other side has had enough."""
    with trio.fail_after(ANSWER_S), suppress(VPoolError, peers.Malformed):
        while True:
            await link.receive()


async def test_the_router_serves_on_whatever_comes(tmp_path: Path) -> None:
    chosen = random.Random(SEED)
    print(f"VPOOL_SEED={SEED}")
    with two(tmp_path) as (owner, other):
        made_on(owner, "disk.raw")
        third = Daemon(tmp_path, 2)
        token = vpool("cluster", "token", "--dir", owner.directory).out.strip()
        joined = vpool("cluster", "join", "--dir", third.directory, "--token", token, "--listen", third.address)
        assert joined.code == 0, joined.err
        stranger, disk = Stranger(owner, third), object_of(owner, "disk.raw")
        await noise(stranger, chosen)
        await hellos_that_do_not_fit(stranger, token)
        epoch = await requests_that_cannot_be(stranger, disk)
        await forged_frames(stranger, disk, epoch, chosen)
        assert not owner.ended(), owner.log.read_text()[-3000:]
        said = [json.loads(line) for line in owner.log.read_text().splitlines() if line.startswith("{")]
        assert not [line for line in said if line["level"] == "error"]
        written(other.mount / "disk.raw", 1, stamp(1, 1), sync=True)
        assert read(owner.mount / "disk.raw", 1) == stamp(1, 1)
        assert read(owner.mount / "disk.raw", 0) == stamp(0, 0), "nobody else's request has changed anything"
        with (other.mount / "new").open("xb") as file:
            file.write(b"new")
        assert (owner.mount / "new").read_bytes() == b"new"


async def noise(stranger: Stranger, chosen: random.Random) -> None:
    """Before TLS."""
    for _ in range(20):
        stream = await trio.open_tcp_stream(stranger.address.host, stranger.address.port)
        with suppress(trio.BrokenResourceError):
            await stream.send_all(chosen.randbytes(chosen.randrange(1, 100_000)))
            with trio.move_on_after(0.05):
                await stream.receive_some(1000)
        await stream.aclose()
    half_open = [socket.create_connection((stranger.address.host, stranger.address.port)) for _ in range(30)]
    link = await stranger.dial()
    assert isinstance(await stranger.asked(link, Look("f" * 32, 5)), Seen), "others who say nothing hold up nobody"
    await link.aclose()
    for each in half_open:
        each.close()


async def hellos_that_do_not_fit(stranger: Stranger, token_text: str) -> None:
    """Other vPool, node, format, release or purpose."""
    for changed, why in (
        ({"vpool": "f" * 32}, "another than its certificate"),
        ({"node": "f" * 32}, "another than its certificate"),
        ({"format": FORMAT_CLUSTER + 1}, "format"),
        ({"protocol": 0}, "too old"),
    ):
        with pytest.raises(VPoolError, match=why):
            await stranger.dial(**changed)
    for purpose in (Purpose.REGISTRY, Purpose.JOIN):
        with pytest.raises(VPoolError, match="this port is for routers"):
            await stranger.dial(purpose)
    token = peers.parse_token(token_text)
    hello = Hello(peers.PROTOCOL, Purpose.ROUTER, token.vpool, token.node, FORMAT_CLUSTER, "test", time.time())
    with pytest.raises(VPoolError, match="join token"):
        await peers.dial(stranger.address, token.credentials, hello, node=None, frame_bytes_max=FRAME_BYTES_MAX)


async def requests_that_cannot_be(stranger: Stranger, disk: str) -> int:
    """Well-formed, and refused one by one; the link stays. Returns the disk's epoch."""
    link = await stranger.dial()
    async with link:
        assert isinstance(await stranger.asked(link, Attach("f" * 32)), NotAttached), "no such object"
        assert isinstance(await stranger.asked(link, Attach("../../etc/passwd")), NotAttached)
        attached = await stranger.asked(link, Attach(disk))
        assert isinstance(attached, Attached)
        beyond = (
            Operation("read", (1 << 63, 4096)),
            Operation("read", ((1 << 64) - 1, 4096)),
            Operation("write", ((1 << 63) - 1, b"x" * 4096)),
            Operation("write", ((1 << 64) - 1, b"x")),
            Operation("zero", (1 << 63, (1 << 64) - 1)),
            Operation("zero", ((1 << 64) - 1, (1 << 64) - 1)),
            Operation("truncate", ((1 << 64) - 1,)),
            Operation("truncate", (1 << 63,)),
        )
        for number, operation in enumerate(beyond, 1):
            answer = await stranger.asked(link, request(disk, stranger.node, number, attached.epoch, operation))
            assert isinstance(answer, Reply), operation
            assert isinstance(answer.answer, Done), operation
            if operation.name in ("write", "truncate"):
                assert isinstance(answer.answer.value, VPoolError), (operation, answer)
        for changed in ({"epoch": attached.epoch + 7}, {"epoch": 0}):
            answer = await stranger.asked(
                link, request(disk, stranger.node, 50, attached.epoch, Operation("read", (0, 4096)), **changed)
            )
            assert isinstance(answer, Reply)
        far = request(disk, stranger.node, 1 << 40, attached.epoch, Operation("write", (0, b"x")), lowest=60)
        assert isinstance(await stranger.asked(link, far), Reply), "far beyond what may be open"
        return attached.epoch


async def forged_frames(stranger: Stranger, disk: str, epoch: int, chosen: random.Random) -> None:
    """Each ends its link, and nothing else."""
    whole = [
        encode(request(disk, stranger.node, 70, epoch, Operation("write", (0, b"forged" * 100)))),
        encode(Attach(disk)),
        encode(Look(disk, 1)),
        encode(Reply(disk, Origin(stranger.node, 1, 1), epoch, Failed("lost"))),
        encode(Attached(disk, epoch, Attributes(1, 2, 3, None))),
    ]
    wrong = [
        b"",
        b"\xc1",
        b"\x90",
        msgpack.packb([99]),
        msgpack.packb([4]),
        msgpack.packb([4, disk, None, None]),
        msgpack.packb({"a": 1}),
        b"\xdd\xff\xff\xff\xff",  # an array of four thousand million
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 5000,  # deeper than anybody goes
        whole[3],
        whole[4],
        encode(request(disk, "e" * 32, 71, epoch, Operation("write", (0, b"in another's name")))),
        encode(request(disk, stranger.node, 72, epoch, Operation("read", (0, PART_BYTES + 1)))),
    ]
    wrong += [frame[: chosen.randrange(1, len(frame))] for frame in whole[:3] for _ in range(4)]
    for data in wrong:
        link = await stranger.dial()
        async with link:
            await link.send(data)
            await ends(link)
    link = await stranger.dial()
    async with link:
        link._channel._write((FRAME_BYTES_MAX + 1).to_bytes(4, "little"))
        await link.send(b"P")
        await ends(link)
    for _ in range(60):  # a flipped byte may still be a frame; whatever it says, it is not obeyed beyond this node's own requests
        data = bytearray(whole[chosen.choice((1, 2))])
        data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        link = await stranger.dial()
        async with link:
            await link.send(bytes(data))
            with trio.move_on_after(0.02), suppress(VPoolError, peers.Malformed):
                await link.receive()
