"""Several real registries: a process each, TLS between them, perhaps each in a network namespace of its own with a cable to pull.

A node here is what ``vpool cluster init`` and ``join`` make of a directory, without a daemon: the test holds its client.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from registry import Create, Initialise, InodeKind, RegisterNode, RegistryClient
from tests.cluster.running import Ran
from vpool.clustering import cluster_place
from vpool.place import Place
from vpool.settings import ClusterSettings

DEADLINE_S = 30.0
PORT = 9470


class Node:
    """One directory, and its client while it runs."""

    def __init__(self, directory: Path, address: str, prefix: tuple[str, ...] = ()) -> None:
        self.directory, self.address, self.prefix = directory, address, prefix
        self.nursery: trio.Nursery | None = None
        self.client: RegistryClient | None = None
        self._stop = self._stopped = trio.Event()

    def vpool(self, *arguments: str | Path, seconds: float = 60) -> Ran:
        """``vpool`` as on this node's host."""
        done = subprocess.run(
            [*self.prefix, sys.executable, "-m", "vpool", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    @property
    def id(self) -> str:
        identity = Place(self.directory).identity
        assert identity is not None
        return identity.node

    @property
    def up(self) -> RegistryClient:
        assert self.client is not None
        return self.client

    @property
    def process(self) -> subprocess.Popen[bytes]:
        process = self.up._process
        assert process is not None
        return process

    async def start(self, *, member: bool = True) -> RegistryClient:
        """The process, and a client that has registered."""
        assert self.nursery is not None
        await self.nursery.start(self._run, member)
        return self.up

    async def _run(self, member: bool, task_status: trio.TaskStatus[None]) -> None:
        """A task of its own: clients end in another order than they begin."""
        place = Place(self.directory)
        assert place.identity is not None
        cluster = cluster_place(place, place.identity, ClusterSettings())
        self._stop, self._stopped = trio.Event(), trio.Event()

        class Client(RegistryClient):
            prefix = self.prefix

        try:
            async with Client.start(place.registry, place.identity.node, cluster, member=member) as client:
                self.client = client
                if member:
                    await client.submit(Initialise(place.identity.vpool, "test", 1, (), 1))
                    await client.submit(RegisterNode(client.node, self.address, client.incarnation))
                task_status.started()
                await self._stop.wait()
        finally:
            self.client = None
            self._stopped.set()

    async def stop(self) -> None:
        if self.client is not None:
            self._stop.set()
            await self._stopped.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def status(self) -> dict[str, Any]:
        found = await self.up.ask("status")
        assert isinstance(found, dict)
        return found


class Registries:
    """Nodes by number, from 0."""

    def __init__(self, top: Path, places: Sequence[tuple[str, tuple[str, ...]]]) -> None:
        self.top = top
        (top / "shared").mkdir()
        self.nodes = [Node(top / f"n{number}", *place) for number, place in enumerate(places)]

    def __getitem__(self, number: int) -> Node:
        return self.nodes[number]

    async def begin(self, voters: int, *more: str) -> None:
        """The first of the nodes makes the cluster, others join; all run. ``more``: roles of those behind the voters."""
        first = self.nodes[0]
        made = await _run(
            first.vpool, "cluster", "init", "--dir", first.directory, "--backend", f"dir:{self.top / 'shared'}",
            "--listen", first.address,
        )  # fmt: skip
        assert made.code == 0, made.err
        await first.start()
        for number, role in enumerate([*[""] * (voters - 1), *more], 1):
            await self.join(number, role)
            await self.nodes[number].start()
        await self.settled(voters + more.count("witness"))

    async def join(self, number: int, role: str = "") -> None:
        node = self.nodes[number]
        token = await self.up().ask("token", 600)
        flag = [f"--{role}"] if role else []
        ran = await _run(
            node.vpool, "cluster", "join", "--dir", node.directory, "--token", token, "--listen", node.address, *flag
        )
        assert ran.code == 0, ran.err

    def up(self) -> RegistryClient:
        """A client of any node that runs; the first."""
        return next(node.client for node in self.nodes if node.client is not None)

    async def settled(self, voters: int, *, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Until so many vote, and nobody is on the way; the status then."""
        with trio.fail_after(deadline_s):
            while True:
                found = await self.up().ask("status")
                states = [member["state"] for member in found["members"]]
                if found["leader"] and states.count("votes") == voters and set(states) <= {"votes", "receives"}:
                    return dict(found)
                await trio.sleep(0.05)

    async def leader(self, among: list[Node] | None = None) -> Node:
        """Who leads, as the nodes (that run) agree."""
        with trio.fail_after(DEADLINE_S):
            while True:
                asked = [node for node in among or self.nodes if node.client is not None]
                found = {(await node.status())["leader"] for node in asked}
                if len(found) == 1 and (leader := found.pop()) and any(node.id == leader for node in asked):
                    return next(node for node in asked if node.id == leader)
                await trio.sleep(0.05)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Registries]:
        """Until the end of the block, which stops what runs."""
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                node.nursery = nursery
            try:
                yield self
            finally:
                for node in self.nodes:
                    if node.client is not None:
                        with contextlib.suppress(ProcessLookupError):
                            node.signal(signal.SIGCONT)
                nursery.cancel_scope.cancel()


async def _run(call: Any, *arguments: Any) -> Ran:
    ran = await trio.to_thread.run_sync(partial(call, *arguments))
    assert isinstance(ran, Ran)
    return ran


def free_port() -> int:
    """One of two neighbours that nobody listens at."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            with contextlib.suppress(OSError):
                two.bind(("127.0.0.1", port + 1))
                return int(port)


@asynccontextmanager
async def on_loopback(top: Path, count: int, prefix: tuple[str, ...] = ()) -> AsyncIterator[Registries]:
    """Nodes at 127.0.0.1 and up; ``prefix`` stands before the command lines of their processes."""
    async with Registries(top, [(f"127.0.0.{number + 1}:{free_port()}", prefix) for number in range(count)]).running() as found:
        yield found


class Wires:
    """A namespace and a cable per node, all in one switch; needs root."""

    def __init__(self, count: int) -> None:
        self.tag = f"{os.getpid() % 46656:x}"
        self.count = count

    def namespace(self, number: int) -> str:
        return f"vp{self.tag}n{number}"

    def ip(self, number: int) -> str:
        return f"10.213.{os.getpid() % 250}.{number + 1}"

    def make(self) -> None:
        run("ip", "link", "add", f"vp{self.tag}s", "type", "bridge")
        run("ip", "link", "set", f"vp{self.tag}s", "up")
        for number in range(self.count):
            inside, outside = f"vp{self.tag}i{number}", f"vp{self.tag}o{number}"
            run("ip", "netns", "add", self.namespace(number))
            run("ip", "link", "add", inside, "type", "veth", "peer", "name", outside)
            run("ip", "link", "set", outside, "master", f"vp{self.tag}s")
            run("ip", "link", "set", outside, "up")
            run("ip", "link", "set", inside, "netns", self.namespace(number))
            self.within(number, "ip", "addr", "add", f"{self.ip(number)}/24", "dev", inside)
            self.within(number, "ip", "link", "set", inside, "up")
            self.within(number, "ip", "link", "set", "lo", "up")

    def within(self, number: int, *command: str) -> None:
        run("ip", "netns", "exec", self.namespace(number), *command)

    def cut(self, number: int) -> None:
        """Nothing comes or goes."""
        run("ip", "link", "set", f"vp{self.tag}o{number}", "down")

    def mend(self, number: int) -> None:
        run("ip", "link", "set", f"vp{self.tag}o{number}", "up")

    def silence(self, number: int, *others: int) -> None:
        """One way: what the node sends to the others is lost, what they send arrives."""
        for other in others:
            self.within(number, "ip", "route", "add", "blackhole", f"{self.ip(other)}/32")

    def unsilence(self, number: int, *others: int) -> None:
        for other in others:
            self.within(number, "ip", "route", "del", "blackhole", f"{self.ip(other)}/32")

    def remove(self) -> None:
        for number in range(self.count):
            run("ip", "netns", "del", self.namespace(number), check=False)
            run("ip", "link", "del", f"vp{self.tag}o{number}", check=False)
        run("ip", "link", "del", f"vp{self.tag}s", check=False)


@contextmanager
def wires(count: int) -> Iterator[Wires]:
    found = Wires(count)
    try:
        found.make()
        yield found
    finally:
        found.remove()


@asynccontextmanager
async def in_namespaces(top: Path, laid: Wires) -> AsyncIterator[Registries]:
    """Nodes in namespaces of their own."""
    places = [(f"{laid.ip(number)}:{PORT}", ("ip", "netns", "exec", laid.namespace(number))) for number in range(laid.count)]
    async with Registries(top, places).running() as found:
        yield found


def run(*command: str, check: bool = True) -> None:
    subprocess.run(command, check=check, capture_output=True, timeout=20)


def directory(name: str) -> Create:
    return Create(1, name, InodeKind.DIRECTORY, 0o755, 0, 0, 1)
