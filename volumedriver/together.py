"""Several waits side by side whose errors come out as one of the project's, not as a group that no caller expects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio

from vpool.errors import VPoolError


async def together(tasks: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Run all and wait for all. When one fails the others are cancelled, and its error is raised as it is."""
    try:
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task)
    except BaseExceptionGroup as group:
        _, others = group.split(VPoolError)
        if others is not None:
            raise
        raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
