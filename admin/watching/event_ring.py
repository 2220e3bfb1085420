"""Events on disk: numbered, in order, bounded, and still there after a restart.

``DIR/events`` has a few files, each named after the number of its first event; when there are too many the oldest goes. A line is
one event as JSON. They are written without a sync: a killed daemon loses none, a power cut may lose the last ones. A disk that
takes no more costs events, never service: they are counted as lost, and their numbers stay unused. A line that a crash has cut is
dropped.

Concurrency: ``record`` may be called in any thread (it takes a lock and writes one line); ``read`` looks at the files only.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FILES = 8  # that the bytes are shared by
FILES_MAX = 64  # each start begins one
TEXT_MAX = 1000  # characters of one field
SUFFIX = ".jsonl"

Event = dict[str, Any]


class EventRing:
    """The events of one DIR; one daemon at a time (DIR's lock sees to that)."""

    def __init__(self, directory: Path, *, bytes_max: int, clock: Callable[[], float] = time.time) -> None:
        """Find what is there; nothing is written yet, and what cannot be read is passed over."""
        self.directory = directory
        self.lost = 0  # since the start
        self.problem = ""  # why the last one could not be kept; empty if it was
        self._bytes_max = bytes_max
        self._file_bytes = bytes_max // FILES
        self._clock = clock
        self._lock = threading.Lock()
        self._file: int | None = None
        self._written = 0
        self._listeners: list[Callable[[], None]] = []
        self.last = _last_number(directory)

    def record(self, name: str, level: str, fields: dict[str, Any]) -> int:
        """Number an event and write it down; returns its number. Never raises: an event that cannot be kept is lost."""
        with self._lock:
            self.last += 1
            number = self.last
            line = _line(number, self._clock(), name, level, fields)
            try:
                self._append(number, line)
                self.problem = ""
            except OSError as error:
                self.lost += 1
                self.problem = str(error)
                self._close()
        for listener in list(self._listeners):
            listener()
        return number

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` (quick, any thread) after each event; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def read(self, *, after: int = 0, since: float = 0.0, limit: int = 1000) -> list[Event]:
        """See ``stored_events``; blocks."""
        return stored_events(self.directory, after=after, since=since, limit=limit)

    def close(self) -> None:
        """Let go of the file; a later event opens one again."""
        with self._lock:
            self._close()

    def _append(self, number: int, line: bytes) -> None:
        if self._file is None or self._written + len(line) > self._file_bytes:
            self._begin_file(number)
        assert self._file is not None
        written = os.write(self._file, line)
        self._written += written
        if written < len(line):
            raise OSError(f"only {written} of {len(line)} bytes were written")

    def _begin_file(self, number: int) -> None:
        self._close()
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self._make_room()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC  # what is there had no whole line
        self._file = os.open(self.directory / f"{number:020}{SUFFIX}", flags, 0o600)
        self._written = 0

    def _make_room(self) -> None:
        """Remove the oldest files until a further one may be as large as any."""
        files = _files(self.directory)
        held = sum(path.stat().st_size for path in files)
        while files and (held > self._bytes_max - self._file_bytes or len(files) >= FILES_MAX):
            oldest = files.pop(0)
            held -= oldest.stat().st_size
            oldest.unlink()

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None


def stored_events(directory: Path, *, after: int = 0, since: float = 0.0, limit: int = 1000) -> list[Event]:
    """The newest ``limit`` events behind number ``after`` and not older than ``since`` (unix time), oldest first.

    Each has ``number``, ``at``, ``event``, ``level``, and the fields that were given. Also for a DIR whose daemon does not run.
    """
    found: list[Event] = []
    for path in reversed(_files(directory)):
        events = [event for event in _events(path) if event["number"] > after and event["at"] >= since]
        found = events + found
        if len(found) >= limit or _first(path) <= after:
            break
    return found[-limit:] if limit else []


def _line(number: int, at: float, name: str, level: str, fields: dict[str, Any]) -> bytes:
    event = {"number": number, "at": round(at, 3), "event": name, "level": level}
    event |= {key: _plain(value) for key, value in fields.items() if key not in event}
    return json.dumps(event).encode("ascii") + b"\n"


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)[:TEXT_MAX]


def _files(directory: Path) -> list[Path]:
    """Oldest first."""
    with contextlib.suppress(OSError):
        return sorted(path for path in directory.iterdir() if path.suffix == SUFFIX and path.stem.isdecimal())
    return []


def _first(path: Path) -> int:
    return int(path.stem)


def _events(path: Path) -> Iterator[Event]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return  # it was the oldest and has gone meanwhile
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("number"), int) and isinstance(event.get("at"), int | float):
            yield event


def _last_number(directory: Path) -> int:
    for path in reversed(_files(directory)):
        return max((event["number"] for event in _events(path)), default=_first(path) - 1)
    return 0
