"""Promises 2, 3 and 5 on the embedded backend: ``kill -9`` at any moment, with and without the loss of ``DIR/cache``.

If this fails: an acknowledged write is gone, what is left of a volume is no state it ever had, or the daemon does not come back.
``VPOOL_SEED=… VPOOL_ROUNDS=… pytest tests/crash/test_kill.py`` runs a certain sequence of rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.rounds import SMALL_CACHE, Lives, chosen_rounds, chosen_seed
from tests.mounted_pool import MountedPool

pytestmark = pytest.mark.mount


def run(tmp_path: Path, rounds: Iterator[int]) -> None:
    seed, done = chosen_seed(), 0
    with MountedPool(tmp_path / "pool", tmp_path / "mount", environment=SMALL_CACHE) as pool:
        lives = Lives(pool, seed)
        lives.begin()
        for done in rounds:  # noqa: B007
            lives.round()
        print(f"VPOOL_SEED={seed}, {done} rounds: {dict(lives.counts)}; {lives.journals.appends} appends to files")
        assert pool.stop() == 0
    lives.assert_segments_were_reused()


def test_a_volume_and_files_survive_kills(tmp_path: Path) -> None:
    run(tmp_path, chosen_rounds(12, least=6, within_s=55))


@pytest.mark.long
def test_a_volume_and_files_survive_many_kills(tmp_path: Path) -> None:
    run(tmp_path, chosen_rounds(200, least=200, within_s=0))
