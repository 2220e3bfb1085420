"""``python -m tests.crash.steps DIR OPERATION STEP``: one change of the namespace, killed at one of its steps.

A step is what the parts below the router are asked for: a command of the registry, a write, zero or flush of a log. The process
kills itself and the registry (its process group) before step STEP, or at the end if there are fewer; ``0`` only tells how many.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from backend import open_store
from objectrouter import ROOT_INODE, ObjectRouter, settler
from tests.parts import SMALL, Parts, running

OLD, OTHER, NEW = b"A" * 10_000, b"B" * 9_000, b"N" * 7_000
# Nothing goes to the backend by itself: what it has is what ``prepare`` has sent.
SETTINGS = replace(SMALL, tlog_age_s=3600.0, stop_s=0.0)


async def prepare(directory: Path) -> None:
    """Two files, in the backend too, and a free address."""
    async with started(directory) as parts:
        for name, content in (("gone", b"G" * 5_000), ("old", OLD), ("other", OTHER)):
            await write_file(parts.router, name, content)
        await parts.router.make_directory(ROOT_INODE, "dir", mode=0o755, uid=0, gid=0)
        await parts.router.unlink(ROOT_INODE, "gone")
        await reaped(parts)
        await parts.volumes.drain(parts.files.log_id)


def started(directory: Path) -> Any:
    """The parts, on an embedded store."""
    return _Started(directory)


class _Started:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def __aenter__(self) -> Parts:
        self._store = await open_store(f"dir:{self._directory}/backend")
        self._running = running(self._directory, self._store, settings=SETTINGS)
        return await self._running.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        await self._running.__aexit__(*error)
        await self._store.aclose()


async def write_file(router: ObjectRouter, name: str, content: bytes) -> int:
    """A new file; closed."""
    inode = (await router.create(ROOT_INODE, name, mode=0o600, uid=0, gid=0, opened=True)).number
    await router.write(inode, 0, content)
    await router.release(inode)
    return inode


async def reaped(parts: Parts) -> None:
    """Until nothing without a name is left."""
    with trio.fail_after(60):
        while parts.registry.view.orphan_files(parts.files.log_id):
            await trio.sleep(0.02)


async def create(parts: Parts) -> None:
    await write_file(parts.router, "new", NEW)


async def unlink(parts: Parts) -> None:
    await parts.router.unlink(ROOT_INODE, "old")
    await reaped(parts)


async def rename_over(parts: Parts) -> None:
    await write_file(parts.router, "new", NEW)
    await parts.router.rename(ROOT_INODE, "new", ROOT_INODE, "old")
    await reaped(parts)


async def exchange(parts: Parts) -> None:
    await parts.router.rename(ROOT_INODE, "old", ROOT_INODE, "other", exchange=True)


async def cut(parts: Parts) -> None:
    inode = (await parts.router.lookup(ROOT_INODE, "old")).number
    await parts.router.set_attributes(inode, size=3_000)


async def rewrite(parts: Parts) -> None:
    inode = (await parts.router.lookup(ROOT_INODE, "old")).number
    await parts.router.open(inode)
    await parts.router.set_attributes(inode, size=0)
    await parts.router.write(inode, 0, NEW)
    await parts.router.release(inode)


async def replace_at_the_same_address(parts: Parts) -> None:
    await parts.router.unlink(ROOT_INODE, "old")
    await reaped(parts)
    await write_file(parts.router, "new", NEW)
    await write_file(parts.router, "newer", NEW)


OPERATIONS: dict[str, Callable[[Parts], Awaitable[None]]] = {
    each.__name__: each for each in (create, unlink, rename_over, exchange, cut, rewrite, replace_at_the_same_address)
}


class Steps:
    """Counts steps; at the one that was chosen, nothing happens any more."""

    def __init__(self, fatal: int) -> None:
        self.taken = 0
        self._fatal = fatal

    def watch(self, holder: Any, name: str) -> None:
        """Make each call of a method a step."""
        method = getattr(holder, name)

        async def watched(*args: Any, **kwargs: Any) -> Any:
            self.taken += 1
            if self.taken == self._fatal:
                os.killpg(0, signal.SIGKILL)
            return await method(*args, **kwargs)

        setattr(holder, name, watched)


async def main(directory: Path, operation: str, fatal: int) -> None:
    """Start, change, settle."""
    settler.SETTLE_S = 0.05
    async with started(directory) as parts:
        log_volume = await parts.volumes.attach(parts.files.log_id)
        steps = Steps(fatal)
        steps.watch(parts.registry, "submit")
        for name in ("write", "zero", "flush"):
            steps.watch(log_volume, name)
        await OPERATIONS[operation](parts)
        with trio.fail_after(30):
            while parts.registry.view.inodes_held("node-1"):
                await trio.sleep(0.02)
        print(steps.taken, flush=True)
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
