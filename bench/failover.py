"""Three nodes on this machine, and the one that owns a volume is killed: how long until its DTL peer serves it.

All daemons and registries share the cores of this machine.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.fio import lay_out
from bench.hosts import ROOM
from bench.measure import Row, Target
from bench.mounts import CLUSTER, Effort
from registry import DtlState, ObjectRecord
from tests.cluster.hosts import Host, Hosts, hosts
from tests.cluster.records import record_in
from tests.mounted_pool import wait_until

SYNC_S = 120.0
BACK_S = 60.0
NAME = "bench.raw"


def failed_over(work: Path, effort: Effort) -> list[Row]:
    """From ``kill -9`` to the first write that is flushed again through a third node; a tail is on owner and peer only."""
    with hosts(work, 3, seed=None, environment={**ROOM, "VPOOL_DTL__MODE": "sync", "VPOOL_VOLUMES__TLOG_AGE_S": "600"}) as made:
        with (made[0].mount / NAME).open("xb") as file:
            file.truncate(effort.random_bytes)
        runs = [_round(made, effort) for _ in range(effort.rounds)]
    details = {"tail_bytes": effort.random_bytes}
    what = "failover after kill -9 of the owner, to the first flushed write"
    return [Row("failover", what, "s", runs, Target(at_most=10), details=details)]


def _record(made: Hosts) -> ObjectRecord:
    with next(host for host in made if not host.ended()).view() as view:
        return record_in(view, NAME)


def _round(made: Hosts, effort: Effort) -> float:
    lay_out(made[0].mount / NAME, effort.random_bytes)
    wait_until(lambda: _record(made).dtl.state is DtlState.IN_SYNC, "the DTL is in sync", SYNC_S)
    record = _record(made)
    owner = _host(made, record.owner)
    client = next(host for host in made if host.id not in (record.owner, record.dtl.peer))
    with (client.mount / NAME).open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), bytes(CLUSTER), 0)
        os.fsync(file.fileno())
        began = time.monotonic()
        owner.kill()
        while not _flushed(file.fileno()):
            pass
        taken = time.monotonic() - began
    owner.start(BACK_S)
    return taken


def _flushed(descriptor: int) -> bool:
    """False: it was on its way when the owner died, and nobody knows whether it counts."""
    try:
        os.pwrite(descriptor, os.urandom(CLUSTER), 0)
        os.fsync(descriptor)
    except OSError:
        return False
    return True


def _host(made: Hosts, node: str) -> Host:
    return next(host for host in made if host.id == node)
