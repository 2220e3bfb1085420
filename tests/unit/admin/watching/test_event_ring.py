"""Events on disk: numbers go on over restarts and crashes, the oldest go first, and a full disk never stops anybody.

If this fails: what an operator is told to look at afterwards is not there, or is told in the wrong order, or a full disk under
DIR/events stops the daemon.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from admin.watching.event_ring import FILES_MAX, EventRing, stored_events
from admin.watching.event_table import EVENTS, EventTap

TOP = Path(__file__).parents[4]


def numbers(directory: Path) -> list[int]:
    return [event["number"] for event in stored_events(directory, limit=100_000)]


def test_events_are_numbered_over_restarts(tmp_path: Path) -> None:
    now = [100.0]
    for life in range(3):
        ring = EventRing(tmp_path / "events", bytes_max=1 << 20, clock=lambda: now[0])
        assert ring.last == 2 * life
        for _ in range(2):
            now[0] += 10
            ring.record("volume_opened", "info", {"epoch": life})
    found = ring.read()
    assert [event["number"] for event in found] == [1, 2, 3, 4, 5, 6]
    assert [event["epoch"] for event in found] == [0, 0, 1, 1, 2, 2]
    assert [event["number"] for event in ring.read(after=4)] == [5, 6]
    assert [event["number"] for event in ring.read(since=130.0, limit=3)] == [4, 5, 6]
    assert ring.read(after=6) == []


def test_a_line_that_a_crash_cut_is_dropped(tmp_path: Path) -> None:
    ring = EventRing(tmp_path, bytes_max=1 << 20)
    for _ in range(3):
        ring.record("writers_wait", "info", {})
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines(keepends=True)[-1])):
        path.write_bytes(whole[:-cut])
        again = EventRing(tmp_path, bytes_max=1 << 20)
        kept = 3 if cut == 1 else 2  # without its newline the line is still whole
        assert again.last == kept
    again.record("writers_go_on", "info", {})
    assert [(event["number"], event["event"]) for event in again.read()] == [
        (1, "writers_wait"),
        (2, "writers_wait"),
        (3, "writers_go_on"),
    ]


def test_a_file_without_a_whole_line_is_begun_anew(tmp_path: Path) -> None:
    EventRing(tmp_path, bytes_max=1 << 20).record("writers_wait", "info", {})
    (path,) = tmp_path.iterdir()
    path.write_bytes(b'{"numb')
    ring = EventRing(tmp_path, bytes_max=1 << 20)
    assert ring.record("writers_go_on", "info", {}) == 1
    assert numbers(tmp_path) == [1]


def test_the_oldest_go_first(tmp_path: Path) -> None:
    ring = EventRing(tmp_path, bytes_max=64 << 10)
    for _ in range(3000):
        ring.record("backend_write_waits", "warning", {"reason": "x" * 50})
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 64 << 10
    kept = numbers(tmp_path)
    assert kept == list(range(kept[0], 3001))
    assert len(kept) > 250


def test_many_short_lives_do_not_fill_the_directory(tmp_path: Path) -> None:
    for _ in range(FILES_MAX + 20):
        EventRing(tmp_path, bytes_max=1 << 20).record("daemon_starting", "info", {})
    assert len(list(tmp_path.iterdir())) == FILES_MAX
    assert numbers(tmp_path) == list(range(21, FILES_MAX + 21))


def test_a_disk_that_takes_no_more_costs_events_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = EventRing(tmp_path, bytes_max=1 << 20)
    ring.record("daemon_starting", "info", {})

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        ring.record("writers_wait", "info", {})
        ring.record("writers_wait", "info", {})
    assert (ring.lost, ring.last) == (2, 3)
    assert "No space left" in ring.problem
    ring.record("writers_go_on", "info", {})
    assert ring.problem == ""
    assert numbers(tmp_path) == [1, 4]  # the gap says that something is missing


def test_odd_values_are_kept_readable(tmp_path: Path) -> None:
    ring = EventRing(tmp_path, bytes_max=1 << 20)
    odd = {"number": 99, "path": "a\udcff.raw", "rate": float("nan"), "nested": {"a": (1, 2)}, "long": "x" * 5000, "no": None}
    ring.record("volume_opened", "info", odd)
    (event,) = ring.read()
    assert event["number"] == 1
    assert event["path"] == "a\udcff.raw"
    assert event["rate"] == "nan"
    assert event["nested"] == {"a": "(1, 2)"}
    assert len(event["long"]) == 1000
    assert event["no"] is None


def test_the_tap_hands_on_events_and_nothing_else(tmp_path: Path) -> None:
    tap, seen = EventTap(), []
    line = {"event": "daemon_starting", "version": "1"}
    assert tap(None, "info", line) is line
    tap.attach(lambda name, level, fields: seen.append((name, level, fields)))
    tap(None, "debug", {"event": "read_ahead_missed"})
    tap(None, "warning", {"event": "writers_wait", "level": "warning", "object": "x"})
    assert seen == [("daemon_starting", "info", {"version": "1"}), ("writers_wait", "warning", {"object": "x"})]


def test_every_event_of_the_table_is_said_somewhere() -> None:
    rooms = ("admin", "backend", "filedriver", "fuse", "objectrouter", "recovery", "registry", "volumedriver", "vpool")
    said: set[str] = set()
    for room in rooms:
        for path in (TOP / room).rglob("*.py"):
            if path.name != "event_table.py":
                said |= set(re.findall(r'log\.(?:info|warning|error)\(\s*"(\w+)"', path.read_text(encoding="utf-8")))
    assert EVENTS.keys() <= said, EVENTS.keys() - said
