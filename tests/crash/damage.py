"""Damage to files, and processes of their own that look what becomes of it: a crash must not take the test along."""

from __future__ import annotations

import os
import pickle
import random
import selectors
import signal
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHILD_S = 60.0
SIDE_BY_SIDE = 2


@dataclass(frozen=True, slots=True)
class Damage:
    """One byte flipped, or everything from an offset on cut off."""

    path: str  # relative to the directory
    cut: bool
    offset: int
    flip: int = 0xFF  # bits that change

    @property
    def kind(self) -> str:
        """What sort of file it is, for the table."""
        parts = Path(self.path).parts
        if parts[0] == "backend":
            return "object " + (parts[2] if len(parts) > 2 else parts[-1])
        return "/".join(parts[:2]) if parts[:2] == ("cache", "log") else "/".join(parts)

    def apply(self, directory: Path) -> None:
        """Do it."""
        with (directory / self.path).open("r+b") as file:
            if self.cut:
                file.truncate(self.offset)
                return
            file.seek(self.offset)
            old = file.read(1)
            file.seek(self.offset)
            file.write(bytes([old[0] ^ self.flip]))

    def __str__(self) -> str:
        return f"{self.path} {'cut to' if self.cut else f'flip {self.flip:#x} at'} {self.offset}"


def damages(directory: Path, paths: Iterable[Path], chance: random.Random, *, flips: int, cuts: int) -> Iterator[Damage]:
    """Flips and cuts of each file: some at the edges, where headers and trailers are, the rest anywhere that is not a hole."""
    for path in paths:
        size = path.stat().st_size
        if size == 0:
            continue
        name = str(path.relative_to(directory))
        written = used(path)
        edges = [0, 8, 12, 16, 24, 33, 40, 48, 56, 120, 4096, 4100, 4107, 4120, 4136, 4144, 65536, size - 1, size - 8, size - 20]
        some = chance.sample(edges, min(len(edges), flips // 2)) + [written[chance.randrange(len(written))] for _ in range(flips)]
        for offset in [o for o in some if 0 <= o < size][:flips]:
            yield Damage(name, False, offset, 1 << chance.randrange(8))
        for offset in chance.sample(
            [0, size // 2, size - 1, max(0, size - 4096), min(size - 1, 4096), chance.randrange(size)], min(cuts, 6)
        ):
            yield Damage(name, True, offset)


def used(path: Path) -> list[int]:
    """Offsets of bytes that mean something: one per 64 that are not all zeros (a pre-written file is mostly nothing)."""
    data = path.read_bytes()
    found = [at for at in range(0, len(data), 64) if data[at : at + 64].count(0) != len(data[at : at + 64])]
    return found or [0]


def in_child(work: Callable[[Callable[[Any], None]], None]) -> Any:
    """Run ``work(answer)`` in a forked process, which ends at once when it has answered; what it answered.

    A process that dies without an answer gives an exception that says how.
    """
    return next(iter(in_children([work])))


def in_children(works: Iterable[Callable[[Callable[[Any], None]], None]]) -> Iterator[Any]:
    """The same for many, a few side by side; answers in the order of the works. Exceptions are among the answers."""
    waiting, answers, emitted = iter(list(works)), {}, 0
    running: dict[int, tuple[int, int, bytearray, float]] = {}  # descriptor -> index, pid, what came, deadline
    started = 0
    with selectors.DefaultSelector() as selector:
        try:
            while True:
                while len(running) < SIDE_BY_SIDE and (work := next(waiting, None)) is not None:
                    descriptor, pid = _fork(work)
                    running[descriptor] = (started, pid, bytearray(), time.monotonic() + CHILD_S)
                    selector.register(descriptor, selectors.EVENT_READ)
                    started += 1
                if not running and emitted == started:
                    return
                for key, _ in selector.select(1.0):
                    index, pid, data, _ = running[key.fd]
                    chunk = os.read(key.fd, 1 << 20)
                    data += chunk
                    if not chunk:
                        selector.unregister(key.fd)
                        os.close(key.fd)
                        del running[key.fd]
                        answers[index] = _answer(pid, bytes(data))
                for _, pid, _, deadline in running.values():
                    if time.monotonic() > deadline:
                        os.kill(pid, signal.SIGKILL)
                while emitted in answers:
                    yield answers.pop(emitted)
                    emitted += 1
        finally:
            for descriptor, (_, pid, _, _) in running.items():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                os.close(descriptor)


def _fork(work: Callable[[Callable[[Any], None]], None]) -> tuple[int, int]:
    readable, writable = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writable)
        return readable, pid

    def answer(value: Any) -> None:
        data = memoryview(pickle.dumps(value))
        while data:
            data = data[os.write(writable, data) :]
        os._exit(0)  # nothing is closed, as by kill -9

    try:
        work(answer)
    except BaseException:
        answer(RuntimeError(traceback.format_exc()))
    os._exit(1)


def _answer(pid: int, data: bytes) -> Any:
    _, status = os.waitpid(pid, 0)
    if data and status == 0:
        return pickle.loads(data)
    name = (
        signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit code {os.waitstatus_to_exitcode(status)}"
    )
    return RuntimeError(f"the process died: {name}")


class Matrix:
    """How many damages of each kind of file had which outcome."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.wrong: list[str] = []

    def add(self, damage: Damage, outcome: str, detail: str = "") -> None:
        """Note an outcome; those in capitals are failures."""
        self._counts[f"{damage.kind} {'cut' if damage.cut else 'flip'}"][outcome] += 1
        if outcome.isupper():
            self.wrong.append(f"{outcome}: {damage}: {detail}")

    def __str__(self) -> str:
        outcomes = sorted({outcome for counts in self._counts.values() for outcome in counts})
        width = max(map(len, self._counts), default=0)
        lines = [" " * width + "".join(f"{outcome:>16}" for outcome in outcomes)]
        lines += [
            f"{kind:{width}}" + "".join(f"{counts[o]:16}" for o in outcomes) for kind, counts in sorted(self._counts.items())
        ]
        return "\n".join(lines)
