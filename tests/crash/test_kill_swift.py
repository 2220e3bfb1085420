"""Promises 2, 5 and 8 over OpenStack Swift in bad weather: kills with uploads under way, lost caches, recycled segments.

Between the daemon and Swift stands the fault proxy: delay, 503, reset, lost reply, short body, objects that are not seen at
once, stale listings. It holds uploads back and lets them arrive after their sender is dead, and knows the content of every name
ever written: a name that comes again with other content, in whatever life of the daemon, is a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.rounds import ROUNDS_TO_TELL, SMALL_CACHE, Lives, chosen_rounds, chosen_seed
from tests.crash.stamp import Load
from tests.fault_plan import ROUGH
from tests.fault_proxy import FaultProxy
from tests.mounted_pool import MountedPool
from tests.swift_server import SwiftServer

pytestmark = [pytest.mark.mount, pytest.mark.swift]

LATE = replace(ROUGH, invisible_s=4.0)  # longer than a restart takes: a daemon without a cache asks for what is not seen yet
LOAD = Load(units=16 << 11, bytes_max=10 << 20)


def run(tmp_path: Path, swift: SwiftServer, rounds: Iterator[int]) -> None:
    seed, done = chosen_seed(), 0
    with FaultProxy.running(f"http://{swift.host}", faults=LATE, seed=seed) as proxy:
        environment = {**SMALL_CACHE, **swift.environ}
        backend = f"swift:{proxy.url}/auth/v1.0?prefix=kill-{seed}-"
        with MountedPool(tmp_path / "pool", tmp_path / "mount", backend=backend, environment=environment) as pool:
            under_way: Counter[bool] = Counter()
            lives = Lives(pool, seed, load=LOAD, before_kill=lambda: under_way.update([proxy.puts_under_way > 0]))
            lives.begin()
            for done in rounds:  # noqa: B007
                lives.round()
                assert not proxy.ledger.violations, f"VPOOL_SEED={seed}: {proxy.ledger.violations}"
            assert pool.stop() == 0
    print(f"VPOOL_SEED={seed}, {done} rounds: {dict(lives.counts)}; {lives.journals.appends} appends to files")
    print(f"{under_way[True]} of {under_way.total()} kills with uploads under way")
    print(f"{len(proxy.ledger)} names, {proxy.ledger.repeats} put again with the same content; {dict(proxy.counts)}")
    assert not proxy.ledger.violations, f"VPOOL_SEED={seed}: {proxy.ledger.violations}"
    assert proxy.ledger.count("/sco/") > 0
    assert proxy.ledger.count("/tlog/") > 0
    assert under_way[True] > 0, "no kill had an upload under way: the test has not tested what it is for"
    assert proxy.counts["not visible yet"] > 0 or done < ROUNDS_TO_TELL, "nothing was asked for before it was seen everywhere"
    lives.assert_segments_were_reused()


def test_no_name_is_written_twice_over_kills(tmp_path: Path, swift_server: SwiftServer) -> None:
    run(tmp_path, swift_server, chosen_rounds(10, least=4, within_s=50))


@pytest.mark.long
def test_no_name_is_written_twice_over_many_kills(tmp_path: Path, swift_server: SwiftServer) -> None:
    run(tmp_path, swift_server, chosen_rounds(200, least=200, within_s=0))
