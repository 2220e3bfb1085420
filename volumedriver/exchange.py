"""The cache directory of a running node is exchanged: its volumes keep their clients, who wait for as long as it takes.

Order: requests are held back; everything dirty is sent (or the exchange is given up, and nothing has changed); the logs are
closed; the engine lets go of its directory; the directories change places; the engine takes the new one; each volume is opened in
it, in a new epoch, its map from the backend; requests go on. A crash between any two of these leaves one directory or the other,
and everything in the backend.

A local map that has failed goes the same way, with the same directory: only the map in it is new, so nothing has to be sent.

Concurrency: one exchange at a time, and none while a volume is being opened or closed (``Gate``).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import structlog
import trio

from engine import Engine
from volumedriver.fetch import pauses
from volumedriver.gate import Gate
from volumedriver.stream import Stream
from volumedriver.unsent import StillDirty
from volumedriver.volume import Volume
from vpool.errors import Conflict, Halted, Moved, NotFound, VPoolError

log = structlog.get_logger()

ALONE_S = 10.0  # how long volumes that are being opened or closed are waited for


class OpenVolume(Protocol):
    """A volume that is served, with what sends its log."""

    volume: Volume
    stream: Stream


class Volumes(Protocol):
    """What an exchange needs of the driver."""

    def entries(self) -> Mapping[str, OpenVolume]: ...

    async def close(self, object_id: str) -> None:
        """Stop its stream, close its log; the ``Volume`` stays with its clients."""

    def unsent(self) -> list[StillDirty]:
        """What the logs have that are in the directory, and not open. Blocks."""

    async def open_again(self, object_id: str, volume: Volume) -> None:
        """Open its log and give it to the ``Volume``."""

    async def leaving(self) -> None:
        """What else is open in the directory is let go of, until ``entered``."""

    def entered(self) -> None:
        """There is a directory again."""


class Exchange:
    """See the module.

    Attributes:
        absent: volumes whose clients wait, because their log is closed just now.
        given_up: objects that could not be opened again, or have gone back; whoever opens one removes it.
    """

    def __init__(self, engine: Engine, gate: Gate, volumes: Volumes, nursery: trio.Nursery) -> None:
        self.absent: dict[str, Volume] = {}
        self.given_up: set[str] = set()
        self._engine = engine
        self._path = str(engine.path)
        self._gate = gate
        self._volumes = volumes
        self._nursery = nursery
        self._entering = trio.Lock()

    async def of_directory(self, change: Callable[[bool], None], *, send_s: float, accept_loss: bool) -> list[StillDirty]:
        """Have ``change`` (may block) put another directory where the cache is, with nothing open in it.

        ``change`` is told whether the backend has everything. ``send_s``: how long clients may wait for what is dirty to be sent.
        Returns what was lost (``accept_loss``): these volumes have gone back, so their clients' ``Volume`` is halted for good and
        another is to be attached.

        Raises:
            Conflict: something is dirty still; nothing has changed.
            VPoolError: of ``change``; the old directory is in use again.
        """
        async with self._gate.alone(ALONE_S):
            held = dict(self._volumes.entries())
            with self._held_back(held):
                with trio.move_on_after(send_s):
                    await drain_all(held, self._nursery)
                lost = still_dirty(held) + await self._closed_dirty()
                if lost and not accept_loss:
                    left = sum(each.bytes for each in lost)
                    raise Conflict(
                        f"{left} bytes are nowhere but in the cache, and the backend has not taken them within {send_s:g} s "
                        f"({lost[0].reason}); nothing has changed",
                        object=lost[0].object,
                    )
                with trio.CancelScope(shield=True):
                    await self._beneath(held, lambda: change(not lost), {each.object for each in lost}, fresh_map=False)
            return lost

    async def of_map(self) -> None:
        """Have all volumes get their map from the backend: the local one has failed.

        Conflict, Halted: it cannot be done now, and nothing has changed: a volume that is halted is not opened again without an
        administrator, and on a disk that takes no writes what can still be read would be given up.
        """
        async with self._gate.alone(ALONE_S):
            reason = self._engine.stats().map_failure
            if reason is None:
                return
            held = dict(self._volumes.entries())
            for object_id, each in held.items():
                if each.volume.halted is not None:
                    raise Conflict("a halted volume is in the way; open it first, or replace the cache", object=object_id)
            await trio.to_thread.run_sync(_check_writable, self._path)
            log.warning("local_map_set_aside", reason=reason)
            with self._held_back(held), trio.CancelScope(shield=True):
                await self._beneath(held, lambda: None, set(), fresh_map=True)

    async def _closed_dirty(self) -> list[StillDirty]:
        """What is in logs that are not open: never opened, closed by a halt, or left closed by an exchange that has failed."""
        try:
            await self._enter()
            return await trio.to_thread.run_sync(self._volumes.unsent)
        except VPoolError as error:
            reason = f"what the cache has of it is not known: {error}"
            return [StillDirty(object_id, 0, reason) for object_id in self.absent] or [StillDirty("", 0, reason)]

    @contextmanager
    def _held_back(self, held: Mapping[str, OpenVolume]) -> Iterator[None]:
        """Requests wait; whose log has not been closed by the end goes on with it."""
        for each in held.values():
            each.volume.hold()
        try:
            yield
        finally:
            for object_id, each in self._volumes.entries().items():
                if held.get(object_id) is each:
                    each.volume.go_on(each.volume.native)

    async def _beneath(
        self, held: Mapping[str, OpenVolume], change: Callable[[], None], lost: set[str], *, fresh_map: bool
    ) -> None:
        """Close all logs, have the directory changed, open them again."""
        for object_id, each in held.items():
            self.absent[object_id] = each.volume
            await self._volumes.close(object_id)
        try:
            await self._volumes.leaving()
            await trio.to_thread.run_sync(self._leave)
            try:
                await trio.to_thread.run_sync(change)
                for object_id in lost:
                    self._give_up(object_id, "what only the cache had was given up with it")
            finally:
                await trio.to_thread.run_sync(lambda: self._engine.enter(self._path, fresh_map=fresh_map))
        finally:
            self._volumes.entered()
            await self._open_all()

    async def _enter(self) -> None:
        """Take the directory, if that could not be done before."""
        async with self._entering:
            if self._engine.path is None:
                await trio.to_thread.run_sync(self._engine.enter, self._path)

    def _leave(self) -> None:
        gc.collect()  # what a failed opening has left in a traceback holds the map
        self._engine.leave()

    def _give_up(self, object_id: str, reason: str) -> None:
        volume = self.absent.pop(object_id, None)
        if volume is not None:
            self.given_up.add(object_id)
            volume.give_up(reason)

    async def _open_all(self) -> None:
        """Side by side; one that cannot be opened now has its clients wait, while it is tried again."""
        async with trio.open_nursery() as nursery:
            for object_id in list(self.absent):
                nursery.start_soon(self._open_first, object_id)

    async def _open_first(self, object_id: str) -> None:
        if not await self._opened(object_id):
            self._nursery.start_soon(self._open_later, object_id)

    async def _open_later(self, object_id: str) -> None:
        pause = pauses()
        done = False
        while not done:
            await trio.sleep(pause())
            async with self._gate.shared():
                done = object_id not in self.absent or await self._opened(object_id)

    async def _opened(self, object_id: str) -> bool:
        """Whether no more needs to be done for a volume."""
        try:
            await self._enter()
        except VPoolError as error:
            log.warning("cache_not_usable", path=self._path, reason=str(error))
            return False
        try:
            await self._volumes.open_again(object_id, self.absent[object_id])
        except Moved:
            del self.absent[object_id]
        except (Halted, NotFound) as error:
            self._give_up(object_id, str(error))
        except VPoolError as error:
            log.warning("volume_not_opened_again", object=object_id, reason=str(error))
            return False
        else:
            del self.absent[object_id]
        return True


def _check_writable(directory: str) -> None:
    """Write something there and have it synced. Blocks. Halted: the disk does not take it."""
    path = os.path.join(directory, ".probe")
    try:
        with open(path, "wb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        os.unlink(path)
    except OSError as error:
        raise Halted(f"the cache's disk takes no writes: {error.strerror}") from error


async def drain_all(volumes: Mapping[str, OpenVolume], nursery: trio.Nursery) -> None:
    """Send everything that is acknowledged now; returns when the heads are committed, or halts are in the way."""
    async with trio.open_nursery() as drains:
        for each in volumes.values():
            if each.volume.halted is None:
                drains.start_soon(each.stream.drain, nursery)


def still_dirty(volumes: Mapping[str, OpenVolume]) -> list[StillDirty]:
    """What the backend has not got, and why."""
    found = []
    for object_id, each in volumes.items():
        left = each.volume.native.stats().dirty_bytes
        if left:
            reason = each.volume.halted or each.stream.state.stalled or "it is on its way"
            found.append(StillDirty(object_id, left, reason))
    return found
