"""Reads for the background verification: as slowly as it may take, and behind everybody else's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from backend import ObjectStore
from registry import RegistryView
from volumedriver.fetch import pauses
from volumedriver.names import Place
from vpool.errors import Denied, Unavailable

DAY_S = 86_400.0
PASS_SHARE = 0.8  # of its time, that a pass is paced to take
RATE_MIN = 64 << 10  # bytes per second, so that a small pool is soon through
BUSY_LOOK_S = 0.5
BUSY_MAX_S = 30.0  # how long it steps back at a time: it must come round


@dataclass(frozen=True, slots=True)
class PatrolSettings:
    """What an operator may set; see vpool/settings.py."""

    days: float | None = 30.0
    bytes_per_s_max: int = 32 << 20
    patience_s: float = 300.0


class Pace:
    """Lets one task read; ``hurry`` may be called by others.

    Attributes:
        rate: bytes per second that are allowed now.
        bytes_read: since the start.
        waiting_for: what it waits for just now, if it is not the pace.
    """

    def __init__(self, store: ObjectStore, view: RegistryView, settings: PatrolSettings, is_busy: Callable[[], bool]) -> None:
        self.rate = RATE_MIN
        self.bytes_read = 0
        self.waiting_for = ""
        self.last_bytes = 0  # compared in the last whole pass
        self._store = store
        self._view = view
        self._settings = settings
        self._is_busy = is_busy
        self._next_at = 0.0
        self._hurrying = False
        self._changed = trio.Event()

    @property
    def hurrying(self) -> bool:
        """An operator has asked for a pass: only ``bytes_per_s_max`` holds."""
        return self._hurrying

    def hurry(self, wanted: bool) -> None:
        """From now on, or no longer."""
        self._hurrying = wanted
        self._next_at = 0.0
        self._changed.set()

    async def changed(self) -> None:
        """Until somebody calls ``hurry``."""
        if self._changed.is_set():
            self._changed = trio.Event()
        await self._changed.wait()

    async def get(self, place: Place, name: str, *, start: int = 0, length: int | None = None, at_once: bool = False) -> bytes:
        """A range of an object, when it is its turn (or ``at_once``); an absent backend is waited for. NotFound."""
        pause = pauses()
        while True:
            if not at_once:
                await self._turn()
            try:
                data = await self._store.get(place.bucket, name, start=start, length=length)
            except (Unavailable, Denied) as error:
                self.waiting_for = str(error)
                await trio.sleep(pause())
            else:
                self.waiting_for = ""
                self.bytes_read += len(data)
                self._next_at = max(self._next_at, trio.current_time()) + len(data) / self.rate
                return data

    async def _turn(self) -> None:
        """Wait for the pace, and while requests wait for the backend, up to a limit."""
        while trio.current_time() < self._next_at:
            with trio.move_on_at(self._next_at):
                await self.changed()
        self.rate = self._allowed()
        until = trio.current_time() + BUSY_MAX_S
        while self._is_busy() and trio.current_time() < until:  # noqa: ASYNC110  # no event tells of the end of other's waiting
            await trio.sleep(BUSY_LOOK_S)

    def _allowed(self) -> int:
        most = self._settings.bytes_per_s_max
        if self._hurrying or self._settings.days is None:
            return most
        with self._view.snapshot() as tables:
            _, held = tables.counted()
        wanted = max(self.last_bytes, held) / (self._settings.days * DAY_S * PASS_SHARE)
        return min(most, max(RATE_MIN, int(wanted)))
