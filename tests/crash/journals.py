"""Plain files under crashes: appended to, synced and put in each other's place, as editors and databases do.

One thread works on a few names of one directory. Each file has a number of its own, which is part of the units of its history: so
its content shows whose it is, whatever its name. Content goes through a history, as a volume's does. Of the names it is known
which request was the last, so after a crash they are as before that request or as after it.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.history import UNIT_BYTES, History, Violation
from tests.crash.stamp import GONE, Signature, close_of_gone, read_stamps, stamped, write_whole

NAMES = ("journal.log", "state.db", "notes.txt")
FILE_UNITS = 1 << 20  # units of one file in the history
FILE_UNITS_MAX = 2048
APPEND_UNITS_MAX = 24


@dataclass(slots=True)
class File:
    """A file by its number; ``end`` is where the next append goes, ``written`` the furthest that any ever went, in units."""

    number: int
    end: int = 0
    written: int = 0

    @property
    def key(self) -> int:
        return self.number * FILE_UNITS

    @property
    def units(self) -> range:
        return range(self.key, self.key + FILE_UNITS_MAX + APPEND_UNITS_MAX)


@dataclass(slots=True)
class Journals:
    """The files of one directory, over all rounds; ``work`` runs in a thread, ``check`` when the daemon is back."""

    directory: Path
    seed: int
    history: History = field(default_factory=History)
    errors: list[Exception] = field(default_factory=list)
    appends: int = 0
    fsyncs: int = 0
    renames: int = 0
    _names: dict[str, File] = field(default_factory=dict)
    _after: dict[str, File] | None = None  # the names as they are if the request under way is done
    _count: int = 0

    def work(self, round_number: int, stop: threading.Event) -> None:
        """Append, sync and replace until told to stop or the daemon is gone."""
        dice = random.Random(f"{self.seed}/{round_number}/files")
        try:
            while not stop.is_set():
                name = dice.choice(NAMES)
                file = self._names.get(name)
                if file is None or file.end >= FILE_UNITS_MAX or dice.random() < 0.05:
                    self._replace(name, round_number, dice)
                else:
                    self._append_some(self.directory / name, file, round_number, dice)
        except OSError as error:
            if error.errno not in GONE and not (error.errno == errno.ENOENT and not self.directory.exists()):
                self.errors.append(error)

    def check(self, *, cache_lost: bool) -> int:
        """Compare names and contents with what was done, and go on from there; returns how many units were read. Violation."""
        self._check_names()
        seen: dict[int, int] = {}
        units: list[int] = []
        for name, file in self._names.items():
            size = (self.directory / name).stat().st_size
            if size % UNIT_BYTES or size > file.written * UNIT_BYTES:
                raise Violation(f"{name} (file {file.number}) has {size} bytes; at most {file.written} units were appended")
            if size < file.end * UNIT_BYTES and not cache_lost:
                raise Violation(f"{name} (file {file.number}) has {size} bytes, but {file.end} units were acknowledged")
            seen |= read_stamps(self.directory / name, 0, file.written, self.seed, key=file.key)
            units += range(file.key, file.key + file.written)
            if size != (now := (self.directory / name).stat().st_size):
                raise Violation(f"{name} (file {file.number}) had {size} bytes before it was opened, and {now} after")
            file.end = size // UNIT_BYTES
        self.history.judge(seen, units, cache_lost=cache_lost)
        self.history.settle(seen, units)
        self._remove_unfinished()
        return len(units)

    def _append_some(self, path: Path, file: File, round_number: int, dice: random.Random) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            for _ in range(dice.randrange(1, 8)):
                self._append(fd, file, round_number, dice)
            if dice.random() < 0.5:
                os.fsync(fd)
                self.fsyncs += 1
        finally:
            close_of_gone(fd)

    def _append(self, fd: int, file: File, round_number: int, dice: random.Random) -> None:
        count = dice.randrange(1, APPEND_UNITS_MAX + 1)
        first = file.key + file.end
        write = self.history.issue(first, count)
        assert write is not None, "one thread alone appends"
        file.written = max(file.written, file.end + count)
        try:
            write_whole(fd, stamped(Signature(self.seed, round_number, 0), write.sequence, first, count))
        except OSError:
            self.history.refuse(write)
            raise
        self.history.acknowledge(write)
        file.end += count
        self.appends += 1

    def _replace(self, name: str, round_number: int, dice: random.Random) -> None:
        """A new file under another name, filled, synced, renamed over the old one."""
        self._count += 1
        new, temporary = File(self._count), f"{name}.new"
        self._after = {**self._names, temporary: new}
        fd = os.open(self.directory / temporary, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self._done()
        try:
            for _ in range(dice.randrange(0, 4)):
                self._append(fd, new, round_number, dice)
            os.fsync(fd)
        finally:
            close_of_gone(fd)
        self._after = {key: file for key, file in self._names.items() if key != temporary} | {name: new}
        os.rename(self.directory / temporary, self.directory / name)
        self._done()
        self.renames += 1

    def _done(self) -> None:
        assert self._after is not None
        gone = {file.number: file for file in self._names.values()}
        self._names, self._after = self._after, None
        for file in self._names.values():
            gone.pop(file.number, None)
        for file in gone.values():
            self.history.forget(file.units)

    def _check_names(self) -> None:
        there = set(os.listdir(self.directory))
        possible = [self._names] if self._after is None else [self._names, self._after]
        fitting = [names for names in possible if set(names) == there]
        if not fitting:
            expected = " or ".join(str(sorted(names)) for names in possible)
            raise Violation(f"{self.directory.name} has {sorted(there)}, expected {expected}")
        self._after = fitting[-1]
        self._done()

    def _remove_unfinished(self) -> None:
        for name in [name for name in self._names if name.endswith(".new")]:
            self._after = {key: file for key, file in self._names.items() if key != name}
            os.unlink(self.directory / name)
            self._done()
