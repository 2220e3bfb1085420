"""What a cluster refuses: tokens that are no good, nodes that are not who they should be, frames that cannot be."""

from __future__ import annotations

import datetime as dt
import random
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trio

import peers
from peers import Hello, Purpose
from registry.control import decode_answer, encode_question
from registry.links import ANSWER, LINK_FRAME_BYTES_MAX, QUESTION
from tests.cluster.registries import DEADLINE_S, Registries, directory, on_loopback
from tests.cluster.running import Ran, picture
from vpool.clustering import initialise
from vpool.errors import Conflict, Denied, Exists, Invalid, Unavailable, VPoolError
from vpool.place import FORMAT_CLUSTER


async def refused(registries: Registries, token: str, code: int, text: str, *more: str) -> None:
    """Joining is refused with a message, and neither side has changed."""
    where = registries.top / "refused"
    before = {member["id"] for member in (await registries[0].status())["members"]}
    arguments = ["cluster", "join", "--dir", str(where), "--token", token, "--listen", "127.0.0.9:9470", *more]
    ran = await trio.to_thread.run_sync(lambda: registries[0].vpool(*arguments))
    assert isinstance(ran, Ran)
    assert (ran.code, text in ran.err) == (code, True), ran
    assert not where.exists()
    assert {member["id"] for member in (await registries[0].status())["members"]} == before


async def test_tokens_that_are_no_good(tmp_path: Path) -> None:
    async with on_loopback(tmp_path, 2) as registries:
        await registries.begin(1)
        up = registries[0].up
        good = await up.ask("token", 600)
        await refused(registries, "hello", 2, "this is no join token")
        await refused(registries, good[:-9], 2, "cut short")
        await refused(registries, good[:90] + ("A" if good[90] != "A" else "B") + good[91:], 2, "cut short")
        short = await up.ask("token", 1)
        await trio.sleep(1.1)
        await refused(registries, short, 6, "has expired")
        other = tmp_path / "other"
        other.mkdir()
        (other / "shared").mkdir()
        await trio.to_thread.run_sync(
            lambda: initialise(other / "n", backend=f"dir:{other / 'shared'}", listen=registries[0].address, advertise=None)
        )
        authority = peers.CredentialFiles(other / "n" / "cluster").authority()
        assert authority is not None
        now = peers.parse_token(good).expires
        foreign, _ = peers.make_token(authority, "f" * 32, (registries[0].address,), now.replace(microsecond=1), 600)
        await refused(registries, foreign, 6, "not accepted")
        # one of ours that the registry has never granted
        ours = peers.CredentialFiles(registries[0].directory / "cluster").authority()
        assert ours is not None
        made, _ = peers.make_token(ours, peers.parse_token(good).vpool, (registries[0].address,), dt.datetime.now(dt.UTC), 600)
        await refused(registries, made, 6, "no such token")
        await refused(registries, good, 2, "is not an address", "--advertise", "nowhere")
        await refused(registries, good, 2, "cannot be found by others", "--advertise", "0.0.0.0:9470")
        await registries.join(1)
        spent = await up.ask("token", 600)
        node = registries[1]
        unchanged = picture(node.directory)
        ran = await trio.to_thread.run_sync(
            lambda: node.vpool("cluster", "join", "--dir", node.directory, "--token", spent, "--listen", node.address)
        )
        assert ran.code == 5
        assert "already" in ran.err
        assert picture(node.directory) == unchanged


async def ask_to_join(text: str, node: str, address: str, *, unix_s: float | None = None, fmt: int = FORMAT_CLUSTER) -> object:
    """As ``vpool cluster join`` asks, but with what it would not say."""
    token = peers.parse_token(text)
    hello = Hello(peers.PROTOCOL, Purpose.JOIN, token.vpool, token.node, fmt, "test", time.time())
    csr = peers.request(peers.new_key(), node)
    question = encode_question("join", 1, csr, address, "", "host", time.time() if unix_s is None else unix_s)
    with trio.fail_after(DEADLINE_S):
        link = await peers.dial(
            peers.parse_address(token.addresses[0]), token.credentials, hello, node=None, frame_bytes_max=LINK_FRAME_BYTES_MAX
        )
        async with link:
            await link.send(QUESTION + question)
            while (data := await link.receive())[:1] != ANSWER:
                pass
    return decode_answer(data[1:])[2]


async def test_nodes_that_do_not_fit(tmp_path: Path) -> None:
    async with on_loopback(tmp_path, 2) as registries:
        await registries.begin(2)
        token = await registries[0].up.ask("token", 600)
        found = await ask_to_join(token, "a" * 32, "127.0.0.9:9470", unix_s=time.time() + 3600)
        assert isinstance(found, Invalid)
        assert "clocks" in found.message
        found = await ask_to_join(token, registries[1].id, "127.0.0.9:9470")
        assert isinstance(found, Exists), "a second node with the same id"
        found = await ask_to_join(token, "a" * 32, registries[1].address)
        assert isinstance(found, Conflict), "another member is there"
        with pytest.raises(VPoolError, match="format"):
            await ask_to_join(token, "a" * 32, "127.0.0.9:9470", fmt=FORMAT_CLUSTER + 1)
        assert isinstance(await ask_to_join(token, "a" * 32, "127.0.0.9:9470"), list), "the token is still good"
        found = await ask_to_join(token, "b" * 32, "127.0.0.8:9470")
        assert isinstance(found, VPoolError)
        assert "has been used" in found.message


async def test_a_copied_node_is_not_let_in_beside_the_one_there_is(tmp_path: Path) -> None:
    async with on_loopback(tmp_path, 3) as registries:
        await registries.begin(2)
        copy, original = registries[2], min(registries.nodes[:2], key=lambda node: node.id)  # who dials
        shutil.copytree(original.directory, copy.directory, ignore=shutil.ignore_patterns("socket"))
        seen = copy.directory / "cluster" / "node.json"
        seen.write_text(seen.read_text().replace(original.address, copy.address))
        await copy.start(member=False)
        with trio.fail_after(DEADLINE_S):
            while not any("two with one id" in member["problem"] for member in (await copy.status())["members"]):
                await trio.sleep(0.05)
        for number in range(10):
            await original.up.submit(directory(f"d{number}"))


async def until_it_ends(link: peers.Link) -> None:
    while True:
        await link.receive()


async def test_noise_and_frames_that_cannot_be_do_not_stop_a_registry(tmp_path: Path) -> None:
    chosen = random.Random(7)
    async with on_loopback(tmp_path, 2) as registries:
        await registries.begin(2)
        pid = registries[0].process.pid
        address = peers.parse_address(registries[0].address)
        for _ in range(20):
            stream = await trio.open_tcp_stream(address.host, address.port)
            with suppress(trio.BrokenResourceError):
                await stream.send_all(chosen.randbytes(chosen.randrange(1, 100_000)))
                with trio.move_on_after(0.05):
                    await stream.receive_some(1000)
            await stream.aclose()
        token = peers.parse_token(await registries[0].up.ask("token", 600))
        hello = Hello(peers.PROTOCOL, Purpose.JOIN, token.vpool, token.node, FORMAT_CLUSTER, "test", time.time())
        for data in (
            b"",
            b"?",
            b"R" + b"\x80",  # Raft's, of somebody who is no node
            QUESTION,
            QUESTION + b"\xc1",
            QUESTION + encode_question("sign", 1, b"x"),
            QUESTION + encode_question("authority", 1),
            QUESTION + encode_question("join", 1, b"not a request", "a:1", "", "", time.time()),
            QUESTION + encode_question("join", 1, 5),
            ANSWER + b"\x94\xa6status\x01\xc3\xc0",
        ):
            link = await peers.dial(address, token.credentials, hello, node=None, frame_bytes_max=LINK_FRAME_BYTES_MAX)
            async with link:
                await link.send(data)
                with trio.move_on_after(0.05), suppress(VPoolError):
                    await link.receive()
        link = await peers.dial(address, token.credentials, hello, node=None, frame_bytes_max=LINK_FRAME_BYTES_MAX)
        async with link:
            link._channel._write((LINK_FRAME_BYTES_MAX + 1).to_bytes(4, "little"))
            await link.send(b"P")
            with trio.fail_after(DEADLINE_S), pytest.raises(VPoolError):
                await until_it_ends(link)
        assert registries[0].process.pid == pid
        assert registries[0].process.poll() is None
        await registries[1].up.submit(directory("d"))


def test_a_backend_that_cannot_be(tmp_path: Path) -> None:
    """The address of the backend stays with the cluster: a wrong one is refused before anything is there."""
    for backend, words in (("ftp://x", "unknown kind of store"), ("dir:/proc/none/of/it", "proc")):
        with pytest.raises((Invalid, Unavailable, Denied), match=words):
            initialise(tmp_path / "n", backend=backend, listen="127.0.0.1:9470", advertise=None)
        assert not (tmp_path / "n" / "vpool.json").exists()
