"""The kernel's limit on asynchronous requests: where it stays, an operator must hear of it, once and with what follows."""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fuse import connection


def test_what_cannot_be_raised_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(number: int) -> AbstractContextManager[int]:
        raise PermissionError(errno.EPERM, "not for you")

    monkeypatch.setattr(connection, "_control", refused)
    with capture_logs() as said:
        assert connection.allow_background(7, 1000) is False
    assert [(each["event"], each["log_level"]) for each in said] == [("fuse_background_limit_stays", "warning")]
    assert "fusectl" in said[0]["remedy"]


def test_an_unprivileged_user_gets_what_he_may_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel refuses more than its module's ``max_user_bgreq`` from a user without CAP_SYS_ADMIN."""
    for name in ("max_background", "congestion_threshold"):
        (tmp_path / "7").mkdir(exist_ok=True)
        (tmp_path / "7" / name).touch()
    (tmp_path / "most").write_text("400\n")
    write = connection._write

    def no_mounting() -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def refusing(directory: int, name: str, value: int) -> None:
        if value > 400:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        write(directory, name, value)

    monkeypatch.setattr(connection, "_detached_fusectl", no_mounting)
    monkeypatch.setattr(connection, "_CONNECTIONS", tmp_path)
    monkeypatch.setattr(connection, "_UNPRIVILEGED_MAX", tmp_path / "most")
    monkeypatch.setattr(connection, "_write", refusing)
    assert connection.allow_background(7, 1000) is True
    assert (tmp_path / "7/max_background").read_text() == "400"
    assert (tmp_path / "7/congestion_threshold").read_text() == "300"


def test_a_connection_that_has_ended_is_no_puzzle() -> None:
    with capture_logs() as said:
        assert connection.allow_background(0xFFFFF, 1000) is False
    assert said[0]["event"] == "fuse_background_limit_stays"
