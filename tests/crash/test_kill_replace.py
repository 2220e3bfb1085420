"""``kill -9`` while the cache is being replaced under a stamped writer: whichever directory is the cache then, nothing is lost.

If this fails: a crash between two steps of ``vpool cache replace`` loses an acknowledged write, or a node does not start
again.
"""

from __future__ import annotations

import random
import shutil
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.crash.rounds import SMALL_CACHE, Ending, Lives, Plan, chosen_rounds, chosen_seed
from tests.mounted_pool import MountedPool
from vpool.cli.client import Client
from vpool.errors import VPoolError

pytestmark = pytest.mark.mount

SPARE_S = 60.0


class ReplacedLives(Lives):
    """Rounds whose cache is replaced all the time: each replacement by a new directory or by an emptied one."""

    def round_of(self, dice: random.Random, load_s: float, spare: Path) -> Counter[str]:
        """One life; what came of the replacements that were asked for."""
        self._number += 1
        plan = Plan(Ending.LOAD, load_s, 0, loses_cache=False, failed_starts_s=())
        stop, outcomes = threading.Event(), Counter[str]()
        operator = threading.Thread(target=self._replace, args=(dice, spare, stop, outcomes), name="operator", daemon=True)
        operator.start()
        try:
            self._live(plan)
            stop.set()
            operator.join(SPARE_S)
            assert not operator.is_alive(), "a command hangs although the daemon is gone"
            self._restart(plan)
            self._check(cache_lost=False)
            self._look_at_log()
        except BaseException:
            print(f"VPOOL_SEED={self.seed}, round {self._number}: {plan}\n{self.pool.tail_of_log(60)}", flush=True)
            raise
        self._tidy(spare)
        return outcomes

    def _replace(self, dice: random.Random, spare: Path, stop: threading.Event, outcomes: Counter[str]) -> None:
        while not stop.is_set():
            new = str(spare / f"cache-{dice.randrange(1 << 32):08x}") if dice.random() < 0.6 else None
            body: dict[str, object] = {"path": new, "send_s": 10}
            try:
                Client(self.pool.directory).post("/v1/cache/replacements", body, timeout_s=SPARE_S)
                outcomes["elsewhere" if new else "emptied"] += 1
            except VPoolError as error:
                outcomes[type(error).__name__] += 1
                stop.wait(0.02)

    def _tidy(self, spare: Path) -> None:
        """What was replaced goes: it must not matter any more."""
        now = (self.pool.directory / "cache").resolve()
        for old in [*spare.iterdir(), *self.pool.directory.glob("cache.replaced-*"), *now.glob("replaced-*")]:
            if old.resolve() != now:
                shutil.rmtree(old)


def test_kills_while_the_cache_is_replaced(tmp_path: Path) -> None:
    seed, outcomes = chosen_seed(), Counter[str]()
    dice = random.Random(seed)
    spare = tmp_path / "spare"
    spare.mkdir()
    with MountedPool(tmp_path / "pool", tmp_path / "mount", environment=SMALL_CACHE) as pool:
        lives = ReplacedLives(pool, seed)
        lives.begin()
        for done in chosen_rounds(10, least=5, within_s=45):  # noqa: B007
            outcomes += lives.round_of(dice, dice.uniform(0.05, 2.0), spare)
        print(f"VPOOL_SEED={seed}, {done} rounds: {dict(outcomes)}; {dict(lives.counts)}")
        assert pool.stop() == 0
    assert outcomes["elsewhere"]
    assert outcomes["emptied"]
