"""A disk is dead when it refuses again and again; not when full, not for one error. If not: a node gives way for nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vpool.disk_watch import REFUSALS, DiskWatch, refusal


def test_one_refusal_is_not_a_death(tmp_path: Path) -> None:
    watch = DiskWatch(tmp_path, lambda: True)
    for _ in range(REFUSALS - 1):
        watch.found("Input/output error")
    watch.found("")
    for _ in range(REFUSALS - 1):
        watch.found("Input/output error")
    seen = [watch.is_dead]
    for reason in ("Input/output error", ""):  # it is looked at again: a cable may have been put back
        watch.found(reason)
        seen.append(watch.is_dead)
    assert seen == [False, True, False]


def test_a_good_disk_and_a_full_one_do_not_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []
    for code, told in ((errno.ENOSPC, ""), (errno.EIO, os.strerror(errno.EIO)), (errno.EROFS, os.strerror(errno.EROFS))):

        def fail(descriptor: int, code: int = code) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fail)
        assert refusal(tmp_path) == told
