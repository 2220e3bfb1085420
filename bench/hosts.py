"""Two nodes on this machine: what it costs that the other one owns the volume.

Both daemons and both registries share the cores of this machine, so a forwarded request pays for two of everything here.
"""

from __future__ import annotations

import json
from pathlib import Path

from bench.fio import Load, fio, lay_out
from bench.measure import Row, Target, alternate
from bench.mounts import CLUSTER, GIB, MIB, Effort, iops_row
from tests.cluster.hosts import Host, hosts
from tests.mounted_pool import wait_until

ROOM = {
    "VPOOL_LOG__LEVEL": "warning",
    "VPOOL_CLUSTER__MOVE_REQUESTS": "0",  # the volume stays where it is
    "VPOOL_DTL__MODE": "off",
    "VPOOL_CACHE__SIZE_BYTES": str(8 * GIB),
    "VPOOL_VOLUMES__SOFT_BYTES": str(2 * GIB),
    "VPOOL_VOLUMES__HARD_BYTES": str(4 * GIB),
}


def forwarded(work: Path, effort: Effort) -> list[Row]:
    """A volume through the other node's mount, against the same through its owner's."""
    with hosts(work, 2, seed=None, environment=ROOM) as (owner, other):
        here, there = owner.mount / "bench.raw", other.mount / "bench.raw"
        with here.open("xb") as file:
            file.truncate(max(effort.random_bytes, effort.sequential_bytes))
        lay_out(here, effort.random_bytes)
        rows = []
        for rw, what in (("randwrite", "write"), ("randread", "warm read")):
            load = Load(rw, CLUSTER, size=effort.random_bytes, seconds=effort.seconds)
            reference = ("through its owner", here)
            rows.append(
                iops_row(f"forwarded_{rw}", f"forwarded 4 KiB {what}, QD1", load, there, reference, Target(1 / 2.5), effort)
            )
        for rw, what in (("write", "write, synced"), ("read", "warm read")):
            rows.append(_sequential(owner, rw, what, here, there, effort))
        return rows


def _sequential(owner: Host, rw: str, what: str, here: Path, there: Path, effort: Effort) -> Row:
    load = Load(rw, MIB, depth=4, size=effort.random_bytes, sync_every=64 if rw == "write" else 0)

    def measured(path: Path) -> float:
        wait_until(lambda: _dirty_bytes(owner) == 0, "everything is in the backend", 300)
        return fio(path, load).bytes_per_second

    runs, reference = alternate(effort.rounds, lambda: measured(there), lambda: measured(here))
    details = {"bytes": effort.random_bytes}
    return Row(
        f"forwarded_seq_{rw}", f"forwarded sequential {what}", "B/s", runs, Target(0.5), "through its owner", reference, details
    )


def _dirty_bytes(owner: Host) -> int:
    return int(json.loads(owner.vpool("status", "--json", "--dir", owner.directory).out)["dirty_bytes"])
