"""Whether a history of concurrent operations can be put in one order that fits both time and a model. Pure.

Just-in-time linearization (Lowe, "Testing for linearizability", 2017): a *configuration* is a state and those operations under
way that have taken effect already. When an operation returns, configurations stay only where it has taken effect with the outcome
it returned. One whose outcome nobody knows (its client died) stays under way for ever: it may take effect at any later time, or
never.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Operation:
    """``ended`` None: nobody knows whether it has happened. ``outcome`` is what it returned, for the model."""

    client: str
    what: tuple[Any, ...]
    began: float
    ended: float | None
    outcome: Any = None


Step = Callable[[Any, Operation], Iterable[Hashable]]  # states that may follow; none: it cannot have that outcome here


class NotLinearizable(AssertionError):
    """No order fits; the message has the operation at which that shows, and what was under way."""


def check(history: list[Operation], start: Hashable, step: Step) -> int:
    """Raise ``NotLinearizable`` if no order fits; the most configurations that had to be kept."""
    events = [(operation.began, 1, number) for number, operation in enumerate(history)]
    events += [(operation.ended, 0, number) for number, operation in enumerate(history) if operation.ended is not None]
    # At one and the same time begins come first: then the two overlap, which allows more.
    events.sort(key=lambda event: (event[0], -event[1]))
    under_way: set[int] = set()
    configurations: set[tuple[Hashable, frozenset[int]]] = {(start, frozenset())}
    most = 1
    for _, begins, number in events:
        if begins:
            under_way.add(number)
            continue
        reached = _closure(configurations, under_way, history, step)
        most = max(most, len(reached))
        configurations = {(state, done - {number}) for state, done in reached if number in done}
        under_way.discard(number)
        if not configurations:
            beside = [history[each] for each in sorted(under_way)]
            raise NotLinearizable(f"no order explains {history[number]}; under way were {beside}")
    return most


def _closure(
    configurations: set[tuple[Hashable, frozenset[int]]], under_way: set[int], history: list[Operation], step: Step
) -> set[tuple[Hashable, frozenset[int]]]:
    reached, new = set(configurations), list(configurations)
    while new:
        state, done = new.pop()
        for number in under_way - done:
            for after in step(state, history[number]):
                found = (after, done | {number})
                if found not in reached:
                    reached.add(found)
                    new.append(found)
    return reached
