"""One mount, from mount(2) until nothing of it is left, in whatever way it is left."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyfuse3
import structlog
import trio

from fuse.connection import allow_background
from fuse.mounts import SUBTYPE, detach, may_let_others_in, mount_on, source_name, unmount
from fuse.operations import Operations
from fuse.places import Gauge, requests_of, watch
from fuse.router import Router
from fuse.writers import Writers
from vpool.errors import Unavailable

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a mount takes at once. See ``vpool.settings.FuseSettings`` for what follows from each."""

    requests_max: int = 16_384
    background_max: int = 1024  # of these: asynchronous ones
    open_for_writing_max: int = 1024  # handles; each may have one synchronous write under way


class Mount:
    """A running mount; made by ``serve``."""

    def __init__(self, mountpoint: Path) -> None:
        self.mountpoint = mountpoint
        self._gone = False  # the kernel has it no more
        self._ended = trio.Event()

    async def stop(self, *, limit_s: float) -> None:
        """Take no more requests; returns when ``serve`` has ended or ``limit_s`` is over twice.

        Tries a plain unmount first, during which requests are still served, so that the kernel can write back what it
        holds; where the mount is in use it is detached. Requests under way then get ``limit_s``.
        """
        with trio.move_on_after(limit_s):
            if not await trio.to_thread.run_sync(unmount, self.mountpoint, abandon_on_cancel=True):
                log.info("mount_in_use", mountpoint=str(self.mountpoint), consequence="those who use it get ENOTCONN")
                try:
                    await trio.to_thread.run_sync(detach, self.mountpoint, abandon_on_cancel=True)
                except Unavailable as error:  # the rest of the stop is worth more than a clean mount point
                    remedy = f"umount --lazy {self.mountpoint}"
                    log.error("mount_left_behind", mountpoint=str(self.mountpoint), reason=str(error), remedy=remedy)
        self._gone = mount_on(str(self.mountpoint)) is None
        if not self._ended.is_set():
            pyfuse3.terminate()
            with trio.move_on_after(limit_s):
                await self._ended.wait()

    def abandon(self) -> None:
        """Undo the mount at once, from wherever; for a process that ends now."""
        if not self._gone:
            detach(self.mountpoint)


async def serve(
    router: Router,
    mountpoint: Path,
    *,
    vpool_id: str,
    entry_timeout_s: float = 1.0,
    attributes_timeout_s: float = 1.0,
    sync_on_close: bool = False,
    limits: Limits = Limits(),
    task_status: trio.TaskStatus[Mount] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount, and serve until the mount is undone, ``Mount.stop`` is called or the task is cancelled; never leaves a mount behind.

    Args:
        router: what answers.
        mountpoint: an empty directory, resolved and checked (see ``fuse.mounts``).
        vpool_id: becomes the mount's source, by which a later daemon knows a dead mount as ours.
        entry_timeout_s: how long the kernel may believe a name.
        attributes_timeout_s: how long the kernel may believe size and times.
        sync_on_close: a close makes durable what was written.
        limits: what is taken at once.
        task_status: told the ``Mount`` when requests can come.

    Raises:
        Unavailable: the kernel refuses the mount.
    """
    operations = Operations(
        router,
        Writers(limits.open_for_writing_max),
        entry_timeout_s=entry_timeout_s,
        attributes_timeout_s=attributes_timeout_s,
        sync_on_close=sync_on_close,
    )
    options = {
        f"fsname={source_name(vpool_id)}",
        f"subtype={SUBTYPE}",
        "default_permissions",
    }
    if may_let_others_in():
        options.add("allow_other")  # hypervisors run as users of their own
    try:
        pyfuse3.init(operations, str(mountpoint), options)
    except RuntimeError as error:
        raise Unavailable(f"{mountpoint} cannot be mounted; is /dev/fuse there and may you use it?", reason=str(error)) from None
    mount = Mount(mountpoint)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_set_up, operations, mount, limits, task_status)
            nursery.start_soon(watch, _gauges(operations, trio.lowlevel.current_task(), limits))
            await pyfuse3.main(min_tasks=2, max_tasks=limits.requests_max)
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=not mount._gone)
        mount._gone = True
        mount._ended.set()


def _gauges(operations: Operations, serving: trio.lowlevel.Task, limits: Limits) -> list[Gauge]:
    return [
        Gauge(
            "fuse.requests_max",
            limits.requests_max,
            partial(requests_of, serving),
            consequence="when all are taken, requests for local data wait too",
        ),
        Gauge(
            "fuse.background_max",
            limits.background_max,
            lambda: operations.writes_under_way,
            consequence="when so many asynchronous writes wait, asynchronous reads wait too",
        ),
    ]


async def _set_up(operations: Operations, mount: Mount, limits: Limits, task_status: trio.TaskStatus[Mount]) -> None:
    """The mount is ready when the kernel knows what it may send."""
    await operations.greeted.wait()
    entry = mount_on(str(mount.mountpoint))
    if entry is not None:
        await trio.to_thread.run_sync(partial(allow_background, entry.connection, limits.background_max))
    task_status.started(mount)
