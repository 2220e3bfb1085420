"""What systemd is told: a message that is lost or goes to the wrong place would get a healthy daemon killed."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import trio
from trio.testing import MockClock

from vpool.service_manager import EXTEND_EVERY_S, ServiceManager


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@vpool-test-{uuid.uuid4().hex}"


@pytest.fixture
def listener(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        made.settimeout(5)
        yield made


def test_messages_arrive(address: str, listener: socket.socket) -> None:
    manager = ServiceManager(address)
    manager.ready("serving")
    assert listener.recv(4096) == b"READY=1\nSTATUS=serving"
    manager.alive()
    assert listener.recv(4096) == b"WATCHDOG=1"
    manager.stopping(1.5)
    assert listener.recv(4096).splitlines()[::2] == [b"STOPPING=1", b"EXTEND_TIMEOUT_USEC=1500000"]


async def test_a_start_asks_for_more_time_until_it_is_over(
    address: str, listener: socket.socket, autojump_clock: MockClock
) -> None:
    manager = ServiceManager(address)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(manager.extend_start)
        await trio.sleep(2.5 * EXTEND_EVERY_S)
        manager.ready("serving")
    told = [listener.recv(4096).split(b"=")[0] for _ in range(4)]
    assert told == [b"EXTEND_TIMEOUT_USEC"] * 3 + [b"READY"]


@pytest.mark.parametrize(
    ("variables", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_environment_is_read_and_not_handed_on(variables: dict[str, str], watchdog_s: float | None) -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere", "PATH": "/bin", **variables}
    assert ServiceManager.from_environment(environment).watchdog_s == watchdog_s
    assert environment == {"PATH": "/bin"}


def test_without_a_manager_nothing_is_watched() -> None:
    assert ServiceManager.from_environment({"WATCHDOG_USEC": "3000000"}).watchdog_s is None
    ServiceManager().ready("nobody listens")


def test_a_manager_that_is_not_there_is_said_once_and_harms_nobody(tmp_path: Path) -> None:
    manager = ServiceManager(str(tmp_path / "nobody"))
    with structlog.testing.capture_logs() as said:
        manager.ready("serving")
        manager.alive()
    assert [entry["event"] for entry in said] == ["service_manager_not_told"]
