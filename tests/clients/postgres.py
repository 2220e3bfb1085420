"""A PostgreSQL server (Debian's) on a data directory of a test's choice, its load, and a record of what it has committed."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tests.mounted_pool import wait_until

BIN = Path("/usr/lib/postgresql/15/bin")
USER = "postgres"
START_S = 120.0
STOP_S = 60.0
COMMAND_S = 180.0
SETTINGS = """
listen_addresses = ''
restart_after_crash = off
fsync = on
full_page_writes = on
synchronous_commit = on
shared_buffers = 32MB
min_wal_size = 32MB
max_wal_size = 64MB
checkpoint_timeout = 30s
log_min_messages = warning
"""


class PostgresError(Exception):
    """A tool or the server failed; the message has what it said."""


def as_postgres(*command: str | Path) -> str:
    """Run a tool as the server's user, from a directory that it may enter."""
    done = subprocess.run(
        [str(part) for part in command], user=USER, group=USER, extra_groups=[], cwd="/", capture_output=True, text=True,
        timeout=COMMAND_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise PostgresError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


class Postgres:
    """One server; may be killed and started again. ``beside``: a directory on another disk, for its socket and its log."""

    def __init__(self, data: Path, beside: Path) -> None:
        self.data = data
        self.sockets = beside
        self.log = beside / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """initdb, with checksums on every page."""
        account = pwd.getpwnam(USER)
        self.data.mkdir(mode=0o700)
        os.chown(self.data, account.pw_uid, account.pw_gid)
        how = ["-k", "-A", "trust", "-U", USER, "-E", "UTF8", "--locale=C", "--no-instructions"]
        as_postgres(BIN / "initdb", "-D", self.data, *how)
        settings = f"{SETTINGS}unix_socket_directories = '{self.sockets}'\n"
        with (self.data / "postgresql.conf").open("a", encoding="ascii") as file:
            file.write(settings)
            file.flush()
            os.fsync(file.fileno())

    def start(self) -> None:
        """Start, recover if need be, and wait until it takes connections."""
        assert self._process is None, "already running"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(BIN / "postgres"), "-D", str(self.data)],
                user=USER, group=USER, extra_groups=[], cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        wait_until(self._answers, "PostgreSQL takes connections", START_S)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            code, self._process = self._process.returncode, None
            raise PostgresError(f"PostgreSQL ended with {code}:\n{self.tail_of_log()}")
        ready = [str(BIN / "pg_isready"), "-U", USER, "-q", "-h", str(self.sockets)]
        return subprocess.run(ready, capture_output=True, timeout=COMMAND_S, check=False).returncode == 0

    def stop(self) -> None:
        """A fast shutdown, as an administrator: a checkpoint, then the end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(STOP_S)
        self._process = None
        if code:
            raise PostgresError(f"the shutdown ended with {code}:\n{self.tail_of_log()}")

    def kill(self) -> None:
        """End it and all its children, each of which is a session of its own."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGSTOP)  # it makes no more
        children = _children(process.pid)
        for pid in (*children, process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(STOP_S)
        wait_until(lambda: not any(map(_runs, children)), "all of PostgreSQL has ended", STOP_S)

    def query(self, text: str) -> list[str]:
        """Rows of a query, fields joined by ``|``."""
        return as_postgres(BIN / "psql", *self.connection(), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", text).splitlines()

    def connection(self) -> list[str]:
        """Options that connect a tool."""
        return ["-h", str(self.sockets), "-U", USER]

    def tail_of_log(self, lines: int = 30) -> str:
        """The end of what the server said."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except FileNotFoundError:
        return []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass(slots=True)
class Ledger:
    """Sessions that insert numbered rows one by one, and keep, outside of any vPool, which were committed; a context manager."""

    server: Postgres
    sessions: int = 3
    committed: list[int] = field(default_factory=list)  # by session: all rows below this number
    _threads: list[threading.Thread] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def create(self) -> None:
        """The table."""
        self.committed = [0] * self.sessions
        self.server.query("CREATE TABLE ledger (session int, number int, filler text, PRIMARY KEY (session, number))")

    def __enter__(self) -> Ledger:
        self._stop.clear()
        self._threads = [threading.Thread(target=self._insert, args=(each,), daemon=True) for each in range(self.sessions)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(STOP_S)
            assert not thread.is_alive(), "a session hangs"

    def _insert(self, session: int) -> None:
        """Until told to stop, or the server goes: psql says ``done`` only after the server has answered that it is committed."""
        psql = [str(BIN / "psql"), *self.server.connection(), "-XAtq", "-v", "ON_ERROR_STOP=1"]
        with subprocess.Popen(
            psql, user=USER, group=USER, extra_groups=[], cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, bufsize=1,
        ) as running:  # fmt: skip
            assert running.stdin is not None
            assert running.stdout is not None
            try:
                while not self._stop.is_set():
                    number = self.committed[session]
                    running.stdin.write(f"INSERT INTO ledger VALUES ({session}, {number}, repeat('x', {number % 900}));\n")
                    running.stdin.write(f"\\echo done {number}\n")
                    running.stdin.flush()
                    if running.stdout.readline() != f"done {number}\n":
                        break
                    self.committed[session] = number + 1
            except BrokenPipeError:
                pass
            finally:
                running.kill()

    def lost(self) -> list[str]:
        """What was committed and is not there, or is there and was never asked for. An unanswered row may be there or not."""
        found: list[set[int]] = [set() for _ in range(self.sessions)]
        for row in self.server.query("SELECT session, number FROM ledger WHERE length(filler) = number % 900"):
            session, number = map(int, row.split("|"))
            found[session].add(number)
        problems = []
        for session, committed in enumerate(self.committed):
            missing = set(range(committed)) - found[session]
            if missing:
                problems.append(f"session {session}: {len(missing)} of {committed} committed rows are gone, first {min(missing)}")
            if found[session] - set(range(committed + 1)):
                problems.append(f"session {session}: rows that nobody has asked for")
            self.committed[session] = max(committed, len(found[session]))
        return problems


@dataclass(slots=True)
class Pgbench:
    """pgbench's TPC-B-like load, with a log of each transaction that was answered; a context manager."""

    server: Postgres
    logs: Path  # a directory that the server's user may write to
    clients: int = 4
    runs: int = 0
    in_doubt: int = 0  # transactions that may or may not have been committed when a server went
    _process: subprocess.Popen[bytes] | None = None

    def create(self, scale: int) -> None:
        """The tables; 15 MB for each of ``scale``."""
        as_postgres(BIN / "pgbench", *self.server.connection(), "-i", "-q", "-s", str(scale), "postgres")

    def __enter__(self) -> Pgbench:
        self.runs += 1
        command = [BIN / "pgbench", *self.server.connection(), "-n", "-c", str(self.clients), "-j", "2", "-T", "3600", "-l"]
        self._process = subprocess.Popen(
            [*map(str, command), f"--log-prefix={self.logs}/run-{self.runs}", "postgres"],
            user=USER, group=USER, extra_groups=[], cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        """It ends when its server has gone, and then writes its log out."""
        assert self._process is not None
        try:
            self._process.wait(STOP_S)
        finally:
            self._process.kill()
            self._process.wait()
        self.in_doubt += self.clients

    def answered(self) -> int:
        """Transactions that were answered, of all runs that have ended."""
        return sum(len(log.read_bytes().splitlines()) for log in self.logs.glob("run-*"))

    def problems(self) -> list[str]:
        """Committed transactions that are gone, and sums that do not agree."""
        found = []
        (count,) = map(int, self.server.query("SELECT count(*) FROM pgbench_history"))
        answered = self.answered()
        if not answered <= count <= answered + self.in_doubt:
            found.append(f"{answered} transactions were answered, {self.in_doubt} in doubt, but {count} are in the history")
        (sums,) = self.server.query(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches), "
            "(SELECT sum(tbalance) FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"
        )
        if len(set(sums.split("|"))) != 1:
            found.append(f"accounts, branches, tellers and history differ: {sums}")
        return found
