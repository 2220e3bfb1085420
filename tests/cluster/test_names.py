"""Names on three mounts: what one has been answered all see, at once; of many that create one name exactly one does.

If this fails: a look-up goes by an old copy of the registry, or the kernel believes a name that another node has changed. Lock
files and every `mv` into place depend on it. ``VPOOL_SEED`` repeats what is drawn (not the timing).
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import pytest

from tests.cluster.linearizable import NotLinearizable, Operation, check
from tests.cluster.test_three_nodes import Daemon, three
from tests.mounted_pool import wait_until

pytestmark = pytest.mark.mount

SEED = int(os.environ.get("VPOOL_SEED", "1"))
PLACES = 3
LOAD_S = 6.0
UNKNOWN = (errno.ENOTCONN, errno.EIO, errno.ECONNABORTED, errno.ETIMEDOUT)


def registry_of(node: Daemon) -> psutil.Process:
    """The process of a daemon's registry."""
    assert node.process is not None
    children = psutil.Process(node.process.pid).children()
    return next(child for child in children if "registry" in child.cmdline())


def leader_of(nodes: list[Daemon]) -> Daemon:
    """Who leads, as all agree."""
    found: list[Daemon] = []

    def agreed() -> bool:
        told = [node.status() for node in nodes]
        found[:] = [node for node, status in zip(nodes, told, strict=True) if all(s["leader"] == status["node"] for s in told)]
        return bool(found)

    wait_until(agreed, "all know who leads", 20)
    return found[0]


class History:
    """Operations on all mounts, as their clients saw them."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._lock = threading.Lock()

    def run(self, client: str, what: tuple[object, ...], call: Callable[[], object]) -> None:
        began = time.monotonic()
        ended: float | None = None
        outcome: object
        try:
            call()
            outcome = "done"
        except OSError as error:
            outcome = errno.errorcode[error.errno or 0]
            if error.errno in UNKNOWN:
                outcome = None
        if outcome is not None:
            ended = time.monotonic()
        with self._lock:
            self.operations.append(Operation(client, what, began, ended, outcome))


def token_step(place: int, operation: Operation) -> Iterable[int]:
    """One file, at one of several names."""
    kind, at, *rest = operation.what
    if kind == "stat":
        return [place] if (operation.outcome == "done") == (place == at) else []
    to = rest[0]
    assert isinstance(to, int)
    if operation.ended is None:
        return [to] if place == at else []
    if operation.outcome == "ENOENT":
        return [] if place == at else [place]
    # rename(2) does nothing where both names are the same file: so it may find it, when it moves between the kernel's two looks
    return [to] if place in (at, to) else []


def lock_step(held: bool, operation: Operation) -> Iterable[bool]:
    """A lock file: made exclusively, removed."""
    kind = operation.what[0]
    if operation.ended is None:
        return [kind == "make"] if held == (kind == "remove") else []
    if kind == "stat":
        return [held] if held == (operation.outcome == "done") else []
    free_wanted = kind == "make"
    if operation.outcome == "done":
        return [free_wanted] if held != free_wanted else []
    return [held] if held == free_wanted else []


def test_the_checker_finds_what_is_wrong() -> None:
    good = [Operation("a", ("rename", 0, 1), 0, 3, "done"), Operation("b", ("stat", 1), 1, 2, "done")]
    assert check(good, 0, token_step)
    stale = [Operation("a", ("rename", 0, 1), 0, 1, "done"), Operation("b", ("stat", 0), 2, 3, "done")]
    with pytest.raises(NotLinearizable):
        check(stale, 0, token_step)
    forth_and_back = [*good, Operation("c", ("stat", 0), 2.1, 2.9, "done")]  # seen at its new place, then at the old one again
    with pytest.raises(NotLinearizable):
        check(forth_and_back, 0, token_step)
    twice = [Operation(client, ("make",), 0, 1, "done") for client in "ab"]
    with pytest.raises(NotLinearizable):
        check(twice, False, lock_step)
    died = [
        Operation("a", ("make",), 0, None),
        Operation("b", ("make",), 5, 6, "EEXIST"),
        Operation("b", ("remove",), 7, 8, "done"),
    ]
    assert check(died, False, lock_step)


def test_every_mount_sees_at_once_what_another_was_answered(tmp_path: Path) -> None:
    print(f"VPOOL_SEED={SEED}")
    chosen = random.Random(SEED)
    with three(tmp_path) as nodes:
        for number in range(30):
            here, there = chosen.sample(nodes, 2)
            name, moved = f"f{number}", f"g{number}"
            assert not (there.mount / name).exists(), "now its kernel has asked, and might believe that there is none"
            (here.mount / name).write_bytes(b"%d" % number)
            assert (there.mount / name).read_bytes() == b"%d" % number
            (there.mount / name).chmod(0o600)
            assert (here.mount / name).stat().st_mode & 0o777 == 0o600
            (here.mount / name).rename(here.mount / moved)
            assert not (there.mount / name).exists()
            assert moved in there.names()
            assert name not in there.names()
            os.setxattr(here.mount / moved, "user.a", b"%d" % number)
            assert os.getxattr(there.mount / moved, "user.a") == b"%d" % number
            (there.mount / moved).unlink()
            assert not (here.mount / moved).exists()
            assert moved not in here.names()
        a_replica_that_lags_is_waited_for(nodes)
        exactly_one_wins(nodes)
        names_are_one_history_while_leaders_die(nodes, chosen)


def a_replica_that_lags_is_waited_for(nodes: list[Daemon]) -> None:
    """What it does not know yet it does not answer; what is open goes on meanwhile."""
    leader = leader_of(nodes)
    here, there = [node for node in nodes if node is not leader]
    (there.mount / "open").write_bytes(b"data")
    questions: list[Callable[[], object]] = [
        lambda: (there.mount / "new").stat(),
        lambda: os.close(os.open(there.mount / "new", os.O_RDONLY)),
        lambda: os.listdir(there.mount).index("new"),
    ]
    with (there.mount / "open").open("rb", buffering=0) as file:
        for question in questions:
            paused = registry_of(there)
            paused.send_signal(signal.SIGSTOP)
            try:
                (here.mount / "new").touch()
                wrong: list[Exception] = []

                def ask(question: Callable[[], object] = question, wrong: list[Exception] = wrong) -> None:
                    try:
                        question()
                    except (OSError, ValueError) as error:
                        wrong.append(error)

                asking = threading.Thread(target=ask, daemon=True)
                asking.start()
                began = time.monotonic()
                assert (os.fstat(file.fileno()).st_size, os.pread(file.fileno(), 9, 0)) == (4, b"data")
                os.statvfs(there.mount)
                assert time.monotonic() - began < 3, "what is open does not hang on the registry"
                asking.join(0.3)
                assert asking.is_alive(), f"answered from an old copy: {wrong}"
            finally:
                paused.send_signal(signal.SIGCONT)
            asking.join(20)
            assert (asking.is_alive(), wrong) == (False, [])
            (there.mount / "new").unlink()


def exactly_one_wins(nodes: list[Daemon]) -> None:
    """Exclusive create, mkdir, link and a rename that must not replace, from all hosts at the same moment."""
    (nodes[0].mount / "d").mkdir()
    for number in range(2 * len(nodes)):
        (nodes[0].mount / "d" / f"source{number}").touch()
    ways: list[Callable[[Path, int], None]] = [
        lambda path, _: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
        lambda path, _: path.mkdir(),
        lambda path, number: os.link(path.parent / f"source{number}", path),
        lambda path, _: path.symlink_to("somewhere"),
    ]
    for attempt in range(24):
        won: list[int] = []
        refused: list[int | None] = []
        together = threading.Barrier(2 * len(nodes))

        def take(number: int, attempt: int = attempt, won: list[int] = won, refused: list[int | None] = refused,
                 together: threading.Barrier = together) -> None:  # fmt: skip
            path = nodes[number % len(nodes)].mount / "d" / f"lock{attempt}"
            together.wait()
            try:
                ways[attempt % len(ways)](path, number)
                won.append(number)
            except OSError as error:
                refused.append(error.errno)

        threads = [threading.Thread(target=take, args=(number,)) for number in range(2 * len(nodes))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(won) == 1, f"attempt {attempt}: {won} have made one name"
        assert refused == [errno.EEXIST] * (2 * len(nodes) - 1)


def names_are_one_history_while_leaders_die(nodes: list[Daemon], chosen: random.Random) -> None:
    """A file moves between names, a lock is taken and left, from three hosts; the leading registry is killed, then paused."""
    (nodes[0].mount / "moving").mkdir()
    (nodes[0].mount / "locks").mkdir()
    (nodes[0].mount / "moving" / "0").touch()
    moves, locks = History(), History()
    stop = threading.Event()

    def move(node: Daemon, client: str, seed: int) -> None:
        drawn, top = random.Random(seed), node.mount / "moving"
        while not stop.is_set():
            at, to = drawn.sample(range(PLACES), 2)
            if drawn.random() < 0.6:
                moves.run(client, ("stat", at), lambda at=at: os.stat(top / str(at)))  # type: ignore[misc]
            else:
                moves.run(client, ("rename", at, to), lambda at=at, to=to: os.rename(top / str(at), top / str(to)))  # type: ignore[misc]

    def lock(node: Daemon, client: str, seed: int) -> None:
        drawn, path = random.Random(seed), node.mount / "locks" / "lock"
        ways: dict[str, Callable[[], object]] = {
            "make": lambda: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
            "remove": path.unlink,
            "stat": path.stat,
        }
        while not stop.is_set():
            kind = drawn.choice(list(ways))
            locks.run(client, (kind,), ways[kind])

    threads = [
        threading.Thread(target=way, args=(node, f"{way.__name__}{number}", chosen.randrange(1 << 30)), daemon=True)
        for number, node in enumerate(nodes)
        for way in (move, lock)
    ]
    for thread in threads:
        thread.start()
    for misfortune in (signal.SIGKILL, signal.SIGSTOP):
        time.sleep(LOAD_S / 3)  # load for so long; nothing is waited for
        leading = registry_of(leader_of(nodes))
        leading.send_signal(misfortune)
        if misfortune is signal.SIGSTOP:  # it still believes that it leads when it wakes
            rest = [node for node in nodes if registry_of(node).pid != leading.pid]
            wait_until(lambda rest=rest: leader_of(rest) is not None, "another leads", 20)  # type: ignore[misc]
            leading.send_signal(signal.SIGCONT)
    time.sleep(LOAD_S / 3)
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    for history, start, step in ((moves, 0, token_step), (locks, False, lock_step)):
        most = check(history.operations, start, step)
        counted = {
            outcome: sum(operation.outcome == outcome for operation in history.operations)
            for outcome in {operation.outcome for operation in history.operations}
        }
        print(f"{len(history.operations)} operations {counted}, at most {most} configurations")
        assert counted.get("done", 0) > 50
    with contextlib.suppress(FileNotFoundError):
        (nodes[0].mount / "locks" / "lock").unlink()
