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


class _Waiting:
    """A head and the task that waits for it; None once that has given up."""

    def __init__(self, advance: HeadAdvance, task: trio.lowlevel.Task) -> None:
        self.advance = advance
        self.task: trio.lowlevel.Task | None = task


class HeadCommitter:
    """Batches head advances into one registry command per round."""

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry
        self._queue: list[_Waiting] = []
        self._wake = trio.Event()

    async def advance(self, advance: HeadAdvance) -> None:
        """Commit one head; on return it is. Conflict and others when the registry refuses it.

        When the wait is cancelled the outcome is unknown: the volume is being closed then, and its next opening looks.
        """
        entry = _Waiting(advance, trio.lowlevel.current_task())
        self._queue.append(entry)
        self._wake.set()

        def abort(_: object) -> trio.lowlevel.Abort:
            entry.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def run(self) -> None:
        """The committer itself; ends by cancellation."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._queue:
                batch, self._queue = self._queue[:BATCH_MAX], self._queue[BATCH_MAX:]
                batch = [entry for entry in batch if entry.task is not None]
                if not batch:
                    continue
                errors = await self._commit([entry.advance for entry in batch])
                for entry, error in zip(batch, errors, strict=True):
                    if entry.task is not None:
                        trio.lowlevel.reschedule(entry.task, outcome.Value(None) if error is None else outcome.Error(error))

    async def _commit(self, advances: list[HeadAdvance]) -> list[VPoolError | None]:
        pause = pauses()
        while True:
            try:
                results = await self._registry.submit(AdvanceHeads(tuple(advances)))
                return [None if result.error is None else error_of(result.error) for result in results]
            except Unavailable as error:
                log.warning("registry_waits", reason=str(error))
            await trio.sleep(pause())
