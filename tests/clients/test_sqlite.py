"""SQLite's habits on the mount: both journals, two processes with locks, and a daemon that is killed between commits.

If this fails: an application's database is damaged, or loses what it has said is committed.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.crash.rounds import chosen_seed
from tests.mounted_pool import MountedPool, wait_until

pytestmark = pytest.mark.mount

COUNTER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for _ in range(int(sys.argv[2])):
    database.execute("BEGIN IMMEDIATE")
    (value,) = database.execute("SELECT value FROM counter").fetchone()
    database.execute("UPDATE counter SET value = ?", (value + 1,))
    database.execute("COMMIT")
"""


def connect(path: Path, journal: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=30, isolation_level=None)
    assert database.execute(f"PRAGMA journal_mode={journal}").fetchone()[0] == journal
    database.execute("PRAGMA synchronous=FULL")
    return database


def test_processes_exclude_each_other(pool: MountedPool) -> None:
    for journal in ("delete", "truncate", "persist", "wal"):
        _count_together(pool.mount / f"{journal}.db", journal)


def _count_together(path: Path, journal: str) -> None:
    with closing(connect(path, journal)) as database:
        database.execute("CREATE TABLE counter (value INTEGER)")
        database.execute("INSERT INTO counter VALUES (0)")
        counters = [subprocess.Popen([sys.executable, "-c", COUNTER, str(path), "40"]) for _ in range(3)]
        assert [counter.wait(120) for counter in counters] == [0, 0, 0]
        assert database.execute("SELECT value FROM counter").fetchone() == (120,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        database.execute("VACUUM")
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


class Writer:
    """Transactions of several rows in a thread; ``committed``: how many have returned."""

    def __init__(self, path: Path, journal: str, seed: int, begun: int) -> None:
        self.committed = begun
        self._path, self._journal, self._dice = path, journal, random.Random(seed)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with closing(connect(self._path, self._journal)) as database:
                while True:
                    rows = [(self.committed, number, self._dice.randbytes(300)) for number in range(5)]
                    database.execute("BEGIN")
                    database.executemany("INSERT INTO entries VALUES (?, ?, ?)", rows)
                    database.execute("COMMIT")
                    self.committed += 1
        except (sqlite3.Error, OSError):
            return  # the daemon was killed

    def ended(self) -> bool:
        self._thread.join(0.01)
        return not self._thread.is_alive()


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_no_commit_is_lost_over_kills(pool: MountedPool, journal: str) -> None:
    seed = chosen_seed()
    path = pool.mount / "entries.db"
    with closing(connect(path, journal)) as database:
        database.execute("CREATE TABLE entries (number INTEGER, part INTEGER, filler BLOB, PRIMARY KEY (number, part))")
    committed = 0
    for _ in range(3):
        writer = Writer(path, journal, seed, committed)
        wanted = committed + random.Random(seed + committed).randint(20, 60)
        wait_until(lambda writer=writer, wanted=wanted: writer.committed >= wanted, f"{wanted} commits", 60)  # type: ignore[misc]
        pool.kill()
        wait_until(writer.ended, "the writer notices", 60)
        pool.start()
        with closing(connect(path, journal)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            found = database.execute("SELECT number, count(*) FROM entries GROUP BY number ORDER BY number").fetchall()
        assert all(parts == 5 for _, parts in found), "a transaction is there in part"
        assert [number for number, _ in found[: writer.committed]] == list(range(writer.committed)), f"lost, seed {seed}"
        assert len(found) <= writer.committed + 1
        committed = len(found)
