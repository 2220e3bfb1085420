"""One contract for both disks, so that what the simulator proves on one holds on the other; and one node across restarts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from registry.codec import Malformed
from registry.disk import Disk, Entry, RamDisk
from registry.lmdbdisk import MAGIC, VERSION, VERSION_SWAPPED, LmdbDisk
from registry.raft import RaftNode, Timings
from registry.transport import NoPeers, check_message
from registry.view import RegistryView
from vpool.errors import Halted

Reopen = Callable[[Any], Disk]


@pytest.fixture(params=["ram", "lmdb"])
def disks(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Disk, Reopen]:
    """A disk, and what a power cut makes of it."""
    if request.param == "ram":

        def cut(disk: RamDisk) -> Disk:
            disk.power_cut()
            return disk

        return RamDisk(), cut
    (tmp_path / "registry").mkdir()

    def reopen(disk: LmdbDisk) -> Disk:
        disk.close(abort=True)
        return LmdbDisk(tmp_path / "registry")

    return LmdbDisk(tmp_path / "registry"), reopen


def test_a_commit_is_all_or_nothing(disks: tuple[Disk, Reopen]) -> None:
    disk, power_cut = disks
    disk.put_entry(Entry(1, 1, b"one"))
    disk.put_entry(Entry(2, 1, b"two"))
    disk.set_hard_state(3, "A")
    disk.state.put(b"k", b"v")
    disk.set_applied(1, 1)
    disk.commit()
    disk.delete_entries(2, 2)
    disk.put_entry(Entry(3, 4, b"three"))
    disk.set_hard_state(4, "")
    disk.state.delete(b"k")
    disk.set_applied(2, 1)
    assert disk.state.get(b"k") is None
    disk = power_cut(disk)
    assert disk.entries() == [Entry(1, 1, b"one"), Entry(2, 1, b"two")]
    assert disk.hard_state() == (3, "A")
    assert disk.applied() == (1, 1)
    assert disk.state.get(b"k") == b"v"
    disk.close()


def test_a_snapshot_stays_and_comes_in_chunks(disks: tuple[Disk, Reopen]) -> None:
    disk, _ = disks
    pairs = [(b"key%02d" % number, b"x" * number) for number in range(50)]
    for key, value in pairs:
        disk.state.put(key, value)
    disk.set_applied(9, 2)
    disk.commit()
    snapshot = disk.snapshot()
    disk.state.put(b"key00", b"changed")
    disk.commit()
    assert (snapshot.index, snapshot.term) == (9, 2)
    gathered: list[tuple[bytes, bytes]] = []
    done = False
    while not done:
        chunk, done = snapshot.chunk(gathered[-1][0] if gathered else b"", 100)
        assert chunk
        gathered += chunk
    snapshot.close()
    assert gathered == pairs
    disk.incoming.put(b"old", b"rest")
    disk.clear_incoming()
    for key, value in pairs[:3]:
        disk.incoming.put(key, value)
    disk.adopt_incoming()
    disk.commit()
    assert list(disk.state.scan(b"a", b"z")) == pairs[:3]
    assert list(disk.incoming.scan(b"a", b"z")) == []
    disk.close()


def test_states_that_come_in_take_the_place_of_the_state_again_and_again(tmp_path: Path) -> None:
    """In the database each takes the other's place; whoever opens it looks into the right one, and an old program into none."""
    (tmp_path / "registry").mkdir()
    disk = LmdbDisk(tmp_path / "registry")
    for number in range(1, 4):
        disk.state.put(b"own", b"%d" % number)
        disk.set_applied(10 * number, 1)
        disk.commit()
        disk.clear_incoming()
        disk.incoming.put(b"come", b"%d" % number)
        disk.adopt_incoming()
        disk.close(abort=True)  # a power cut before the commit: nothing has happened
        disk = LmdbDisk(tmp_path / "registry")
        assert dict(disk.state.scan(b"a", b"z"))[b"own"] == b"%d" % number
        disk.clear_incoming()
        disk.incoming.put(b"come", b"%d" % number)
        disk.adopt_incoming()
        disk.set_applied(10 * number + 1, 1)
        disk.commit()
        snapshot = disk.snapshot()
        assert snapshot.chunk(b"", 1 << 20)[0] == [(b"come", b"%d" % number)]
        snapshot.close()
        disk.close()
        with RegistryView(tmp_path / "registry") as view:
            export = view.export()
            assert list(export.items()) == [(b"come", b"%d" % number)]
            assert not export.knows_changes_since(10 * number)
            export.close()
        disk = LmdbDisk(tmp_path / "registry")
        assert list(disk.state.scan(b"a", b"z")) == [(b"come", b"%d" % number)]
        assert list(disk.incoming.scan(b"a", b"z")) == []
        version = disk._view(b"raft").get(b"format")
        assert version == MAGIC + (VERSION_SWAPPED if number % 2 else VERSION).to_bytes(4, "little")
    disk.close()


def node(disk: Disk, applied: list[bytes], apply: Any = lambda view, data: data) -> RaftNode:
    return RaftNode(
        "A",
        [],
        disk,
        NoPeers(),
        apply,
        clock=lambda: 0.0,
        random=Random(1),
        timings=Timings(keep_entries=4),
        on_applied=applied.append,
        validate=lambda data: None,
    )


def test_one_node_answers_in_one_tick_and_goes_on_after_a_restart(disks: tuple[Disk, Reopen]) -> None:
    disk, power_cut = disks
    applied: list[bytes] = []
    for life in range(3):
        raft = node(disk, applied)
        raft.doTick()
        assert raft.is_leader
        assert raft._getTerm() == life + 1
        for number in range(50):
            raft.propose(b"%d-%d" % (life, number))
            raft.doTick()
        assert raft._getRaftLogSize() < 30
        disk = power_cut(disk)
    assert applied == [b"%d-%d" % (life, number) for life in range(3) for number in range(50)]
    disk.close()


def test_an_exception_in_apply_stops_the_node_and_changes_nothing(disks: tuple[Disk, Reopen]) -> None:
    disk, power_cut = disks

    def broken(view: Any, data: bytes) -> bytes:
        view.put(b"half", b"done")
        raise RuntimeError("defect")

    raft = node(disk, [], broken)
    raft.doTick()
    before = disk.applied()
    raft.propose(b"x")
    with pytest.raises(RuntimeError):
        raft.doTick()
    with pytest.raises(Halted):
        raft.doTick()
    with pytest.raises(Halted):
        raft.propose(b"y")
    disk = power_cut(disk)
    assert disk.applied() == before
    assert disk.state.get(b"half") is None
    disk.close()


@pytest.mark.parametrize(
    "message",
    [
        None,
        {},
        {"type": "no"},
        {"type": "response_vote", "term": 1},
        {"type": "response_vote", "term": -1, "granted": True},
        {"type": "response_vote", "term": True, "granted": True},
        {"type": "apply_command", "command": "text"},
    ],
)
def test_messages_of_another_make_are_refused(message: Any) -> None:
    with pytest.raises(Malformed):
        check_message(message)
