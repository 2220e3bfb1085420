"""Small files on the mount: created, written, closed, against the local disk; with what survives a power cut made comparable.

A name on the mount is durable when the call that made it has returned; on the local disk nothing is before a sync. So the row
with a target compares with local files that are synced, and the one without shows the other.
"""

from __future__ import annotations

import os
import shutil
import time
from itertools import count
from pathlib import Path

from bench.measure import Row, Target, alternate
from bench.mounts import MIB, Effort, dirty_bytes, null_pyfuse3, pool
from tests.mounted_pool import MountedPool, wait_until

CONTENT = os.urandom(1000)
_numbers = count()


def make_files(top: Path, number: int, *, sync: bool) -> float:
    """Seconds to create, write and close so many files in a new directory."""
    directory = top / f"files-{next(_numbers)}"
    directory.mkdir()
    paths = [str(directory / f"file-{at}") for at in range(number)]
    began = time.perf_counter()
    for path in paths:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.write(descriptor, CONTENT)
        if sync:
            os.fsync(descriptor)
        os.close(descriptor)
    return time.perf_counter() - began


def _uploaded(running: MountedPool) -> tuple[int, int]:
    """Objects and bytes in the embedded store."""
    sizes = [path.stat().st_size for path in (running.directory / "backend").rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def small_files(work: Path, effort: Effort) -> list[Row]:
    """1,000 files of 1,000 bytes, and how they go up."""
    number = 1000 if effort.rounds > 1 else 100
    local = work / "local"
    local.mkdir()
    with pool(work, {"VPOOL_VOLUMES__TLOG_AGE_S": "1"}) as running, null_pyfuse3(work, MIB) as null:
        make_files(running.mount, 50, sync=False)
        plain, synced, local_plain, local_synced, nothing = alternate(
            effort.rounds,
            lambda: make_files(running.mount, number, sync=False),
            lambda: make_files(running.mount, number, sync=True),
            lambda: make_files(local, number, sync=False),
            lambda: make_files(local, number, sync=True),
            lambda: make_files(null.parent, number, sync=False),
        )
        began = time.perf_counter()
        wait_until(lambda: dirty_bytes(running) == 0, "everything is in the backend", 120)
        behind_s = time.perf_counter() - began
        objects, size = _uploaded(running)
    shutil.rmtree(local)
    made = number * effort.rounds * 2
    details = {
        "files": number,
        "uploaded": f"{objects:,} objects, {size / (1 << 20):,.1f} MiB for {made:,} files",
        "upload_done_after_s": round(behind_s, 1),
    }
    per_file = [[1000 * seconds / number for seconds in runs] for runs in (plain, synced, local_plain, local_synced, nothing)]
    what = "small file created, written, closed"
    return [
        Row("files", what, "ms", per_file[0], Target(at_most=2), "local disk, with fsync", per_file[3], details),
        Row("files_synced", f"{what}, with fsync", "ms", per_file[1], Target(at_most=2), "local disk, with fsync", per_file[3]),
        Row("files_null", what, "ms", per_file[0], Target(), "null pyfuse3, which keeps nothing", per_file[4]),
        Row("files_unsynced", f"{what}", "ms", per_file[0], Target(), "local disk, nothing durable", per_file[2]),
    ]
