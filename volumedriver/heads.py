"""Heads of all volumes of a node, committed together.

Concurrency: ``advance`` may be called by many tasks; one round is under way at a time, and what comes meanwhile forms the
next. For one object the calls come one after the other (its stream sees to that).
"""

from __future__ import annotations

import outcome
import structlog
import trio

from registry import AdvanceHeads, HeadAdvance, RegistryClient, error_of
from volumedriver.fetch import pauses
from vpool.errors import Unavailable, VPoolError

log = structlog.get_logger()

BATCH_MAX = 256


class HeadCommitter:
    """Batches head advances into one registry command per round."""

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry
        self._queue: list[tuple[HeadAdvance, trio.lowlevel.Task]] = []
        self._wake = trio.Event()

    async def advance(self, advance: HeadAdvance) -> None:
        """Commit one head; on return it is. Fenced or Conflict when the registry refuses it."""
        entry = (advance, trio.lowlevel.current_task())
        self._queue.append(entry)
        self._wake.set()

        def abort(_: object) -> trio.lowlevel.Abort:
            if entry in self._queue:
                self._queue.remove(entry)
                return trio.lowlevel.Abort.SUCCEEDED
            return trio.lowlevel.Abort.FAILED  # under way: its outcome must be known

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def run(self) -> None:
        """The committer itself; ends by cancellation."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._queue:
                batch, self._queue = self._queue[:BATCH_MAX], self._queue[BATCH_MAX:]
                with trio.CancelScope(shield=True):
                    errors = await self._commit([advance for advance, _ in batch])
                for (_, task), error in zip(batch, errors, strict=True):
                    trio.lowlevel.reschedule(task, outcome.Value(None) if error is None else outcome.Error(error))

    async def _commit(self, advances: list[HeadAdvance]) -> list[VPoolError | None]:
        pause = pauses()
        while True:
            try:
                results = await self._registry.submit(AdvanceHeads(tuple(advances)))
                return [None if result.error is None else error_of(result.error) for result in results]
            except Unavailable as error:
                log.warning("registry_waits", reason=str(error))
            await trio.sleep(pause())
