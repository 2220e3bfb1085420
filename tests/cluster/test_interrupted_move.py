"""A move that cannot go on, or is not wanted any more: clients do not notice, one node owns the volume, a later move works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry import ObjectRecord
from tests.cluster.hosts import Host, Hosts, hosts
from tests.cluster.records import record_of
from tests.cluster.switch import Rule, Switch
from tests.cluster.test_forwarding import BLOCK
from tests.cluster.test_handover import Writer
from tests.mounted_pool import wait_until

pytestmark = pytest.mark.mount

NAME = "disk.raw"
MIB = 1 << 20
DIRTY_MIB = 96
BLOCKS = range(32)
INTERRUPTED = 130
# Nothing is at the target before it is asked, and little of it is in the backend.
SETTINGS = {
    "VPOOL_DTL__MODE": "off",
    "VPOOL_VOLUMES__TLOG_AGE_S": "3600",
    "VPOOL_CACHE__SIZE_BYTES": "1GiB",
    "VPOOL_CLUSTER__MOVE_REQUESTS": "1000000000",
}


def make_dirty(host: Host) -> None:
    """A volume whose owner is ``host``; most of it is not in the backend."""
    with (host.mount / NAME).open("wb", buffering=0) as file:
        os.ftruncate(file.fileno(), 256 * MIB)
        for at in range(DIRTY_MIB):
            os.pwrite(file.fileno(), bytes([at % 251 + 1]) * MIB, (64 + at) * MIB)
        os.fsync(file.fileno())


def check_dirty(host: Host) -> None:
    with (host.mount / NAME).open("rb", buffering=0) as file:
        for at in range(DIRTY_MIB):
            assert os.pread(file.fileno(), MIB, (64 + at) * MIB) == bytes([at % 251 + 1]) * MIB, f"MiB {at}"


def record(host: Host) -> ObjectRecord:
    return record_of(host.directory, NAME)


def begin_move(made: Hosts, asked: Host, source: Host, target: Host) -> subprocess.Popen[str]:
    """The command; it returns when the source has begun to copy, over a link that is too slow for that to end soon."""
    assert isinstance(made.network, Switch)
    for one, other in ((source, target), (target, source)):
        made.network.rule(one.number, other.number, Rule(delay_s=0.15))
    said = source.log.read_bytes().count(b"hand_over_begins")
    command = [sys.executable, "-m", "vpool", "volume", "move", NAME, "--to", target.id, "--dir", str(asked.directory)]
    move = subprocess.Popen(
        [*made.network.within(asked.number), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def copies() -> bool:
        assert move.poll() is None, move.communicate()
        return source.log.read_bytes().count(b"hand_over_begins") > said

    wait_until(copies, "it copies", 60)
    return move


def move_on(made: Hosts, asked: Host, target: Host) -> None:
    """Over networks that are whole."""
    made.network.clear()
    ran = asked.vpool("volume", "move", NAME, "--to", target.id, "--dir", asked.directory, seconds=120)
    assert ran.code == 0, ran.err
    assert record(target).owner == target.id


def break_network(network: Switch, source: Host, target: Host, how: str) -> None:
    if how == "both":
        network.cut(source.number, target.number)
    elif how == "source-silent":
        network.silence(source.number, target.number)
    elif how == "target-silent":
        network.silence(target.number, source.number)
    else:
        network.cut(target.number)


def test_a_network_that_breaks_during_a_move(tmp_path: Path) -> None:
    with hosts(tmp_path, 3, environment=SETTINGS) as made:
        source, target, client = made
        network = made.network
        assert isinstance(network, Switch)
        make_dirty(source)
        writer = Writer(client.mount / NAME, BLOCKS).start()
        for how in ("both", "source-silent", "target-silent", "target-alone"):
            writer.goes_on()
            before = record(client)
            move = begin_move(made, client, source, target)
            break_network(network, source, target, how)
            writer.goes_on()  # the source serves while the network is broken
            network.clear()
            _, refused = move.communicate(timeout=120)
            print(f"{how}: {move.returncode} {refused}; slowest write and read {writer.slowest_s:.2f} s")
            after = record(client)
            if move.returncode == 0:
                assert (after.owner, after.epoch) == (target.id, before.epoch + 1)
            else:
                assert refused
                assert "Traceback" not in refused
                wait_until(made.all_are_members, "all are there again", 60)
                move_on(made, client, target)
            source, target = target, source
        writer.goes_on()
        writer.stop()
        for host in made:
            writer.check(host.mount / NAME)
        check_dirty(client)


def test_a_move_is_given_up_by_ctrl_c(tmp_path: Path) -> None:
    with hosts(tmp_path, 3, environment=SETTINGS) as made:
        source, target, client = made
        make_dirty(source)
        before = record(source)
        writer = Writer(client.mount / NAME, BLOCKS).start()
        writer.goes_on()
        move = begin_move(made, client, source, target)
        move.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, said = move.communicate(timeout=60)
        assert move.returncode == INTERRUPTED, said
        assert "Traceback" not in said
        wait_until(lambda: b'"why": "cancelled"' in target.log.read_bytes(), "the target has given it up", 60)
        print(f"given up {time.monotonic() - began:.1f} s after Ctrl-C; slowest write and read {writer.slowest_s:.2f} s")
        after = record(client)
        assert after.owner == before.owner == source.id
        writer.goes_on()
        move_on(made, client, target)
        writer.goes_on()
        writer.stop()
        for host in made:
            writer.check(host.mount / NAME)
        check_dirty(client)
        assert BLOCK * len(BLOCKS) < 64 * MIB, "the writer keeps off what check_dirty looks at"
