"""Damage to what only the whole daemon reads: vpool.json, the registry, the store's marker; and a sample of the rest (promise 9).

The daemon either refuses to start, with an exit code that is not that of a defect and a reason, or what can be read is right.
The long one takes some six minutes on two idle cores: every field of its own files, and a few of each other file.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.damage import Damage, Matrix, every_damage, sample_of
from tests.crash.damage_template import files_below, marked
from tests.mounted_pool import DaemonError, MountedPool, wait_until

MIB = 1 << 20
SIZE = 4 * MIB
SEED = int(os.environ.get("VPOOL_SEED", "5"))
POOL = {
    "VPOOL_CACHE__SIZE_BYTES": "256MiB",
    "VPOOL_CACHE__READ_CACHE_BYTES": "16MiB",
    "VPOOL_VOLUMES__SOFT_BYTES": "64MiB",
    "VPOOL_VOLUMES__HARD_BYTES": "128MiB",
    "VPOOL_VOLUMES__LOST_OBJECT_S": "0.5",
    "VPOOL_VOLUMES__TLOG_AGE_S": "3600",
    "VPOOL_FUSE__STOP_S": "1",
}

pytestmark = pytest.mark.mount


@dataclass(frozen=True, slots=True)
class Stopped:
    """A vPool whose daemon was killed with something in the backend and something in the tail."""

    directory: Path
    mount: Path
    content: bytes
    note: bytes


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    place, chance = tmp_path_factory.mktemp("damage"), random.Random(SEED)
    content, note = chance.randbytes(SIZE), chance.randbytes(10_000)
    with MountedPool(place / "template", place / "mount", environment=POOL) as pool:
        volume = pool.make_volume("disk.raw", SIZE)
        with volume.open("r+b", buffering=0) as disk:
            disk.write(content[: SIZE // 2])
        (pool.mount / "note.txt").write_bytes(note)
        assert pool.stop() == 0
        pool.start()
        with volume.open("r+b", buffering=0) as disk:
            disk.seek(SIZE // 2)
            disk.write(content[SIZE // 2 :])
            os.fsync(disk.fileno())
        # Before that, damage to the last record cannot be told from a write that was under way when the power went.
        wait_until(lambda: marked(place / "template" / "cache"), "an idle log marks what is durable", 20)
        pool.kill()
    return Stopped(place / "template", place / "mount", content, note)


def _outcome(stopped: Stopped, damage: Damage, work: Path) -> tuple[str, str]:
    subprocess.run(["cp", "-a", "--sparse=always", str(stopped.directory), str(work)], check=True)
    damage.apply(work)
    pool = MountedPool(work, stopped.mount, environment=POOL)
    try:
        with pool:
            return _read(stopped, pool)
    except DaemonError as error:
        code = next(
            (word.rstrip(":") for line in str(error).splitlines()[:1] for word in line.split() if word.rstrip(":").isdigit()), ""
        )
        if code in ("", "1") or "Traceback" in str(error):
            return "DEFECT", str(error)[-1500:]
        return "refused", str(error)
    finally:
        pool.close()
        shutil.rmtree(work)


def _read(stopped: Stopped, pool: MountedPool) -> tuple[str, str]:
    """Each part of each file: right, or an error."""
    errors = []
    for name, expected in (("disk.raw", stopped.content), ("note.txt", stopped.note)):
        try:
            with (pool.mount / name).open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size != len(expected):
                    return "WRONG DATA", f"{name} has {size} bytes"
                for at in range(0, size, 65536):
                    data = b""
                    with contextlib.suppress(OSError):
                        data = os.pread(file.fileno(), 65536, at)
                    if not data:
                        errors.append(f"{name} at {at}")
                    elif data != expected[at : at + 65536]:
                        return "WRONG DATA", f"{name} at {at}"
        except OSError as error:
            errors.append(f"{name}: {error.strerror}")
    if errors and pool.pid:
        return "I/O errors", errors[0]
    return "right", ""


def _run(stopped: Stopped, chosen: list[Damage], tmp_path: Path) -> None:
    matrix = Matrix()
    for damage in chosen:
        matrix.add(damage, *_outcome(stopped, damage, tmp_path / "work"))
    print(f"\n{matrix}")
    assert not matrix.wrong, f"seed {SEED}, {len(matrix.wrong)} failures:\n" + "\n".join(matrix.wrong[:10])


def _damages(stopped: Stopped) -> tuple[list[Damage], list[Damage]]:
    """To what only the daemon reads, and to the rest."""
    chance = random.Random(SEED)
    files = [
        path
        for path in files_below(stopped.directory)
        if path.name not in ("lock", "lock.mdb") and not path.name.endswith(".sock")
    ]
    own = [path for path in files if path.parts[len(stopped.directory.parts)] in ("registry", "vpool.json")]
    rest = [path for path in files if path not in own]
    return list(every_damage(stopped.directory, own, chance)), list(every_damage(stopped.directory, rest, chance))


def test_a_daemon_never_serves_damage(stopped: Stopped, tmp_path: Path) -> None:
    chance, (own, rest) = random.Random(SEED), _damages(stopped)
    _run(stopped, [*sample_of(own, chance, flips=4, cuts=1), *chance.sample(rest, 3)], tmp_path)


@pytest.mark.long
def test_a_daemon_never_serves_damage_to_any_field_of_its_own_files(stopped: Stopped, tmp_path: Path) -> None:
    own, rest = _damages(stopped)
    found = {(damage.kind, damage.part) for damage in own}
    assert {("registry/data.mdb", "meta"), ("registry/data.mdb", "leaf"), ("vpool.json", "text")} <= found
    _run(stopped, [*own, *sample_of(rest, random.Random(SEED), flips=2, cuts=1)], tmp_path)
