"""No acknowledged command is lost by SIGKILL at a random moment; a damaged database is refused, never guessed at."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import lmdb
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from registry import Create, Initialise, InodeKind, RegisterNode, RegistryClient
from registry.lmdbdisk import MAGIC, VERSION_SWAPPED, LmdbDisk, seal
from vpool.errors import Halted

SEED = int(os.environ.get("VPOOL_SEED", "1"))


def directory(name: str) -> Create:
    return Create(1, name, InodeKind.DIRECTORY, 0o755, 0, 0, 1)


async def fill(path: Path, prefix: str, count: int) -> None:
    async with RegistryClient.start(path, "a") as client:
        await client.submit(Initialise("f" * 32, "pool", 1, (), 1))
        await client.submit(RegisterNode("a", "", client.incarnation))
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(client.submit, directory(f"{prefix}{number}"))


async def test_what_was_acknowledged_survives_kill(tmp_path: Path) -> None:
    """Kill, start a new life (no client that asks again), look: what had been answered must be there."""
    random = Random(SEED)
    path = tmp_path / "registry"
    acknowledged: set[str] = set()
    for life in range(8):
        async with RegistryClient.start(path, "a") as client:
            names = {entry.name for entry in client.view.entries(1, 0, 100_000)} if life else set()
            assert acknowledged <= names, f"VPOOL_SEED={SEED}: lost {sorted(acknowledged - names)[:5]}"
            await client.submit(Initialise("f" * 32, "pool", 1, (), 1))
            await client.submit(RegisterNode("a", "", client.incarnation))
            ended, enough, wanted = trio.Event(), trio.Event(), len(acknowledged) + random.randrange(1, 380)

            async def stay_dead(ended: trio.Event = ended) -> trio.SocketStream:
                ended.set()
                await trio.sleep_forever()
                raise AssertionError

            client._restart_process = stay_dead  # type: ignore[method-assign]

            async def create(
                name: str, client: RegistryClient = client, enough: trio.Event = enough, wanted: int = wanted
            ) -> None:
                await client.submit(directory(name))
                acknowledged.add(name)
                if len(acknowledged) >= wanted:
                    enough.set()

            async with trio.open_nursery() as nursery:
                for number in range(400):
                    nursery.start_soon(create, f"{life}-{number}")
                with trio.fail_after(60):
                    await enough.wait()
                assert client._process is not None
                client._process.kill()
                with trio.fail_after(20):
                    await ended.wait()  # all answers that were sent before the end have been read
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            client._closing = True


async def expect_halted(path: Path) -> None:
    with pytest.raises(Halted):
        async with RegistryClient.start(path, "a"):
            pass


async def test_a_short_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry"
    await fill(path, "d", 300)
    for size in (20_000, 4096, 100):
        os.truncate(path / "data.mdb", size)
        await expect_halted(path)


async def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry"
    await fill(path, "d", 1)
    env = lmdb.open(str(path), max_dbs=8, map_size=1 << 30)
    with env.begin(write=True) as txn:
        txn.put(b"format", seal(b"format", MAGIC + (VERSION_SWAPPED + 1).to_bytes(4, "little")), db=env.open_db(b"raft", txn=txn))
    env.close()
    await expect_halted(path)


async def test_garbled_records_are_refused(tmp_path: Path) -> None:
    """Flip bits all over the used part; either nothing that counts was hit, or it is refused. Nothing wrong is served."""
    path = tmp_path / "registry"
    await fill(path, "d", 100)
    healthy = (path / "data.mdb").read_bytes()
    used = len(healthy.rstrip(b"\0"))
    random = Random(SEED)
    refused = 0
    for _ in range(12):
        garbled = bytearray(healthy)
        for _ in range(40):
            garbled[random.randrange(8192, used)] ^= 1 << random.randrange(8)
        (path / "data.mdb").write_bytes(garbled)
        try:
            async with RegistryClient.start(path, "a") as client:
                names = {entry.name for entry in client.view.entries(1, 0, 1000)}
                assert names == {f"d{number}" for number in range(100)}
        except Halted:
            refused += 1
    assert refused >= 6


async def test_a_database_that_shows_its_damage_with_the_first_command_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its records are right, so it opens; the tree of free pages leads nowhere, so nothing can be written."""
    path = tmp_path / "registry"
    await fill(path, "d", 100)
    data = bytearray((path / "data.mdb").read_bytes())
    for meta in (0, 4096):
        root = meta + 16 + 24 + 40  # page header, magic to map size, then the database of free pages up to its root
        assert int.from_bytes(data[root : root + 8], "little") < len(data) // 4096
        data[root + 6] ^= 1
    (path / "data.mdb").write_bytes(data)
    with pytest.raises(Halted):
        async with RegistryClient.start(path, "a") as client:
            await client.submit(directory("more"))
    said = capfd.readouterr().err
    assert "database is damaged" in said
    assert "Traceback" not in said


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry"
    path.mkdir()
    env = lmdb.open(str(path), max_dbs=8)
    with env.begin(write=True) as txn:
        txn.put(b"some", b"thing")
    env.close()
    with pytest.raises(Halted):
        LmdbDisk(path)
