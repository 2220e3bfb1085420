"""Whether what several clients saw of names in one directory could have come from one directory that did one thing at a time.

Every request has an interval and a result. ``check_names`` searches an order of all of them that is in agreement with the
intervals and in which a plain dictionary gives each its result (Wing and Gong, "Testing and Verifying Concurrent Objects",
1993, with Lowe's memory of what has been tried). A request of unknown outcome may happen at any time after its beginning, or
never. The search is fit for some hundred requests of a few clients: a directory per round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from tests.cluster.histories import FOR_EVER


class Verb(Enum):
    """What is asked."""

    CREATE = "create"  # exclusively, with a content of its own
    RENAME = "rename"  # over what is there
    UNLINK = "unlink"
    LOOK = "look"  # at the content


class Result(Enum):
    """What is answered, beside a content."""

    DONE = "done"
    EXISTS = "EEXIST"
    ABSENT = "ENOENT"
    UNKNOWN = "unknown"


class NotOneDirectory(AssertionError):
    """A history that no single directory can have."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as its client saw it.

    Attributes:
        content: of what is created, or what was seen (``result`` is DONE then).
        target: the new name of a rename.
    """

    verb: Verb
    name: str
    result: Result
    began: float
    ended: float
    content: str = ""
    target: str = ""
    who: str = ""

    def __str__(self) -> str:
        end = "unknown" if self.ended == FOR_EVER else f"{self.ended / 1e9:.6f}"
        return (
            f"{self.verb.value} {self.name} {self.target} {self.content} -> {self.result.value} by {self.who} "
            f"from {self.began / 1e9:.6f} to {end}"
        )


Names = frozenset[tuple[str, str]]  # (name, content)


def _create(names: dict[str, str], call: Call) -> Result:
    if call.name in names:
        return Result.EXISTS
    names[call.name] = call.content
    return Result.DONE


def _rename(names: dict[str, str], call: Call) -> Result:
    if call.name not in names:
        return Result.ABSENT
    names[call.target] = names.pop(call.name)
    return Result.DONE


def _unlink(names: dict[str, str], call: Call) -> Result:
    return Result.ABSENT if names.pop(call.name, None) is None else Result.DONE


def _look(names: dict[str, str], call: Call) -> Result:
    found = names.get(call.name)
    if found is None:
        return Result.ABSENT
    return Result.DONE if found == call.content else Result.UNKNOWN


_DO: dict[Verb, Callable[[dict[str, str], Call], Result]] = {
    Verb.CREATE: _create,
    Verb.RENAME: _rename,
    Verb.UNLINK: _unlink,
    Verb.LOOK: _look,
}


def _is_doubled(call: Call, calls: Sequence[Call]) -> bool:
    """Whether another host made the same rename meanwhile.

    Linux looks up both names, one after the other, and when both lead to one inode it answers a rename with success by itself, as
    POSIX wants it for two links. It finds one inode under both if another host's rename comes between its two look-ups.
    """
    return call.verb is Verb.RENAME and any(
        (other.verb, other.name, other.target) == (call.verb, call.name, call.target)
        and other is not call
        and other.began < call.ended
        and call.began < other.ended
        for other in calls
    )


def _after(names: Names, call: Call, doubled: bool) -> Names | None:
    """The directory after a request; None: it would have had another result."""
    changed = dict(names)
    if doubled and call.result is Result.DONE and call.name not in changed and call.target in changed:
        return names
    result = _DO[call.verb](changed, call)
    if call.result is not Result.UNKNOWN and result is not call.result:
        return None
    return frozenset(changed.items())


def check_names(calls: Sequence[Call]) -> None:
    """From an empty directory. Raises ``NotOneDirectory`` with the calls around the point that nothing gets past."""
    ordered = sorted(
        (call for call in calls if call.verb is not Verb.LOOK or call.result is not Result.UNKNOWN), key=lambda call: call.began
    )
    needed = sum(1 << number for number, call in enumerate(ordered) if call.result is not Result.UNKNOWN)
    doubled = [_is_doubled(call, ordered) for call in ordered]
    start: tuple[int, Names] = (0, frozenset())
    tried, stack, furthest = {start}, [start], 0
    while stack:
        done, names = stack.pop()
        if done & needed == needed:
            return
        furthest = max(furthest, done, key=lambda mask: (mask & needed).bit_count())
        for number in _next(ordered, done):
            after = _after(names, ordered[number], doubled[number])
            if after is None:
                continue
            state = (done | 1 << number, after)
            if state not in tried:
                tried.add(state)
                stack.append(state)
    left = [call for number, call in enumerate(ordered) if not furthest >> number & 1]
    before = [call for number, call in enumerate(ordered) if furthest >> number & 1]
    raise NotOneDirectory("\n".join(["no order explains:", *map(str, before[-12:]), "-- and then", *map(str, left[:6])]))


def _next(ordered: Sequence[Call], done: int) -> list[int]:
    """Requests that may be the next: nothing that is left ended before they began."""
    found = []
    first_end = FOR_EVER
    for number, call in enumerate(ordered):
        if call.began > first_end:
            break
        if not done >> number & 1:
            found.append(number)
            first_end = min(first_end, call.ended)
    return found
