"""Waits side by side: if these fail, a damaged object comes to callers as an exception group, which none of them expects."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from volumedriver.together import together
from vpool.errors import Corrupt


async def test_an_error_comes_out_as_it_is_and_the_others_are_cancelled() -> None:
    cancelled = []

    async def waits() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(True)
            raise

    async def fails(error: Exception) -> None:
        raise error

    with pytest.raises(Corrupt, match="damaged"):
        await together([waits, partial(fails, Corrupt("damaged"))])
    assert cancelled == [True]
    with pytest.raises(ExceptionGroup):
        await together([partial(fails, ZeroDivisionError())])


async def test_cancellation_goes_through() -> None:
    with trio.move_on_after(0) as scope:
        await together([trio.sleep_forever, trio.sleep_forever])
    assert scope.cancelled_caught
