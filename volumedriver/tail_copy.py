"""Sends ranges of an open log to another node as batches, not faster than that node makes them durable.

Concurrency: one task; ranges may be ordered anew at any time, and what was ordered before is then forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from engine import Batch
from volumedriver.tail import TailRecord
from volumedriver.volume import Volume
from vpool.errors import NotFound

BATCH_BYTES = 1 << 20
AHEAD_BYTES = 16 << 20  # sent and not confirmed
READ_AGAIN_S = 0.005


class TailCopy:
    """To one node, for one attempt."""

    def __init__(self, volume: Volume, send: Callable[[tuple[TailRecord, ...]], None]) -> None:
        self.bytes = self.records = 0  # sent so far
        self._volume, self._send = volume, send
        self._next, self._last = 1, 0  # the next to be sent, and the last that is to be
        self._ahead: deque[tuple[int, int]] = deque()  # (last LSN, bytes) of batches under way
        self._ahead_bytes = 0
        self._something = trio.Event()

    def order(self, first_lsn: int, last_lsn: int) -> None:
        """Send this range: more of what was ordered before, or from further back again.

        Batches end where records do, so some of it may be on its way already.
        """
        if first_lsn != self._last + 1:
            self._next = first_lsn
            self._ahead.clear()
            self._ahead_bytes = 0
        self._last = last_lsn
        self._something.set()

    def confirmed(self, through_lsn: int) -> None:
        """The other side has everything so far."""
        while self._ahead and self._ahead[0][0] <= through_lsn:
            self._ahead_bytes -= self._ahead.popleft()[1]
        self._something.set()

    def records_within(self, bytes_max: int) -> int:
        """About how many records make so many bytes."""
        return max(1, bytes_max * self.records // self.bytes) if self.bytes else 1 << 30

    async def run(self) -> None:
        """Until cancelled. Errors: ``NotFound`` (a record is no longer in the log), and what reading the log raises."""
        while True:
            await self._something.wait()
            self._something = trio.Event()
            while self._next <= self._last and self._ahead_bytes < AHEAD_BYTES:
                first = self._next
                batch = await trio.to_thread.run_sync(self._read, first)
                if first != self._next:  # ordered anew meanwhile
                    continue
                if batch is None:
                    await trio.sleep(READ_AGAIN_S)
                    continue
                if batch.first_lsn != first:
                    raise NotFound("the log begins later", first_lsn=first, found=batch.first_lsn)
                count = batch.last_lsn - batch.first_lsn + 1
                self._next = batch.last_lsn + 1
                self._ahead.append((batch.last_lsn, len(batch.data)))
                self._ahead_bytes += len(batch.data)
                self.bytes += len(batch.data)
                self.records += count
                self._send((TailRecord(batch.first_lsn, None, batch.data, count),))

    def _read(self, first_lsn: int) -> Batch | None:
        return self._volume.native.tail(first_lsn, BATCH_BYTES)
