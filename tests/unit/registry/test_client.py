"""The client, the process it starts, and the view beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from registry import (
    Create,
    Initialise,
    InodeKind,
    Link,
    RegisterNode,
    RegistryClient,
    SetAttributes,
    Unlink,
)
from registry.client import IN_FLIGHT
from vpool.errors import Conflict, Fenced, Invalid, NotFound


async def begin(client: RegistryClient) -> None:
    await client.submit(Initialise("f" * 32, "pool", 1, ("*.raw",), 1))
    await client.submit(RegisterNode(client.node, "here", client.incarnation))


def volume(name: str, number: int) -> Create:
    return Create(1, name, InodeKind.VOLUME, 0o600, 0, 0, 5, object=f"{number:032x}")


async def test_a_read_sees_what_was_submitted(tmp_path: Path) -> None:
    async with RegistryClient.start(tmp_path / "registry", "a") as client:
        await begin(client)
        view = client.view
        directory = await client.submit(Create(1, "d", InodeKind.DIRECTORY, 0o755, 0, 0, 5))
        inode = (await client.submit(volume("v", 1))).inode
        assert view.lookup(1, "v") == inode
        assert view.lookup(1, "w") is None
        assert view.lookup(1, "x" * 300) is None
        number = directory.inode.number
        await client.submit(Link(inode.number, number, "again", 6))
        assert [entry.name for entry in view.entries(1, 0, 10)] == ["d", "v"]
        await client.submit(Unlink(1, "v", 7))
        assert view.path_of(inode.number) == "/d/again"
        assert view.path_of(1) == "/"
        found = view.resolve("/d/../d/again")
        assert found is not None
        assert found.number == inode.number
        assert view.resolve("/d/again/x") is None
        await client.submit(Unlink(number, "again", 8))
        assert [record.id for record in view.orphans()] == [f"{1:032x}"]
        assert view.path_of(inode.number) is None
        assert [record.id for record in view.objects()] == [f"{1:032x}"]
        assert [record.id for record in view.nodes()] == ["a"]
        vpool = view.vpool()
        assert vpool is not None
        assert vpool.volume_rules == ("*.raw",)


async def test_refusals_are_raised_by_their_class(tmp_path: Path) -> None:
    async with RegistryClient.start(tmp_path / "registry", "a") as client:
        with pytest.raises(Fenced):
            await client.submit(volume("v", 1))
        await begin(client)
        with pytest.raises(NotFound):
            await client.submit(Unlink(1, "none", 1))
        with pytest.raises(Invalid) as caught:
            await client.submit(volume("a/b", 1))
        assert caught.value.details["reason"] == "bad_name"
        with pytest.raises(Invalid):
            await client.submit(SetAttributes(1, mtime_ns=1 << 70))


async def test_a_killed_process_comes_back_and_nothing_counts_twice(tmp_path: Path) -> None:
    async with RegistryClient.start(tmp_path / "registry", "a") as client:
        await begin(client)
        done = []

        async def create(number: int) -> None:
            await client.submit(volume(f"v{number}", number))
            done.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(2 * IN_FLIGHT):
                nursery.start_soon(create, number)
            for _ in range(3):
                wanted = len(done) + 100
                while len(done) < wanted:
                    await trio.sleep(0.001)
                assert client._process is not None
                client._process.kill()
        assert len(client.view.entries(1, 0, 10_000)) == 2 * IN_FLIGHT


async def test_each_life_has_a_new_incarnation_and_one_process(tmp_path: Path) -> None:
    path = tmp_path / "registry"
    for life in (1, 2):
        async with RegistryClient.start(path, "a") as client:
            assert client.incarnation == life
            await begin(client)
            command = [sys.executable, "-m", "registry", "--dir", str(path), "--node", "a"]
            second = await trio.run_process(command, check=False, capture_stderr=True)
            assert second.returncode == 76
            assert b"another process" in second.stderr
    assert not (path / "socket").exists()


async def test_a_second_client_is_told(tmp_path: Path) -> None:
    lock = tmp_path / "registry"
    program = (
        "import sys; from pathlib import Path; from registry.server import Server; s = Server(Path(sys.argv[1]), 'a'); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(lock)], stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}
    ) as other:
        with trio.fail_after(20):
            while not (lock / "socket").exists():
                await trio.sleep(0.01)
        with pytest.raises(Conflict):
            async with RegistryClient.start(lock, "a"):
                pass
        other.kill()


async def test_the_process_dies_with_its_daemon(tmp_path: Path) -> None:
    program = (
        "import sys, trio\nfrom registry import RegistryClient\n"
        "async def main():\n"
        " async with RegistryClient.start(sys.argv[1], 'a') as client:\n"
        "  print(client._process.pid, flush=True)\n  await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "registry")], stdout=subprocess.PIPE, env=environment
    ) as daemon:
        assert daemon.stdout is not None
        pid = int(daemon.stdout.readline())
        daemon.send_signal(signal.SIGKILL)
    with trio.fail_after(20):
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]:
            await trio.sleep(0.01)
