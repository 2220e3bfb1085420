"""The files' load and check, on a directory of this host that loses nothing, and on one that is made to."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.crash.history import UNIT_BYTES, Violation
from tests.crash.journals import Journals
from tests.mounted_pool import wait_until


def worked(directory: Path, *, rounds: int = 3) -> Journals:
    journals = Journals(directory, seed=5)
    for number in range(rounds):
        stop, before = threading.Event(), journals.appends
        thread = threading.Thread(target=journals.work, args=(number, stop))
        thread.start()
        wait_until(lambda before=before: journals.appends > before + 100, "100 appends", 30)  # type: ignore[misc]
        stop.set()
        thread.join()
        journals.check(cache_lost=False)
    assert not journals.errors
    assert journals.renames > 3
    assert journals.fsyncs > 3
    return journals


def test_an_honest_directory_is_found_right(tmp_path: Path) -> None:
    assert worked(tmp_path).check(cache_lost=False) > 100


def test_a_lost_end_is_found(tmp_path: Path) -> None:
    journals = worked(tmp_path)
    largest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size - UNIT_BYTES)
    with pytest.raises(Violation, match="units were acknowledged"):
        journals.check(cache_lost=False)


def test_a_hole_is_found(tmp_path: Path) -> None:
    journals = worked(tmp_path)
    with max(tmp_path.iterdir(), key=lambda path: path.stat().st_size).open("r+b") as file:
        file.write(bytes(UNIT_BYTES))
    for cache_lost in (False, True):
        with pytest.raises(Violation):
            journals.check(cache_lost=cache_lost)


def test_a_lost_rename_is_found(tmp_path: Path) -> None:
    journals = worked(tmp_path)
    next(tmp_path.iterdir()).rename(tmp_path / "journal.log.new")
    with pytest.raises(Violation, match="expected"):
        journals.check(cache_lost=True)


def test_an_exchanged_content_is_found(tmp_path: Path) -> None:
    journals = worked(tmp_path)
    one, other, *_ = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_size, reverse=True)
    other.write_bytes(one.read_bytes()[: other.stat().st_size])
    with pytest.raises(Violation, match="has the content of unit"):
        journals.check(cache_lost=True)
