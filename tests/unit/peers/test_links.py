"""Links: who is let in, what a stranger can make us read, and what passes."""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import ssl
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
import trio

import peers
from peers import Address, Channel, Credentials, Hello, Purpose, Role
from peers.channel import HANDSHAKE_BYTES_MAX
from peers.frames import FrameReader, Malformed
from peers.hello import decode_hello, encode_hello
from vpool.errors import Conflict, Denied, Unavailable, VPoolError

VPOOL = "a" * 32
NOW = dt.datetime.now(dt.UTC)
AUTHORITY = peers.new_authority(VPOOL, NOW)
FRAME_MAX = 1 << 20


def credentials(
    node: str, *, vpool: str = VPOOL, role: Role = Role.NODE, authority: peers.Authority = AUTHORITY, now: dt.datetime = NOW
) -> Credentials:
    key = peers.new_key()
    certificate = peers.certify(authority, key, node, vpool, role, peers.new_serial(), now, 1)
    return Credentials(authority.certificate, certificate + key)


def hello(node: str, purpose: Purpose = Purpose.REGISTRY, vpool: str = VPOOL) -> Hello:
    return Hello(peers.PROTOCOL, purpose, vpool, node, 2, "p" + node, NOW.timestamp())


def channel(side: str, mine: Credentials, said: Hello, **more: object) -> Channel:
    server_side = side == "server"
    return Channel(mine.context(server_side=server_side), said, server_side=server_side, frame_bytes_max=FRAME_MAX, **more)  # type: ignore[arg-type]


def talk(one: Channel, two: Channel) -> tuple[list[bytes], list[bytes], VPoolError | None, VPoolError | None]:
    """Until nothing moves: frames and errors of each."""
    frames: tuple[list[bytes], list[bytes]] = ([], [])
    errors: list[VPoolError | None] = [None, None]
    ends = [one, two]
    moved = True
    while moved:
        moved = False
        for at in (0, 1):
            data = ends[at].outgoing()
            if data and errors[1 - at] is None:
                moved = True
                try:
                    frames[1 - at].extend(ends[1 - at].receive(data))
                except VPoolError as error:
                    errors[1 - at] = error
    return frames[0], frames[1], errors[0], errors[1]


def pair(client: Credentials | None = None, said: Hello | None = None, **more: object) -> tuple[Channel, Channel]:
    return (
        channel("server", credentials("n1"), hello("n1"), **more),
        channel("client", client or credentials("n2"), said or hello("n2")),
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"protocol": 0}, "too old to talk to"),
        ({"commands": 0}, "does not know all commands"),
        ({"commands_least": 99}, "commands"),
    ],
)
def test_releases_that_do_not_fit_say_so(changed: dict[str, int], words: str) -> None:
    """The one side or the other refuses, whichever knows; and the reason reaches the other."""
    server, client = pair(said=replace(hello("n2"), **changed))  # type: ignore[arg-type]
    _, _, at_server, at_client = talk(server, client)
    refused = at_server or at_client
    assert refused is not None
    assert words in str(refused)


def test_a_newer_hello_has_fields_that_are_not_known_here() -> None:
    packed = msgpack.packb([*msgpack.unpackb(encode_hello(hello("n1"))), "something new"])
    assert decode_hello(packed) == hello("n1")
    older = msgpack.packb(msgpack.unpackb(packed)[:7])
    assert decode_hello(older) == replace(hello("n1"), commands=1, commands_least=1)


def test_two_nodes_of_one_vpool_talk() -> None:
    server, client = pair()
    talk(server, client)
    assert server.established
    assert client.established
    assert server.peer is not None
    assert (server.peer.node, server.peer.role) == ("n2", Role.NODE)
    big = random.Random(1).randbytes(FRAME_MAX)
    server.send(b"one")
    client.send(big)
    client.send(b"")
    got_server, got_client, *_ = talk(server, client)
    assert got_server == [big, b""]
    assert got_client == [b"one"]


def test_nothing_is_sent_before_the_peer_is_known() -> None:
    server, client = pair()
    for end in (server, client):
        with pytest.raises(Unavailable):
            end.send(b"early")


OTHER = peers.new_authority(VPOOL, NOW)
FOREIGN = peers.new_authority("b" * 32, NOW)


@pytest.mark.parametrize(
    ("client", "said"),
    [
        (credentials("n2", authority=OTHER), hello("n2")),  # somebody's own authority
        (credentials("n2", authority=FOREIGN, vpool="b" * 32), hello("n2", vpool="b" * 32)),  # another vPool
        (credentials("n2", now=NOW - dt.timedelta(days=30)), hello("n2")),  # over
        (credentials("n2", now=NOW + dt.timedelta(days=30)), hello("n2")),  # not begun
    ],
)
def test_a_stranger_gets_no_further_than_its_certificate(client: Credentials, said: Hello) -> None:
    trusting = replace(client, authority=AUTHORITY.certificate)  # believes us, at least
    server, stranger = pair(trusting, said)
    *_, error, _ = talk(server, stranger)
    assert isinstance(error, Denied)
    assert server.peer is None
    assert not server.established


def test_a_stranger_without_certificate_is_refused() -> None:
    server, _ = pair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    with pytest.raises(Denied):  # noqa: PT012
        for _ in range(4):
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            server.receive(outgoing.read())
            incoming.write(server.outgoing())
    assert server.peer is None


@pytest.mark.parametrize("seed", range(20))
def test_what_is_no_handshake_ends_the_connection(seed: int) -> None:
    server, _ = pair()
    noise = random.Random(seed).randbytes(2 * HANDSHAKE_BYTES_MAX)
    with pytest.raises(Denied):  # noqa: PT012
        for start in range(0, len(noise), 1000):
            server.receive(noise[start : start + 1000])
    assert server.peer is None


def test_old_tls_is_refused() -> None:
    mine = credentials("n2")
    context = mine.context(server_side=False)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server, _ = pair()
    client = Channel(context, hello("n2"), server_side=False, frame_bytes_max=FRAME_MAX)
    *_, error, _ = talk(server, client)
    assert isinstance(error, Denied)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (hello("n3"), Denied),  # another than its certificate says
        (replace(hello("n2"), format=3), Conflict),
        (replace(hello("n2"), vpool="c" * 32), Denied),
    ],
)
def test_a_hello_that_does_not_fit_is_refused_with_a_reason(said: Hello, kind: type[VPoolError]) -> None:
    server, client = pair(said=said)
    _, _, at_server, at_client = talk(server, client)
    assert isinstance(at_server, kind)
    assert at_client is not None
    assert not server.established


def test_a_token_is_good_for_joining_only() -> None:
    bearer = credentials("t1", role=Role.JOIN)
    server, client = pair(bearer, hello("t1", Purpose.ROUTER))
    *_, error, _ = talk(server, client)
    assert isinstance(error, Denied)
    server, client = pair(bearer, hello("t1", Purpose.JOIN))
    talk(server, client)
    assert server.established


def test_who_is_not_admitted_learns_why() -> None:
    def admit(*_: object) -> None:
        raise Denied("the node has been removed from the vpool")

    server, client = pair(admit=admit)
    *_, error = talk(server, client)
    assert error is not None
    assert "has been removed" in error.message


def established() -> tuple[Channel, Channel]:
    server, client = pair()
    talk(server, client)
    return server, client


def test_a_frame_beyond_the_limit_ends_the_connection_before_it_is_read() -> None:
    server, client = established()
    with pytest.raises(Malformed):
        client.send(bytes(FRAME_MAX + 1))
    client._write((FRAME_MAX + 1).to_bytes(4, "little"))  # a peer that keeps no limit
    with pytest.raises(Malformed):
        server.receive(client.outgoing())


def test_a_cut_frame_is_an_end_not_a_frame() -> None:
    server, client = established()
    client._write((100).to_bytes(4, "little") + b"x" * 50)
    assert server.receive(client.outgoing()) == []
    with pytest.raises(Unavailable, match="within a frame"):
        server.receive(b"")


def test_a_forged_record_ends_the_connection() -> None:
    server, client = established()
    client.send(b"hello")
    record = bytearray(client.outgoing())
    record[-1] ^= 1
    with pytest.raises(Denied):
        server.receive(bytes(record))


def test_frames_come_whole_however_the_stream_is_cut() -> None:
    chosen = random.Random(5)
    frames = [chosen.randbytes(chosen.randrange(300)) for _ in range(50)]
    stream = b"".join(peers.frame(data, 300) for data in frames)
    reader, found, at = FrameReader(300), list[bytes](), 0
    while at < len(stream):
        step = chosen.randrange(1, 40)
        found += reader.feed(stream[at : at + step])
        at += step
    assert found == frames
    assert not reader.cut_short


@pytest.mark.parametrize("seed", range(5))
def test_long_frames_come_whole_among_short_ones(seed: int) -> None:
    """Those that fit what is read into, those that do not, and those that just do."""
    chosen = random.Random(seed)
    at_limit = [(1 << 15) + off for off in range(-6, 3)]
    frames = [chosen.randbytes(chosen.choice([0, 1, 100, 20_000, 150_000, *at_limit])) for _ in range(60)]
    stream = memoryview(b"".join(peers.frame(data, 1 << 20) for data in frames))
    reader, found = FrameReader(1 << 20), list[bytes]()
    while stream:
        space = reader.space()
        assert space
        step = min(len(space), len(stream), chosen.choice([1, 7, 5_000, 16_384, 1 << 20]))
        space[:step] = stream[:step]
        found += reader.filled(step)
        stream = stream[step:]
    assert found == frames
    assert all(type(each) is bytes for each in found)
    assert not reader.cut_short


@pytest.fixture
def directories(tmp_path: Path) -> list[peers.CredentialFiles]:
    made = []
    for node in ("n1", "n2"):
        files = peers.CredentialFiles(tmp_path / node)
        mine = credentials(node)
        files.save(peers.AUTHORITY, mine.authority)
        files.save(peers.IDENTITY, mine.identity)
        made.append(files)
    return made


async def test_links_on_sockets(directories: list[peers.CredentialFiles], nursery: trio.Nursery) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", probe.getsockname()[1])

    async def echo(link: peers.Link) -> None:
        while True:
            await link.send(await link.receive())

    def everybody(*_: object) -> None:
        pass

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        await peers.serve(
            address,
            directories[0],
            lambda: hello("n1"),
            echo,
            frame_bytes_max=FRAME_MAX,
            admit=everybody,
            task_status=task_status,
        )

    await nursery.start(listen)
    with trio.fail_after(20):
        async with peers.dialled(address, directories[1], hello("n2"), node="n1", frame_bytes_max=FRAME_MAX) as link:
            chosen = random.Random(3)
            for _ in range(20):
                data = chosen.randbytes(chosen.randrange(FRAME_MAX))
                await link.send(data)
                assert await link.receive() == data
        with pytest.raises(Denied, match="another node answers"):
            await peers.dial(address, directories[1], hello("n2"), node="n3", frame_bytes_max=FRAME_MAX)
        with pytest.raises(Unavailable):
            await peers.dial(Address("127.0.0.1", 1), directories[1], hello("n2"), node="n3", frame_bytes_max=FRAME_MAX)
    nursery.cancel_scope.cancel()
