"""Many may pass, or one alone. Whoever wants to be alone goes before those who come later, so that he is not put off for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from vpool.errors import Conflict


class Gate:
    """See the module. Not reentrant: who is within must not enter again."""

    def __init__(self) -> None:
        self._within = 0
        self._alone = trio.Lock()
        self._empty = trio.Event()
        self._empty.set()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Beside others, but not beside one who is alone."""
        async with self._alone:
            if not self._within:
                self._empty = trio.Event()
            self._within += 1
        try:
            yield
        finally:
            self._within -= 1
            if not self._within:
                self._empty.set()

    @asynccontextmanager
    async def alone(self, wait_s: float) -> AsyncIterator[None]:
        """When all who are within have left; nobody else enters meanwhile. Conflict: they have not within ``wait_s``."""
        async with self._alone:
            with trio.move_on_after(wait_s):
                await self._empty.wait()
            if self._within:
                raise Conflict(f"volumes are being opened or closed for more than {wait_s:g} s; nothing has changed")
            yield
