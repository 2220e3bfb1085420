"""A link from this node's router to itself, for requests that were on their way to another node when its object came here.

They keep their numbers and go the way that those of other nodes go, so they are answered once, or refused as lost, by the same
rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from objectrouter.wire import Message


class LoopEnd:
    """One end; what is sent here is received at the other, in order, and never at once."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.closed = trio.Event()  # never: it ends with the process
        self._queue: deque[Message] = deque()
        self._something = trio.Event()

    def send(self, message: Message) -> None:
        """Queue a message."""
        self._queue.append(message)
        self._something.set()

    async def run(self, received: Callable[[Message], None]) -> None:
        """Deliver; ends by cancellation."""
        while True:
            await self._something.wait()
            self._something = trio.Event()
            while self._queue:
                received(self._queue.popleft())
                await trio.lowlevel.checkpoint()
