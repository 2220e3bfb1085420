"""ext4 and xfs on a loop device over a volume: kill -9 of the daemon under load, restart, journal replay, fsck.

If this fails, a guest's file system would not survive a crash of the daemon: promises 2 and 3 of docs/semantics.md.
"""

from __future__ import annotations

import os
import random
from functools import partial
from pathlib import Path

import pytest

from tests.clients.fsync_load import FsyncLoad
from tests.clients.loop_device import LoopDevice, released
from tests.mounted_pool import MountedPool, wait_until

GIB = 1 << 30
SMALL_CACHE = {
    "VPOOL_CACHE__SIZE_BYTES": "1GiB",
    "VPOOL_VOLUMES__SOFT_BYTES": "256MiB",
    "VPOOL_VOLUMES__HARD_BYTES": "512MiB",
    "VPOOL_VOLUMES__TLOG_AGE_S": "1",
}

pytestmark = pytest.mark.mount


def crash_rounds(tmp_path: Path, kind: str, *, rounds: int, syncs: int, seed: int) -> None:
    """Load, kill, restart, replay, check; the load goes on from what each crash has left."""
    chance = random.Random(seed)
    load = FsyncLoad(tmp_path / "target", seed=seed, workers=4)
    with MountedPool(tmp_path / "pool", tmp_path / "mount", environment=SMALL_CACHE) as pool:
        volume = pool.make_volume("disk.raw", GIB)
        for round_number in range(rounds):
            direct = chance.random() < 0.5
            with LoopDevice(volume, tmp_path / "target", kind=kind, direct=direct) as loop:
                if round_number == 0:
                    loop.make_filesystem()
                    loop.mount()
                    for worker in load.workers:
                        worker.prepare()
                else:
                    loop.mount()
                load.start()
                try:
                    wanted = load.syncs + chance.randint(syncs // 2, syncs)
                    wait_until(partial(load.reached, wanted), f"{wanted} fsyncs under load", 120)
                    assert not load.errors, (
                        f"round {round_number}: the load fails before the kill: {load.errors}\n{pool.tail_of_log()}"
                    )
                    pool.kill()
                finally:
                    load.stop()
                device = loop.device
            wait_until(partial(released, device), f"{device} lets go of the dead volume", 30)
            pool.start()
            with LoopDevice(volume, tmp_path / "target", kind=kind, direct=False) as loop:
                loop.mount()
                lost = load.lost()
                assert not lost, f"round {round_number}, seed {seed}: lost after {load.syncs} fsyncs:\n" + "\n".join(lost)
                for worker in load.workers:
                    worker.adopt()
                loop.unmount()
                loop.check()
        assert pool.stop() == 0
    print(f"{kind}: {rounds} crashes, seed {seed}")


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_filesystem_survives_kills_of_the_daemon(tmp_path: Path, kind: str) -> None:
    crash_rounds(tmp_path, kind, rounds=3, syncs=400, seed=int(os.environ.get("VPOOL_SEED", "7")))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_filesystem_survives_many_kills_of_the_daemon(tmp_path: Path, kind: str) -> None:
    seed = int(os.environ.get("VPOOL_SEED", str(random.SystemRandom().randrange(1 << 30))))
    crash_rounds(tmp_path, kind, rounds=30, syncs=1500, seed=seed)
