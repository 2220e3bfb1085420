"""Several registries as processes over TLS: what is answered stays, names are seen at once, members come, go and die."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
import trio

from registry import Create, InodeKind, Lease, RenewLease, Watcher, boottime, keep_lease, watch_leases
from tests.cluster.registries import DEADLINE_S, Node, Registries, directory, in_namespaces, on_loopback, wires
from vpool.errors import Conflict, Denied, Exists, Fenced, Unavailable

SEED = int(os.environ.get("VPOOL_SEED", "0")) or random.SystemRandom().randrange(1 << 32)


async def names_at(node: Node) -> set[str]:
    await node.up.barrier()
    return {entry.name for entry in node.up.view.entries(1, limit=100_000)}


async def test_what_one_is_answered_the_others_see_behind_a_barrier(tmp_path: Path) -> None:
    async with on_loopback(tmp_path, 4) as registries:
        await registries.begin(3, "replica")
        for number in range(40):
            writer, reader = registries[number % 4], registries[(number + 1 + number // 4) % 4]
            await writer.up.submit(directory(f"d{number}"))
            await reader.up.barrier()
            assert reader.up.view.lookup(1, f"d{number}") is not None, "a name that was answered is not seen"


async def test_an_exclusive_create_has_one_winner(tmp_path: Path) -> None:
    async with on_loopback(tmp_path, 3) as registries:
        await registries.begin(3)
        won: dict[str, list[int]] = {}

        async def race(number: int, name: str) -> None:
            try:
                await registries[number].up.submit(Create(1, name, InodeKind.DIRECTORY, 0o755, 0, 0, 1))
            except Exists:
                return
            won.setdefault(name, []).append(number)

        async with trio.open_nursery() as nursery:
            for name in (f"n{each}" for each in range(30)):
                for number in range(3):
                    nursery.start_soon(race, number, name)
        assert sorted(won) == sorted(f"n{each}" for each in range(30))
        assert all(len(winners) == 1 for winners in won.values())


class Writers:
    """A task per node that creates names for ever; remembers what was answered."""

    def __init__(self, registries: Registries) -> None:
        self.registries = registries
        self.answered: set[str] = set()

    async def write(self, number: int) -> None:
        count = 0
        while True:
            client = self.registries[number].client
            if client is None:
                await trio.sleep(0.05)
                continue
            count += 1
            name = f"w{number}-{count}"
            await client.submit(directory(name))
            self.answered.add(name)

    async def more(self, count: int) -> None:
        """Until so many more have been answered."""
        wanted = len(self.answered) + count
        with trio.fail_after(DEADLINE_S):
            while len(self.answered) < wanted:
                await trio.sleep(0.01)


async def test_killed_and_paused_registries_lose_nothing(tmp_path: Path) -> None:
    chosen = random.Random(SEED)
    print(f"VPOOL_SEED={SEED}")
    async with on_loopback(tmp_path, 3) as registries:
        await registries.begin(3)
        writers = Writers(registries)
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(writers.write, number)
            for _ in range(6):
                await writers.more(30)
                victim = registries[chosen.randrange(3)]
                if chosen.random() < 0.5:
                    victim.signal(signal.SIGKILL)  # its client starts it again
                else:
                    victim.signal(signal.SIGSTOP)
                    await trio.sleep(chosen.choice([0.2, 2.5]))  # shorter and longer than an election takes
                    victim.signal(signal.SIGCONT)
            await writers.more(30)
            nursery.cancel_scope.cancel()
        for node in registries.nodes:
            assert writers.answered <= await names_at(node), "an answered command is gone"


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
async def test_cut_links_lose_nothing_and_depose_nobody_for_nothing(tmp_path: Path) -> None:
    with wires(3) as laid:
        async with in_namespaces(tmp_path, laid) as registries:
            await registries.begin(3)
            writers = Writers(registries)
            async with trio.open_nursery() as nursery:
                for number in range(3):
                    nursery.start_soon(writers.write, number)
                await writers.more(30)
                leader = await registries.leader()
                number = registries.nodes.index(leader)
                # the leader is cut off: the others go on with another
                laid.cut(number)
                rest = [node for node in registries.nodes if node is not leader]
                with trio.fail_after(DEADLINE_S):
                    while (await registries.leader(rest)) is leader:
                        await trio.sleep(0.05)
                await writers.more(30)
                term = (await rest[0].status())["term"]
                laid.mend(number)
                await writers.more(60)
                with trio.fail_after(DEADLINE_S):
                    while (await leader.status())["leader"] in ("", leader.id):
                        await trio.sleep(0.05)
                assert (await rest[0].status())["term"] == term, "who came back has forced an election"
                # one way: a follower's words are lost, it still hears the leader
                leader = await registries.leader()
                follower = next(number for number, node in enumerate(registries.nodes) if node is not leader)
                others = [number for number in range(3) if number != follower]
                laid.silence(follower, *others)
                await writers.more(30)
                laid.unsilence(follower, *others)
                await writers.more(30)
                nursery.cancel_scope.cancel()
            for node in registries.nodes:
                assert writers.answered <= await names_at(node), "an answered command is gone"


async def test_a_dead_voter_is_replaced_without_its_help(tmp_path: Path) -> None:
    async with on_loopback(tmp_path, 4) as registries:
        await registries.begin(3)
        for number in range(20):
            await registries[0].up.submit(directory(f"d{number}"))
        dead = registries[2]
        name = dead.id
        await dead.stop()
        await registries[0].up.ask("remove", name)
        await registries.settled(2)
        await registries.join(3)
        await registries[3].start()
        found = await registries.settled(3)
        assert name in found["removed"]
        assert {f"d{number}" for number in range(20)} <= await names_at(registries[3])
        # whoever was removed is not let in again, and is told
        await dead.start(member=False)
        with trio.fail_after(DEADLINE_S):
            while not any("has been removed" in member["problem"] for member in (await dead.status())["members"]):
                await trio.sleep(0.05)
        await registries[0].up.submit(directory("after"))
        await registries[1].up.barrier()


async def test_the_last_voter_is_not_removed(tmp_path: Path) -> None:
    async with on_loopback(tmp_path, 3) as registries:
        await registries.begin(1, "replica", "witness")
        await registries.settled(2)
        with pytest.raises(Conflict, match="last voter"):
            await registries[0].up.ask("remove", registries[0].id)
        await registries[0].up.ask("remove", registries[2].id)
        await registries.settled(1)
        with pytest.raises(Conflict, match="last voter"):
            await registries[0].up.ask("role", registries[0].id, "replica")
        await registries[0].up.ask("role", registries[1].id, "voter")
        await registries.settled(2)
        await registries[1].up.ask("remove", registries[0].id)  # the leader goes, the other goes on
        await registries[0].stop()
        await registries[1].up.submit(directory("later"))
        assert "later" in await names_at(registries[1])


async def test_a_new_certificate_is_taken_and_the_old_one_refused(tmp_path: Path) -> None:
    async with on_loopback(tmp_path, 3) as registries:
        await registries.begin(2, "replica")
        node = registries[2]
        identity = node.directory / "cluster" / "node.pem"
        old = identity.read_bytes()
        serial = await node.up.ask("rotate")  # has no authority: a voter signs
        with trio.fail_after(DEADLINE_S):
            while registries[0].up.view.member(node.id).serial != serial:  # type: ignore[union-attr]
                await trio.sleep(0.05)
        await node.stop()
        await node.start()
        assert await names_at(node) == await names_at(registries[0])
        await node.stop()
        identity.write_bytes(old)
        await node.start(member=False)

        async def is_said() -> bool:
            """By whoever has dialled: the node, or those who do not want it any more."""
            found = [member for of in (node, registries[0]) for member in (await of.status())["members"]]
            return any("taken back" in member["problem"] for member in found)

        with trio.fail_after(DEADLINE_S):
            while not await is_said():
                await trio.sleep(0.05)


async def test_a_replica_that_becomes_a_voter_may_let_others_in(tmp_path: Path) -> None:
    async with on_loopback(tmp_path, 3) as registries:
        await registries.begin(1, "replica")
        with pytest.raises(Denied, match="authority"):
            await registries[1].up.ask("token", 600)
        await registries[0].up.ask("role", registries[1].id, "voter")
        await registries.settled(2)
        with trio.fail_after(DEADLINE_S):
            while not (registries[1].directory / "cluster" / "authority.key").exists():
                await trio.sleep(0.05)
        assert (await registries[1].up.ask("token", 600)).startswith("vpool1.")


class Leases:
    """A lease and a watcher for each node, as a daemon has them."""

    def __init__(self, registries: Registries) -> None:
        self.leases = [Lease() for _ in registries.nodes]
        self.watchers = [Watcher() for _ in registries.nodes]
        self.healthy = [True for _ in registries.nodes]
        self.fenced: set[int] = set()

    async def run(self, registries: Registries, number: int) -> None:
        client, lease, watcher = registries[number].up, self.leases[number], self.watchers[number]
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_lease, client, lease, watcher, lambda: self.healthy[number])
                nursery.start_soon(watch_leases, client, watcher)
        except* Fenced:
            self.fenced.add(number)

    async def until_served_by(self, wanted: set[int]) -> float:
        began = boottime()
        with trio.fail_after(DEADLINE_S):
            while {number for number, lease in enumerate(self.leases) if lease.serves(boottime())} != wanted:
                await trio.sleep(0.02)
        return boottime() - began


def expired(registries: Registries, number: int) -> bool:
    record = registries.up().view.node(registries[number].id)
    assert record is not None
    return record.expired


async def test_a_sick_node_expires_and_a_registry_that_was_away_expires_nobody(tmp_path: Path) -> None:
    async with on_loopback(tmp_path, 3) as registries:
        await registries.begin(3)
        leases = Leases(registries)
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(leases.run, registries, number)
            await leases.until_served_by({0, 1, 2})
            # the registry is away for longer than a lease and its margin: all leases end, nobody is declared dead
            for node in registries.nodes[1:]:
                node.signal(signal.SIGSTOP)
            await leases.until_served_by(set())
            await trio.sleep(2.0)
            for node in registries.nodes[1:]:
                node.signal(signal.SIGCONT)
            await leases.until_served_by({0, 1, 2})
            assert not any(expired(registries, number) for number in range(3))
            # a node whose data path is sick sends no renewals
            leases.healthy[2] = False
            with trio.fail_after(DEADLINE_S):
                while not expired(registries, 2):
                    assert not (leases.leases[2].serves(boottime()) and expired(registries, 2))
                    await trio.sleep(0.02)
            assert not leases.leases[2].serves(boottime()), "declared dead while it served"
            leases.healthy[2] = True
            with trio.fail_after(DEADLINE_S):
                while 2 not in leases.fenced:
                    await trio.sleep(0.02)
            assert leases.leases[0].serves(boottime())
            assert leases.leases[1].serves(boottime())
            nursery.cancel_scope.cancel()


async def test_what_a_silent_registry_was_not_told_is_counted(tmp_path: Path) -> None:
    """A stop's exit code is made of it. What tells of the node's life only does not count."""
    async with on_loopback(tmp_path, 2) as registries:
        await registries.begin(2)
        one, other = registries[0].up, registries[1]
        await one.submit(directory("told"))
        await other.stop()
        failed = []

        async def refused(command: Create | RenewLease) -> None:
            with pytest.raises(Unavailable):
                await one.submit(command)
            failed.append(command)

        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(refused, directory("under way"))
                nursery.start_soon(refused, RenewLease(1, None))
                one.lose_patience(0.3)
            await refused(directory("too late"))
        assert len(failed) == 3
        assert one.untold == {"Create"}
