"""Asynchronous mirrors between real daemons: behind by a bound that is kept and shown, never taken for the whole."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from registry import DtlState
from tests.cluster.running import vpool
from tests.cluster.test_failover import Writer, dtl_of, node_id, owner_of, wait_expired, wait_in_sync
from tests.cluster.test_forwarding import BLOCK, SIZE, read, stamp
from tests.cluster.test_three_nodes import Daemon, three
from tests.mounted_pool import wait_until

pytestmark = pytest.mark.mount

BOUND = 64 << 10


def made(owner: Daemon) -> Path:
    volume = owner.mount / "disk.raw"
    with volume.open("wb", buffering=0) as file:
        os.ftruncate(file.fileno(), SIZE)
        os.pwrite(file.fileno(), stamp(0, 0), 0)
        os.fsync(file.fileno())
    return volume


def wait_following(owner: Daemon) -> str:
    wait_until(lambda: dtl_of(owner, "disk.raw").state is DtlState.FOLLOWING, "the mirror follows", 30)
    return dtl_of(owner, "disk.raw").peer


def shown(owner: Daemon) -> Any:
    return json.loads(vpool("volume", "show", "disk.raw", "--json", "--dir", owner.directory).out)


def test_what_an_asynchronous_peer_has_is_taken_only_with_consent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes it by itself; by command it is what the peer had, which is more than the backend."""
    monkeypatch.setenv("VPOOL_DTL__MODE", "async")
    monkeypatch.setenv("VPOOL_VOLUMES__TLOG_AGE_S", "600")  # the backend gets nothing in time
    with three(tmp_path) as (owner, *others):
        volume = made(owner)
        peer = wait_following(owner)
        keeper = next(node for node in others if node_id(node) == peer)
        other = next(node for node in others if node is not keeper)
        with volume.open("r+b", buffering=0) as file:
            for block in range(64):
                os.pwrite(file.fileno(), stamp(block, 1), block * BLOCK)
            os.fsync(file.fileno())
        assert "asynchronous, following" in vpool("volume", "show", "disk.raw", "--dir", owner.directory).out
        wait_until(lambda: shown(owner)["dtl_lag"] == 0, "the peer has everything", 20)
        dead = node_id(owner)
        owner.kill()
        wait_expired(keeper, owner)
        expired = time.monotonic()
        wait_until(lambda: time.monotonic() > expired + 3, "whoever would take it by itself would have begun", 5)
        assert owner_of(keeper, "disk.raw") == dead
        unsaid = vpool("volume", "steal", "disk.raw", "--dir", keeper.directory)
        assert (unsaid.code, "might be lost" in unsaid.err) == (5, True), unsaid.err
        elsewhere = vpool("volume", "steal", "disk.raw", "--accept-loss", "--dir", other.directory)
        assert (elsewhere.code, peer in elsewhere.err) == (5, True), elsewhere.err
        taken = vpool("volume", "steal", "disk.raw", "--accept-loss", "--json", "--dir", keeper.directory)
        assert taken.code == 0, taken.err
        (report,) = json.loads(taken.out)["taken"]
        assert (report["lost"], report["problem"]) == (True, "")
        for node in others:
            for block in range(64):
                assert read(node.mount / "disk.raw", block) == stamp(block, 1), (node.mount, block)
        assert wait_following(keeper) == node_id(other)
        owner.start()
        assert read(owner.mount / "disk.raw", 63) == stamp(63, 1)


def test_writers_wait_where_the_peer_would_be_too_far_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lag stays at its bound, is shown and said, and nothing fails; that a peer stays away is said before they go on."""
    monkeypatch.setenv("VPOOL_DTL__MODE", "async")
    monkeypatch.setenv("VPOOL_DTL__LAG_BYTES", str(BOUND))
    monkeypatch.setenv("VPOOL_DTL__LAG_S", "60")
    monkeypatch.setenv("VPOOL_DTL__PATIENCE_S", "10")
    with three(tmp_path) as (owner, *others):
        volume = made(owner)
        peer = wait_following(owner)
        keeper = next(node for node in others if node_id(node) == peer)
        writer = Writer(volume)
        wait_until(lambda: len(writer.times) > 20, "it writes", 30)
        assert keeper.process is not None
        keeper.process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: b"dtl_lag_at_bound" in owner.log.read_bytes(), "writers wait, and that is said", 20)
            count, lag = len(writer.times), shown(owner)["dtl_lag_bytes"]
            assert BOUND - 8 * BLOCK <= lag <= BOUND + 8 * BLOCK
            assert len(writer.times) <= count + 1
        finally:
            keeper.process.send_signal(signal.SIGCONT)
        wait_until(lambda: len(writer.times) > count + 50, "it goes on", 60)
        keeper.kill()  # for good: another one follows, or nobody, and the registry says so
        killed = time.monotonic()
        wait_until(lambda: dtl_of(owner, "disk.raw").state is not DtlState.FOLLOWING, "that is said", 40)
        wait_until(lambda: writer.times[-1] > killed + 12, "it goes on without", 60)
        writer.stop()
        assert writer.failed == []
        writer.check(volume)


def test_the_mode_changes_under_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way into each other, and another peer, while it is in use: nothing fails, and the registry has it at once."""
    monkeypatch.setenv("VPOOL_DTL__MODE", "off")
    with three(tmp_path) as (owner, *others):
        volume, where = made(owner), ("--dir", owner.directory)
        writer = Writer(volume)
        both = vpool("volume", "dtl", "disk.raw", "--sync", "--async", *where)
        assert (both.code, "exclude each other" in both.err) == (2, True), both.err
        for way in ("--async", "--sync", "--async", "--off", "--sync", "--async"):
            changed = vpool("volume", "dtl", "disk.raw", way, *where)
            assert changed.code == 0, changed.err
            assert dtl_of(owner, "disk.raw").mode == way.removeprefix("--")
            if way == "--async":
                wait_following(owner)
            elif way == "--sync":
                wait_in_sync(owner, "disk.raw")
            before = len(writer.times)
            wait_until(lambda before=before: len(writer.times) > before + 20, "it writes", 30)  # type: ignore[misc]
        peer = dtl_of(owner, "disk.raw").peer
        other = next(node_id(node) for node in others if node_id(node) != peer)
        assert vpool("volume", "dtl", "disk.raw", "--peer", other, *where).code == 0
        assert wait_following(owner) == other
        writer.stop()
        assert writer.failed == []
        writer.check(volume)
