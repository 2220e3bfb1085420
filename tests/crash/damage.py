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

from tests.crash.regions import Region, regions

EACH_OF_MANY = defaultdict(lambda: 6, value=40)  # values of the local map: of all its databases
OBJECT_KINDS = ("sco", "tlog", "map", "namespace")
CHILD_S = 60.0
SIDE_BY_SIDE = 2


@dataclass(frozen=True, slots=True)
class Damage:
    """One byte flipped, or everything from an offset on cut off."""

    path: str  # relative to the directory
    cut: bool
    offset: int
    flip: int = 0xFF  # bits that change
    part: str = ""  # of the file, and the field there: see ``regions``
    field: str = ""

    @property
    def kind(self) -> str:
        """What sort of file it is, for the table."""
        parts = Path(self.path).parts
        if parts[0] == "backend":
            return f"object {next((part for part in parts if part in OBJECT_KINDS), parts[-1])}"
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
        what = f"cut to {self.offset}" if self.cut else f"flip {self.flip:#x} at {self.offset}"
        return f"{self.path} ({self.part} {self.field}) {what}"


def every_damage(directory: Path, paths: Iterable[Path], chance: random.Random) -> Iterator[Damage]:
    """Of each file: a flip in each field that its format has, wherever chance finds one, and a cut where each part begins.

    Pages of a database and slots of the read cache are of few kinds, and many: there a field is hit in ``EACH_OF_MANY`` of them.
    """
    for path in paths:
        data = path.read_bytes()
        if not data:
            continue
        name = str(path.relative_to(directory))
        kind = Damage(name, False, 0).kind
        by_field: defaultdict[tuple[str, str], list[Region]] = defaultdict(list)
        for region in regions(kind, data):
            by_field[region.part, region.name].append(region)
        many = kind.endswith((".mdb", ".tree")) or kind.startswith("cache/read")
        for (part, field), places in by_field.items():
            for region in chance.sample(places, min(len(places), EACH_OF_MANY[part] if many else 1)):
                yield Damage(name, False, chance.randrange(region.start, region.end), 1 << chance.randrange(8), part, field)
        cuts = {len(data) - 1: ("end", "last byte"), len(data) // 2: ("middle", "")}
        cuts |= {chance.choice(places).start: (part, field) for (part, field), places in reversed(by_field.items())}
        parts_seen: set[str] = set()
        for offset, (part, field) in cuts.items():
            if part not in parts_seen:
                yield Damage(name, True, offset, 0, part, field)
            parts_seen.add(part)


def sample_of(damages: Iterable[Damage], chance: random.Random, *, flips: int, cuts: int) -> list[Damage]:
    """So many flips and cuts of each file."""
    by_file: defaultdict[tuple[str, bool], list[Damage]] = defaultdict(list)
    for damage in damages:
        by_file[damage.path, damage.cut].append(damage)
    return [
        damage for (_, cut), found in by_file.items() for damage in chance.sample(found, min(len(found), cuts if cut else flips))
    ]


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
        self._counts[f"{damage.kind} {'cut' if damage.cut else f'flip: {damage.part}'}"][outcome] += 1
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
