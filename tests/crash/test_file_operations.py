"""Random reads, writes, cuts and mappings of files against a model, with ``kill -9`` of the daemon between and in the middle.

If this fails: a file has other bytes than were written, or an acknowledged change is gone (promises 1 and 2).
``VPOOL_SEED=… VPOOL_ROUNDS=… pytest tests/crash/test_file_operations.py`` runs a certain sequence.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from tests.crash.file_model import FileOperations
from tests.crash.rounds import SMALL_CACHE, chosen_rounds, chosen_seed
from tests.mounted_pool import MountedPool

pytestmark = pytest.mark.mount

# Files that are cut and written over fill the log quickly: more room than the least lets them run at the disk's rate.
ENVIRONMENT = {
    **SMALL_CACHE,
    "VPOOL_CACHE__SIZE_BYTES": "512MiB",
    "VPOOL_CACHE__READ_CACHE_BYTES": "128MiB",
    "VPOOL_VOLUMES__SOFT_BYTES": "64MiB",
    "VPOOL_VOLUMES__HARD_BYTES": "128MiB",
}


def run(tmp_path: Path, *, rounds: int, operations: int) -> None:
    seed = chosen_seed()
    dice = random.Random(seed)
    with MountedPool(tmp_path / "pool", tmp_path / "mount", environment=ENVIRONMENT) as pool:
        work = FileOperations(pool.mount, dice.randrange(1 << 30))
        try:
            for number in range(rounds):
                if number % 2:
                    work.run(operations)
                    work.check()
                    pool.kill()
                else:
                    killed_in_the_middle(work, pool, dice.uniform(0.05, 1.5))
                pool.start()
                work.after_kill()
            assert pool.stop() == 0
            pool.start()
            work.after_kill()
        except BaseException:
            print(f"VPOOL_SEED={seed}, {work.done} operations, the last: {work.log[-20:]}\n{pool.tail_of_log(30)}")
            raise
        print(f"VPOOL_SEED={seed}, {rounds} rounds, {work.done} operations")


def killed_in_the_middle(work: FileOperations, pool: MountedPool, after_s: float) -> None:
    """Operations until the daemon is gone."""
    died = threading.Event()

    def kill() -> None:
        died.set()
        pool.kill()

    timer = threading.Timer(after_s, kill)
    timer.start()
    end = time.monotonic() + 60
    try:
        while time.monotonic() < end:
            work.run(1000)
        raise AssertionError("the daemon was killed, and the mount went on")
    except OSError:
        assert died.is_set(), "the mount failed before the daemon was killed"
    finally:
        timer.join()


def test_files_are_what_the_model_says(tmp_path: Path) -> None:
    run(tmp_path, rounds=max(chosen_rounds(6, least=6, within_s=0)) + 1, operations=250)


@pytest.mark.long
def test_files_are_what_the_model_says_for_long(tmp_path: Path) -> None:
    run(tmp_path, rounds=max(chosen_rounds(150, least=150, within_s=0)) + 1, operations=1500)
