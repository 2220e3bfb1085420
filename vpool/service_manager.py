"""The service manager that started us, if it is one that wants to be told: systemd's notification protocol, sd_notify(3).

Without ``NOTIFY_SOCKET`` everything here does nothing, so the daemon need not know whether it is a service.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

import structlog
import trio

log = structlog.get_logger()

EXTEND_EVERY_S = 5.0
EXTEND_BY_S = 30.0


class ServiceManager:
    """Tells the manager how far we are. Use from the trio thread."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s  # without a sign of life for so long the manager ends us; None: it does not watch
        self._address = address
        self._is_ready = trio.Event()
        self._refused = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """The manager that the environment names; its variables are taken out, so that our children do not speak for us."""
        address = environment.pop("NOTIFY_SOCKET", None)
        period_us = environment.pop("WATCHDOG_USEC", "")
        for_process = environment.pop("WATCHDOG_PID", "")
        watched = period_us.isdigit() and int(period_us) > 0 and for_process in ("", str(os.getpid()))
        return cls(address or None, int(period_us) / 1e6 if address and watched else None)

    async def extend_start(self) -> None:
        """Until ``ready``, as long as the loop is alive: ask for more time. A long log takes long to look through."""
        while not self._is_ready.is_set():
            self._send(f"EXTEND_TIMEOUT_USEC={_microseconds(EXTEND_BY_S)}", "STATUS=starting")
            with trio.move_on_after(EXTEND_EVERY_S):
                await self._is_ready.wait()

    def ready(self, status: str) -> None:
        """Requests can come."""
        self._is_ready.set()
        self._send("READY=1", f"STATUS={status}")

    def alive(self) -> None:
        """The sign of life that the watchdog waits for."""
        self._send("WATCHDOG=1")

    def stopping(self, limit_s: float | None) -> None:
        """A clean stop has begun and ends within ``limit_s``."""
        self._is_ready.set()
        more = [f"EXTEND_TIMEOUT_USEC={_microseconds(limit_s)}"] if limit_s is not None else []
        self._send("STOPPING=1", "STATUS=stopping: sending what is not in the backend yet", *more)

    def status(self, text: str) -> None:
        """One line for whoever looks."""
        self._send(f"STATUS={text}")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            if not self._refused:
                log.warning("service_manager_not_told", address=self._address, reason=str(error))
            self._refused = True
        else:
            self._refused = False


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)
