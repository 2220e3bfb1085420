"""Hosts of one vPool: a real daemon each, on a network of its own, with a mount that the test sees; and ways to harm them.

A host here is a directory, a mount, a network namespace (``tests/cluster/switch.py``) and a process group. Whatever a test
does, leaving ``hosts`` continues what was stopped, kills what runs by its process group, unmounts, and takes the networks away.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from registry import NodeRecord, RegistryView
from tests.cluster.running import Ran
from tests.cluster.switch import Loopback, Switch
from tests.mounted_pool import TEST_VARIABLES, MountedPool, mounts_at, unmount, wait_until
from tests.small_disk import SmallDisk
from tests.swift_server import memory_directory, running_swift
from vpool.clustering import ask
from vpool.errors import VPoolError
from vpool.place import Place

UP_S = 90.0
AHEAD_S = 1_000_003
DISK_BYTES = 640 << 20  # in memory; taken as it is used
SMALL = {
    "VPOOL_CACHE__SIZE_BYTES": "512MiB",
    "VPOOL_VOLUMES__SOFT_BYTES": "128MiB",
    "VPOOL_VOLUMES__HARD_BYTES": "256MiB",
    "VPOOL_VOLUMES__TLOG_AGE_S": "1",
    "VPOOL_FUSE__ENTRY_TIMEOUT_S": "0",
    "VPOOL_FUSE__ATTRIBUTES_TIMEOUT_S": "0",
}
FENCED = 12  # exit code of a daemon that has learnt that it was declared dead


class Host:
    """One of them; ``number`` is its port of the switch, from 1."""

    def __init__(self, top: Path, number: int, network: Switch | Loopback, environment: Mapping[str, str]) -> None:
        self.number, self._network = number, network
        self.directory, self.mount, self.log = top / f"n{number}", top / f"m{number}", top / f"n{number}.log"
        self.address = network.address(number)
        self.mount.mkdir()
        self.process: subprocess.Popen[bytes] | None = None
        self.disk: SmallDisk | None = None  # of its cache, if that has one of its own
        self.ahead_s = AHEAD_S * number  # of its clocks of this boot
        self._said = 0  # bytes of the log that earlier lives have written
        kept = {key: value for key, value in os.environ.items() if key not in TEST_VARIABLES}
        self._environment = {**kept, **SMALL, "VPOOL_RUNTIME_DIR": str(top / "run"), **environment}

    def __str__(self) -> str:
        return f"host {self.number}"

    @property
    def id(self) -> str:
        """Its node's."""
        identity = Place(self.directory).identity
        assert identity is not None
        return identity.node

    def vpool(self, *arguments: str | Path, seconds: float = 60) -> Ran:
        """``vpool`` as on this host."""
        done = subprocess.run(
            [*self._network.within(self.number), sys.executable, "-m", "vpool", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=self._environment,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    # -- lives -------------------------------------------------------------------------------------------------------------

    def spawn(self) -> None:
        """Start the daemon, and do not wait for it."""
        assert self.ended(), "already running"
        if self.disk is not None and not mounts_at(self.disk.path):
            self.disk.__enter__()  # before the first start
        self._said = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self._network.within(self.number),
                    *(sys.executable, "-m", "tests.cluster.elsewhen", str(self.ahead_s)),
                    *(sys.executable, "-m", "vpool", "up", str(self.directory), str(self.mount)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    def is_up(self) -> bool:
        """Whether this life has said that it is ready. Raises AssertionError with the log if it has ended."""
        with self.log.open("rb") as log:
            log.seek(self._said)
            said = log.read()
        assert not self.ended(), f"{self} ended with {self.code}:\n{said.decode(errors='replace')[-6000:]}"
        return b"vpool ready" in said

    def start(self, deadline_s: float = UP_S) -> None:
        """Start the daemon, and wait until it is ready."""
        self.spawn()
        wait_until(self.is_up, f"{self} is ready", deadline_s)

    def ended(self) -> bool:
        """Whether no daemon runs."""
        return self.process is None or self.process.poll() is not None

    @property
    def code(self) -> int | None:
        """Exit code of the last daemon."""
        return None if self.process is None else self.process.returncode

    def stop(self, deadline_s: float = 60) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(deadline_s)

    def kill(self, *, daemon_only: bool = False) -> None:
        """``kill -9`` of everything that the host runs for the vPool; its mount goes too, and whoever waits on it is told."""
        assert self.process is not None
        if not daemon_only:
            self._signal(signal.SIGKILL)
        self.process.kill()
        self.process.wait(30)
        MountedPool._reap_group(self.process.pid)
        unmount(self.mount)

    def pause(self) -> None:
        """SIGSTOP of everything."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def close(self) -> None:
        """Nothing of it is left but its files."""
        self._signal(signal.SIGCONT)
        if not self.ended():
            self.kill()
        if mounts_at(self.mount):
            unmount(self.mount)
        if self.disk is not None and mounts_at(self.disk.path):
            unmount(self.disk.path)

    # -- what it knows -----------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Of its registry."""
        found = ask(self.directory, "status")
        assert isinstance(found, dict)
        return found

    def view(self) -> contextlib.AbstractContextManager[RegistryView]:
        """Its copy of the registry."""
        return RegistryView(self.directory / "registry")

    def node(self, other: Host) -> NodeRecord | None:
        """What its registry knows of another host's node."""
        with self.view() as view:
            return view.node(other.id)

    def tail_of_log(self, lines: int = 30) -> str:
        """For messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


class Hosts(list[Host]):
    """All of them, in the order of their numbers; up to three vote, further ones receive."""

    def __init__(self, top: Path, count: int, network: Switch | Loopback, environment: Mapping[str, str]) -> None:
        super().__init__(Host(top, number, network, environment) for number in range(1, count + 1))
        self.network = network

    @property
    def switch(self) -> Switch:
        """What can harm the network between them."""
        assert isinstance(self.network, Switch)
        return self.network

    def begin(self, backend: str) -> None:
        """The first makes the cluster, the others join; returns when all are members that have caught up."""
        first = self[0]
        made = first.vpool("cluster", "init", "--dir", first.directory, "--backend", backend, "--listen", first.address)
        assert made.code == 0, made.err
        first.start()
        for host in self[1:]:
            token = first.vpool("cluster", "token", "--dir", first.directory).out.strip()
            joined = host.vpool("cluster", "join", "--dir", host.directory, "--token", token, "--listen", host.address)
            assert joined.code == 0, joined.err
            host.spawn()
        for host in self[1:]:
            wait_until(host.is_up, f"{host} is ready", UP_S)
        wait_until(self.all_are_members, "all are members", UP_S)

    def all_are_members(self) -> bool:
        """As the first that answers sees it."""
        with contextlib.suppress(VPoolError, OSError):
            states = [member["state"] for member in self[0].status()["members"]]
            return (
                len(states) == len(self) and states.count("votes") >= min(3, len(self)) and set(states) <= {"votes", "receives"}
            )
        return False

    def leader(self) -> Host:
        """Who leads the registry, as any host knows."""
        found: list[Host] = []

        def agreed() -> bool:
            for host in self:
                with contextlib.suppress(VPoolError, OSError):
                    leader = host.status()["leader"]
                    found[:] = [each for each in self if each.id == leader]
                    return bool(found)
            return False

        wait_until(agreed, "somebody leads", 30)
        return found[0]

    def heal(self) -> None:
        """Networks are whole, what was stopped goes on, who has ended starts again; returns when all answer."""
        self.network.clear()
        for host in self:
            host.resume()
            if host.disk is not None:
                host.disk.make_room()
        wait_until(self.tended, "all hosts are up again", UP_S)

    def tended(self) -> bool:
        """Start again whoever was killed, or has ended because it was declared dead; whether all are up."""
        for host in self:
            if host.ended():
                assert host.code in (FENCED, -signal.SIGKILL), f"{host} ended with {host.code}:\n{host.tail_of_log()}"
                unmount(host.mount)
                host.spawn()
        return all(not host.ended() and host.is_up() for host in self)

    def taken_over(self) -> dict[str, list[float]]:
        """By log of a volume or of files: when it was taken over from a dead host, on the clock of ``time.monotonic_ns``."""
        found: dict[str, list[float]] = {}
        to_monotonic = time.monotonic_ns() - time.time_ns()
        for host in self:
            for line in host.log.read_text(errors="replace").splitlines():
                if '"stolen"' in line:
                    entry = json.loads(line)
                    at = dt.datetime.fromisoformat(entry["timestamp"]).timestamp() * 1e9
                    found.setdefault(entry["object"], []).append(at + to_monotonic)
        return {log: sorted(times) for log, times in found.items()}

    def log_of(self, name: str) -> str:
        """The object whose log has a disk's data: the volume, or the log of files that it is in."""
        with next(host for host in self if not host.ended()).view() as view:
            inode = view.lookup(1, name)
            assert inode is not None
            record = view.object(inode.object)
            assert record is not None
            return record.log or record.id

    def logs(self) -> str:
        """The ends of all, and what waits, for messages."""
        found = []
        for host in self:
            with contextlib.suppress(subprocess.TimeoutExpired):
                waits = host.vpool("slow", "list", "--dir", host.directory, seconds=20)
                found.append(f"--- {host}\n{host.tail_of_log()}\n{waits.out}{waits.err}")
        return "\n".join(found)


@contextlib.contextmanager
def hosts(
    top: Path,
    count: int,
    *,
    seed: int | None = 1,
    swift: bool = False,
    environment: Mapping[str, str] | None = None,
    own_disks: bool = False,
) -> Iterator[Hosts]:
    """So many hosts that are up, over a directory that all see, or over a Swift of their own.

    ``seed``: of the losses between them; None: they share the loopback device. ``own_disks``: for their caches, that can be
    filled.
    """
    with contextlib.ExitStack() as around:
        network: Switch | Loopback = Loopback(count) if seed is None else around.enter_context(Switch(count, seed))
        more = dict(environment or {})
        if swift:
            server = around.enter_context(running_swift(memory_directory(), address=network.ip(0)))
            backend = server.swift_url
            more |= server.environ
        else:
            (top / "shared").mkdir()
            backend = f"dir:{top / 'shared'}"
        made = Hosts(top, count, network, more)
        if own_disks:
            for host in made:
                host.disk = SmallDisk(host.directory / "cache", DISK_BYTES)
        try:
            made.begin(backend)
            yield made
        except BaseException:
            print(made.logs())
            raise
        finally:
            for host in made:
                host.resume()
            for host in made:
                host.close()
