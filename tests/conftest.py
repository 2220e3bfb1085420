"""Fixtures for all tests: places, the real daemon, and the rule that a daemon says nothing unexpected."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted_pool import MountedPool

pytest_plugins = ["tests.swift_server"]

SMALL_CACHE = {
    "VPOOL_CACHE__SIZE_BYTES": "512MiB",
    "VPOOL_VOLUMES__SOFT_BYTES": "128MiB",
    "VPOOL_VOLUMES__HARD_BYTES": "256MiB",
    "VPOOL_VOLUMES__TLOG_AGE_S": "1",
}
LEVELS_OF_CONCERN = {"warning", "error", "critical"}


def pytest_configure() -> None:
    """A shell has the jobs that it starts in the background ignore Ctrl-C, and so would all commands that tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where nothing can be mounted, tests that mount are skipped, and say so."""
    if os.path.exists("/dev/fuse") and os.access("/dev/fuse", os.R_OK | os.W_OK):
        return
    for item in items:
        if item.get_closest_marker("mount"):
            item.add_marker(pytest.mark.skip(reason="/dev/fuse cannot be used here"))


def unexpected_lines(log: str, expected: set[str]) -> list[str]:
    """Lines of a daemon's JSON log that somebody should look at: warnings and worse, and what is not JSON."""
    found = []
    for line in log.splitlines():
        if line.startswith("vpool ready: "):
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            found.append(line)
            continue
        if entry.get("level") in LEVELS_OF_CONCERN and entry.get("event") not in expected:
            found.append(line)
    return found


@pytest.fixture(autouse=True)
def runtime_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Daemons of tests are found by commands of the same test only."""
    path = tmp_path_factory.mktemp("runtime")
    monkeypatch.setenv("VPOOL_RUNTIME_DIR", str(path))
    return path


@pytest.fixture
def free_port() -> int:
    """A TCP port on loopback that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


PoolMaker = Callable[..., MountedPool]


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[PoolMaker]:
    """Starts real daemons with a small cache; none and no mount is left, and their logs have nothing unexpected.

    ``make_pool(name="pool", backend=None, environment={}, expected={...})``; ``expected``: events of level warning or worse.
    """
    pools: list[tuple[MountedPool, set[str]]] = []

    def make(
        name: str = "pool",
        *,
        backend: str | None = None,
        environment: dict[str, str] | None = None,
        expected: set[str] | None = None,
    ) -> MountedPool:
        pool = MountedPool(
            tmp_path / name, tmp_path / f"{name}-mount", backend=backend, environment={**SMALL_CACHE, **(environment or {})}
        )
        pools.append((pool, expected or set()))
        return pool.__enter__()

    yield make
    problems: list[str] = []
    for pool, _ in pools:
        pool.close()
    for pool, expected in pools:
        if pool.log.exists():
            problems += unexpected_lines(pool.log.read_text(encoding="utf-8", errors="replace"), expected)
    assert not problems, "unexpected in the daemon's log:\n" + "\n".join(problems)


@pytest.fixture
def pool(make_pool: PoolMaker) -> MountedPool:
    """One running vPool on the embedded backend."""
    return make_pool()
