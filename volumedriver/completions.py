"""Carries the engine's completions to the trio tasks that wait for them.

Concurrency: one pump per engine. Tokens are made and resolved on the trio thread only; between making a token and the wait
there must be no await, or a completion could come before its waiter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Never

import outcome
import trio

from engine import Engine


class CompletionPump:
    """Dispatches ``Engine.completions`` by token."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tokens = 0
        self._waiting: dict[int, trio.lowlevel.Task] = {}
        self._listeners: dict[int, Callable[[], None]] = {}

    def listen(self, listener: Callable[[], None]) -> int:
        """A token whose every completion calls ``listener`` (a volume's events)."""
        self._tokens += 1
        self._listeners[self._tokens] = listener
        return self._tokens

    def forget(self, token: int) -> None:
        self._listeners.pop(token, None)

    async def completed(self, submit: Callable[[int], None]) -> None:
        """Submit work with a new token and wait for it; raises the error it completes with.

        When the wait is cancelled the work goes on; its completion is then dropped.
        """
        self._tokens += 1
        token = self._tokens
        submit(token)
        self._waiting[token] = trio.lowlevel.current_task()

        def abort(_: Callable[[], Never]) -> trio.lowlevel.Abort:
            del self._waiting[token]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def run(self) -> None:
        """The pump itself; ends by cancellation."""
        while True:
            await trio.lowlevel.wait_readable(self._engine.completion_fd)
            for token, error in self._engine.completions():
                task = self._waiting.pop(token, None)
                if task is not None:
                    trio.lowlevel.reschedule(task, outcome.Value(None) if error is None else outcome.Error(error))
                elif token in self._listeners:
                    self._listeners[token]()
