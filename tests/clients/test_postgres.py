"""PostgreSQL over kills of the daemon: every transaction that it has said is committed is there afterwards, and all sums agree.

Once on ext4 on a loop device over a volume, as in a guest, and once with the data directory on the mount. The record of what was
committed is kept outside of the vPool. ``VPOOL_SEED=… VPOOL_ROUNDS=… pytest tests/clients/test_postgres.py``: a certain sequence.

If this fails: a database loses commits when the daemon dies, or does not come up again.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from tests.clients.loop_device import LoopDevice, released
from tests.clients.postgres import BIN, USER, Ledger, Pgbench, Postgres, as_postgres
from tests.crash.rounds import chosen_seed
from tests.mounted_pool import MountedPool, wait_until

GIB = 1 << 30
LOAD_S = 60.0
SMALL_CACHE = {
    "VPOOL_CACHE__SIZE_BYTES": "512MiB",
    "VPOOL_CACHE__READ_CACHE_BYTES": "128MiB",
    "VPOOL_VOLUMES__SOFT_BYTES": "128MiB",
    "VPOOL_VOLUMES__HARD_BYTES": "256MiB",
    "VPOOL_VOLUMES__TLOG_AGE_S": "1",
}

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(not BIN.exists() or os.geteuid() != 0, reason="needs Debian's postgresql-15, and root"),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the server's user may pass through; pytest's own are closed to it."""
    path = Path(tempfile.mkdtemp(prefix="vpool-postgres-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Disk(Protocol):
    """Where the data directory is: what has to be done on a pool that runs, until it has gone."""

    def attached(self, *, first: bool) -> AbstractContextManager[Path]: ...

    def check(self) -> None:
        """The pool runs, nothing is attached, and the server had stopped cleanly."""


class OnTheMount:
    """The data directory is a directory of the vPool."""

    def __init__(self, pool: MountedPool) -> None:
        self._pool = pool

    @contextmanager
    def attached(self, *, first: bool) -> Iterator[Path]:
        yield self._pool.mount / "database"

    def check(self) -> None:
        pass


class OnExt4:
    """The data directory is on ext4, on a loop device over a volume."""

    def __init__(self, pool: MountedPool, target: Path, chance: random.Random) -> None:
        self._volume = pool.make_volume("disk.raw", GIB)
        self._target = target
        self._chance = chance

    @contextmanager
    def attached(self, *, first: bool) -> Iterator[Path]:
        with LoopDevice(self._volume, self._target, kind="ext4", direct=self._chance.random() < 0.5) as loop:
            if first:
                loop.make_filesystem()
            yield loop.mount() / "database"
            device = loop.device
        wait_until(partial(released, device), f"{device} lets go of the volume", 30)

    def check(self) -> None:
        with LoopDevice(self._volume, self._target, kind="ext4", direct=False) as loop:
            loop.check()


class Rounds:
    """One database over many lives of the daemon."""

    def __init__(self, place: Path, pool: MountedPool, disk: Disk, data: Path, chance: random.Random) -> None:
        beside = place / "beside"
        beside.mkdir()
        account = pwd.getpwnam(USER)
        os.chown(beside, account.pw_uid, account.pw_gid)
        self.server = Postgres(data, beside)
        self.ledger = Ledger(self.server)
        self.pgbench = Pgbench(self.server, beside)
        self._pool = pool
        self._disk = disk
        self._chance = chance

    def run(self, rounds: int) -> None:
        for number in range(rounds):
            with self._disk.attached(first=number == 0):
                try:
                    self._begin(first=number == 0)
                    self._load_and_kill()
                finally:
                    self.server.kill()
            self._pool.start()
        with self._disk.attached(first=False):
            try:
                self._begin(first=False)
                self.server.stop()
            finally:
                self.server.kill()
            as_postgres(BIN / "pg_checksums", "-D", self.server.data, "--check")
        self._disk.check()
        assert self._pool.stop() == 0

    def _begin(self, *, first: bool) -> None:
        """Start the server, which recovers, and compare."""
        if first:
            self.server.create()
        began = time.monotonic()
        self.server.start()
        if first:
            self.ledger.create()
            self.pgbench.create(scale=2)
            return
        problems = self.ledger.lost() + self.pgbench.problems()
        assert not problems, "\n".join([*problems, self.server.tail_of_log()])
        print(
            f"recovered in {time.monotonic() - began:.1f} s: {sum(self.ledger.committed)} rows, "
            f"{self.pgbench.answered()} transactions"
        )

    def _load_and_kill(self) -> None:
        rows = sum(self.ledger.committed) + self._chance.randint(100, 400)
        answered = self.pgbench.answered()
        longer_s = self._chance.uniform(0.0, 3.0)
        with self.ledger, self.pgbench:
            try:
                wait_until(lambda: sum(self.ledger.committed) >= rows, f"{rows} rows are committed", LOAD_S)
                time.sleep(longer_s)  # so that the kill may hit anything, a checkpoint too
            finally:
                self._pool.kill()
                self.server.kill()
        assert self.pgbench.answered() > answered, f"pgbench got no answer:\n{self.server.tail_of_log()}"


def postgres_over_kills(place: Path, *, rounds: int, on_ext4: bool) -> None:
    seed = chosen_seed()
    chance = random.Random(seed)
    rounds = int(os.environ.get("VPOOL_ROUNDS", rounds))
    with MountedPool(place / "pool", place / "mount", environment=SMALL_CACHE) as pool:
        target = place / "target"
        disk: Disk = OnExt4(pool, target, chance) if on_ext4 else OnTheMount(pool)
        data = (target if on_ext4 else pool.mount) / "database"
        Rounds(place, pool, disk, data, chance).run(rounds)


@pytest.mark.parametrize("on_ext4", [True, False], ids=["on-ext4", "on-the-mount"])
def test_no_commit_is_lost_over_kills(place: Path, on_ext4: bool) -> None:
    postgres_over_kills(place, rounds=2, on_ext4=on_ext4)


@pytest.mark.long
@pytest.mark.parametrize("on_ext4", [True, False], ids=["on-ext4", "on-the-mount"])
def test_no_commit_is_lost_over_many_kills(place: Path, on_ext4: bool) -> None:
    postgres_over_kills(place, rounds=20, on_ext4=on_ext4)
