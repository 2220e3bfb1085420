"""Signals: the first asks for a clean stop, the second ends the process at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import structlog
import trio

from vpool.exitcodes import INTERRUPTED

log = structlog.get_logger()

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Whether, and since when, the daemon is to stop."""

    def __init__(self) -> None:
        self.requested = trio.Event()
        self._starting: trio.CancelScope | None = None
        self._emergency: list[Callable[[], None]] = []

    def starting(self) -> trio.CancelScope:
        """The scope of the start, which a signal cancels; ended by ``started``."""
        self._starting = trio.CancelScope()
        if self.requested.is_set():
            self._starting.cancel()
        return self._starting

    def started(self) -> None:
        """From now on a signal is answered by whoever waits for ``requested``."""
        self._starting = None

    def in_emergency(self, undo: Callable[[], None]) -> None:
        """What must be undone even when the process ends at once."""
        self._emergency.append(undo)

    async def watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take signals until cancelled."""
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            task_status.started()
            async for number in signals:
                if self.requested.is_set():
                    self._end_now(number)
                log.info("stop_requested", signal=signal.Signals(number).name)
                self.requested.set()
                if self._starting is not None:
                    self._starting.cancel()

    def _end_now(self, number: int) -> None:
        log.warning(
            "stop_cut_short", signal=signal.Signals(number).name, consequence="what is not in the backend stays in the cache"
        )
        for undo in self._emergency:
            try:
                undo()
            except Exception as error:
                log.warning("emergency_step_failed", error=repr(error))
        os._exit(INTERRUPTED)
