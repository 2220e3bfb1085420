"""The log: a daemon that cannot write it goes on; what the journal gets has its priority; files stay within their limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vpool.errors import Denied
from vpool.log_file import RotatedFile
from vpool.logs import is_journal

SAY = """
import logging, structlog
from vpool.logs import set_up_logs
from vpool.settings import LogSettings
set_up_logs(LogSettings(**{settings!r}))
log = structlog.get_logger()
log.info("began", path="a b")
log.warning("odd", count=3)
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broke")
logging.getLogger("somebody").warning("said %s", "this")
"""


def lines_in(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_a_full_file_is_renamed_and_only_so_many_are_kept(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "log", 100, 3)
    for number in range(100):
        file.write(f"line {number:03d}\n")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["log", "log.1", "log.2"]
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    kept = [line for name in ("log.2", "log.1", "log") for line in lines_in(tmp_path / name)]
    assert kept == [f"line {number:03d}" for number in range(100 - len(kept), 100)]
    assert len(kept) > 20


def test_a_single_file_begins_anew(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "log", 20, 1)
    for number in range(5):
        file.write(f"line {number:03d}\n")
    assert lines_in(tmp_path / "log") == ["line 004"]
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_file_that_was_moved_away_is_made_again(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "log", 1000, 3)
    file.write("first\n")
    (tmp_path / "log").rename(tmp_path / "taken")
    file.write("second\n")
    assert lines_in(tmp_path / "taken") == ["first"]
    assert lines_in(tmp_path / "log") == ["second"]


def test_lines_that_a_full_disk_refuses_are_counted_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RotatedFile(tmp_path / "log", 1000, 3)
    file.write("first\n")
    write = os.write

    def full(descriptor: int, data: memoryview) -> int:
        write(descriptor, bytes(data)[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vpool.log_file.os.write", full)
    file.write("lost\n")
    file.write("lost too\n")
    monkeypatch.setattr("vpool.log_file.os.write", write)
    file.write("last\n")
    first, told, last = lines_in(tmp_path / "log")
    assert (first, last) == ("first", "last")
    assert json.loads(told) == {"event": "log_lines_lost", "level": "warning", "count": 2}


def test_a_file_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Denied, match=r"log\.file .*none/log cannot be made"):
        RotatedFile(tmp_path / "none/log", 1000, 3)


def said(tmp_path: Path, settings: dict[str, object], *, journal: bool = False) -> list[str]:
    path = tmp_path / "stderr"
    with path.open("wb") as stderr:
        status = os.fstat(stderr.fileno())
        stream = f"{status.st_dev}:{status.st_ino}" if journal else "1:1"
        subprocess.run(
            [sys.executable, "-c", SAY.format(settings=settings)],
            stderr=stderr,
            check=True,
            env={**os.environ, "JOURNAL_STREAM": stream},
            timeout=60,
        )
    return lines_in(path)


def test_the_journal_gets_one_line_per_event_with_its_priority(tmp_path: Path) -> None:
    began, odd, broke, library = said(tmp_path, {}, journal=True)
    assert began == '<6>event=began path="a b" level=info'
    assert odd == "<4>event=odd count=3 level=warning"
    assert broke.startswith("<3>event=broke level=error exception=")
    assert "ZeroDivisionError" in broke
    assert library.startswith("<4>event=library_message")
    assert "said this" in library


def test_json_in_the_journal_has_priorities_too(tmp_path: Path) -> None:
    began = said(tmp_path, {"format": "json"}, journal=True)[0]
    assert began.startswith("<6>{")
    assert json.loads(began[3:])["event"] == "began"


def test_elsewhere_lines_are_json_with_their_time(tmp_path: Path) -> None:
    entries = [json.loads(line) for line in said(tmp_path, {})]
    assert [entry["event"] for entry in entries] == ["began", "odd", "broke", "library_message"]
    assert all("timestamp" in entry for entry in entries)


def test_a_file_gets_everything_and_standard_error_nothing(tmp_path: Path) -> None:
    assert said(tmp_path, {"file": str(tmp_path / "vpool.log")}, journal=True) == []
    events = [json.loads(line)["event"] for line in lines_in(tmp_path / "vpool.log")]
    assert events == ["began", "odd", "broke", "library_message"]
    assert (tmp_path / "vpool.log").stat().st_mode & 0o777 == 0o640


def test_a_descriptor_is_the_journal_only_if_it_is_the_one_that_was_named(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as file:
        status = os.fstat(file.fileno())
        assert is_journal(file.fileno(), {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not is_journal(file.fileno(), {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        assert not is_journal(file.fileno(), {})
