"""Whether the data path lives: probes in turn, and a sign of life only when each has been answered.

That the loop turns is proven by the sign's coming at all. A probe that never returns is not cut short: no sign follows, and
whoever waits for it decides. A backend that is away is no reason to withhold it: writers wait then, as promised, and a restart
would bring nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import structlog
import trio

from vpool.errors import VPoolError

log = structlog.get_logger()

SIGNS_PER_PERIOD = 3  # so that one that is late does no harm

Probe = Callable[[], Awaitable[object]]


class Volumes(Protocol):
    """What is asked of the volume driver: goes through the engine and every open volume of it."""

    def ask_engine(self) -> None: ...


class Registry(Protocol):
    """What is asked of the registry's client: goes through its log, and is durable."""

    async def renew_lease(self) -> Any: ...

    async def ask(self, kind: str) -> Any: ...


def probes_of(registry: Registry, volumes: Volumes, has_neighbours: bool) -> dict[str, Probe]:
    """The probes of a node. The engine is asked in a thread of its own: one that hangs must not take the loop with it.

    Of several nodes the registry is only asked whether its process answers: that a majority is away is nothing that a restart of
    this one could mend, and open volumes go on without.
    """
    alone = trio.CapacityLimiter(1)
    return {
        "registry": (lambda: registry.ask("status")) if has_neighbours else registry.renew_lease,
        "engine": lambda: trio.to_thread.run_sync(volumes.ask_engine, limiter=alone, abandon_on_cancel=True),
    }


class Health:
    """``run`` gives signs of life while the probes succeed."""

    def __init__(self, probes: Mapping[str, Probe], alive: Callable[[], None], period_s: float) -> None:
        """``period_s``: how long the one who waits for ``alive`` waits for it."""
        self._probes = probes
        self._alive = alive
        self._period_s = period_s / SIGNS_PER_PERIOD

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            began = trio.current_time()
            if all([await self._answers(name, probe) for name, probe in self._probes.items()]):
                self._alive()
            await trio.sleep_until(began + self._period_s)

    async def _answers(self, name: str, probe: Probe) -> bool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_if_late, name)
            try:
                await probe()
            except VPoolError as error:
                log.error("data_path_unhealthy", part=name, reason=str(error))
                return False
            finally:
                nursery.cancel_scope.cancel()
        return True

    async def _tell_if_late(self, name: str) -> None:
        await trio.sleep(self._period_s)
        log.error("data_path_does_not_answer", part=name, after_s=round(self._period_s, 3))
