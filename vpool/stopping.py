"""Signals: the first asks for a clean stop, the second ends the process at once; so does a stop that takes too long."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import NoReturn

import structlog
import trio

from vpool.exitcodes import INTERRUPTED, STOP_TIMED_OUT

log = structlog.get_logger()

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Whether, and since when, the daemon is to stop."""

    def __init__(self, begins: Callable[[], None] = lambda: None) -> None:
        """``begins`` is called once, when the first reason to stop has come."""
        self.requested = trio.Event()
        self._begins = begins
        self._starting: trio.CancelScope | None = None
        self._emergency: list[Callable[[], None]] = []

    def request(self) -> None:
        """Ask for a clean stop."""
        if not self.requested.is_set():
            self.requested.set()
            self._begins()
            if self._starting is not None:
                self._starting.cancel()

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

    def must_end_within(self, limit_s: float) -> None:
        """From now the process has so long to end, then it is ended; by a thread, so that a loop that hangs changes nothing."""

        def end() -> None:
            log.error(
                "stop_timed_out",
                limit_s=limit_s,
                consequence="what is not in the backend stays in the cache; the next start reads the log",
            )
            self._undo_and_exit(STOP_TIMED_OUT)

        timer = threading.Timer(limit_s, end)
        timer.daemon = True
        timer.start()

    async def watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take signals until cancelled."""
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            task_status.started()
            async for number in signals:
                if self.requested.is_set():
                    self._end_now(number)
                log.info("stop_requested", signal=signal.Signals(number).name)
                self.request()

    def _end_now(self, number: int) -> NoReturn:
        log.warning(
            "stop_cut_short", signal=signal.Signals(number).name, consequence="what is not in the backend stays in the cache"
        )
        self._undo_and_exit(INTERRUPTED)

    def _undo_and_exit(self, code: int) -> NoReturn:
        for undo in self._emergency:
            try:
                undo()
            except Exception as error:
                log.warning("emergency_step_failed", error=repr(error))
        os._exit(code)
