"""The checkers of histories: what one disk, or one directory, cannot have done must be found; what it can, must pass."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.cluster.histories import FOR_EVER, Access, Flush, Loss, NotOneDisk, check_block, check_disk
from tests.cluster.name_histories import Call, NotOneDirectory, Result, Verb, check_names


def w(value: int, began: float, ended: float, block: int = 0) -> Access:
    return Access(block, True, value, began, ended, "w")


def r(value: int, began: float, ended: float, block: int = 0) -> Access:
    return Access(block, False, value, began, ended, "r")


POSSIBLE = {
    "nothing": [],
    "a read of nothing": [r(0, 0, 1)],
    "a read beside a write, old": [w(1, 0, 10), r(0, 1, 2)],
    "a read beside a write, new": [w(1, 0, 10), r(1, 1, 2)],
    "two writes at one time, either order": [w(1, 0, 10), w(2, 0, 10), r(2, 11, 12), r(2, 13, 14)],
    "both seen, one after the other": [w(1, 0, 10), w(2, 0, 10), r(1, 1, 2), r(2, 3, 4)],
    "a failed write that nobody saw": [w(1, 0, FOR_EVER), r(0, 5, 6), r(0, 7, 8)],
    "a failed write that came late": [w(1, 0, FOR_EVER), r(0, 5, 6), r(1, 7, 8)],
    "a failed write seen between two others": [w(1, 0, FOR_EVER), w(2, 1, 2), r(2, 3, 4), r(1, 5, 6)],
}
IMPOSSIBLE = {
    "a stale read": [w(1, 0, 1), w(2, 2, 3), r(1, 4, 5)],
    "a lost write": [w(1, 0, 1), r(0, 2, 3)],
    "seen, and then not": [w(1, 0, 10), r(1, 1, 2), r(0, 3, 4)],
    "back and forth": [w(1, 0, 20), w(2, 0, 20), r(1, 1, 2), r(2, 3, 4), r(1, 5, 6)],
    "from the future": [r(1, 0, 1), w(1, 2, 3)],
    "from nowhere": [r(7, 0, 1)],
    "a failed write that came, went, and came": [w(1, 0, FOR_EVER), w(2, 1, 30), r(1, 2, 3), r(2, 4, 5), r(1, 6, 7)],
    "written while another stood": [w(1, 0, 1), w(2, 2, 3), r(1, 1, 5), r(1, 4, 6)],
    "two hosts, each with its own": [w(1, 0, 1), w(2, 0, 1), r(1, 2, 3), r(2, 2, 3), r(1, 4, 5), r(2, 4, 5)],
}


@pytest.mark.parametrize("case", POSSIBLE)
def test_what_one_register_can_do_passes(case: str) -> None:
    check_block(POSSIBLE[case])


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_one_register_cannot_do_is_found(case: str) -> None:
    with pytest.raises(NotOneDisk):
        check_block(IMPOSSIBLE[case])


def by_trying_all_orders(accesses: list[Access]) -> bool:
    """What linearizable means, word for word."""
    unknown = [access for access in accesses if access.ended == FOR_EVER]
    known = [access for access in accesses if access.ended != FOR_EVER]
    for count in range(len(unknown) + 1):
        for some in itertools.combinations(unknown, count):
            for order in itertools.permutations([*known, *some]):
                if any(b.ended < a.began for a, b in itertools.combinations(order, 2)):
                    continue
                value = 0
                for access in order:
                    if access.is_write:
                        value = access.value
                    elif access.value != value:
                        break
                else:
                    return True
    return False


def test_it_agrees_with_trying_all_orders() -> None:
    chosen, found = random.Random(3), [0, 0]
    for _ in range(1500):
        accesses: list[Access] = []
        writes = chosen.randrange(1, 4)
        for value in range(1, writes + 1):
            began = chosen.randrange(12)
            ended = FOR_EVER if chosen.random() < 0.3 else began + chosen.randrange(1, 8)
            accesses.append(w(value, began + value / 100, ended + value / 100))
        for number in range(chosen.randrange(1, 4)):
            began = chosen.randrange(12)
            accesses.append(
                r(chosen.randrange(writes + 1), began + number / 1000, began + chosen.randrange(1, 5) + number / 1000)
            )
        expected = by_trying_all_orders(accesses)
        found[expected] += 1
        try:
            check_block(accesses)
            assert expected, "\n".join(map(str, accesses))
        except NotOneDisk:
            assert not expected, "\n".join(map(str, accesses))
    assert min(found) > 200, found


LOSS = [Loss(100, 110)]
SURVIVABLE = {
    "everything survived": ([w(1, 0, 1), r(1, 120, 121)], []),
    "what was not flushed is gone": ([w(1, 0, 1), w(2, 4, 5), r(1, 120, 121)], [Flush(2, 3)]),
    "all is gone": ([w(1, 0, 1), r(0, 120, 121)], []),
    "a flush that ended later promises nothing": ([w(1, 0, 1), r(0, 120, 121)], [Flush(2, 105)]),
    "what was under way may be there": ([w(1, 0, 1), w(2, 99, 103), r(2, 120, 121)], []),
    "what the new owner was asked at once is there": (
        [w(1, 0, 1), w(2, 2, 3, block=1), w(3, 105, 106), r(3, 120, 121), r(0, 120, 121, block=1)],
        [],
    ),
    "what was under way may be gone": ([w(1, 0, 1), w(2, 99, 103), r(1, 120, 121)], []),
    "a prefix": ([w(1, 0, 1), w(2, 2, 3, block=1), r(1, 120, 121), r(0, 120, 121, block=1)], []),
    "nobody looked before it was overwritten": ([w(1, 0, 1), w(2, 120, 121), r(2, 122, 123)], [Flush(2, 3)]),
    "the life before the loss": (
        [w(1, 0, 1), r(1, 2, 3), w(2, 4, 5), r(2, 6, 7), r(1, 120, 121), w(3, 122, 123), r(3, 124, 125)],
        [],
    ),
}
NOT_SURVIVABLE = {
    "flushed, and gone": ([w(1, 0, 1), r(0, 120, 121)], [Flush(2, 3)]),
    "flushed, and an older one there": ([w(1, 0, 1), w(2, 2, 3), r(1, 120, 121)], [Flush(4, 5)]),
    "a gap": ([w(1, 0, 1), w(2, 2, 3, block=1), r(0, 120, 121), r(2, 120, 121, block=1)], []),
    "both, one after the other": ([w(1, 0, 1), w(2, 2, 3), r(2, 120, 121), r(1, 122, 123)], []),
    "stale after it": ([w(1, 0, 1), w(2, 120, 121), r(1, 122, 123)], []),
    "stale before it": ([w(1, 0, 1), w(2, 2, 3), r(1, 4, 5), r(2, 120, 121)], []),
    "from nowhere": ([r(5, 120, 121)], []),
}  # fmt: skip


@pytest.mark.parametrize("case", SURVIVABLE)
def test_what_may_go_with_a_host_may_go(case: str) -> None:
    accesses, flushes = SURVIVABLE[case]
    check_disk(accesses, flushes, LOSS)


@pytest.mark.parametrize("case", NOT_SURVIVABLE)
def test_what_may_not_go_with_a_host_is_missed(case: str) -> None:
    accesses, flushes = NOT_SURVIVABLE[case]
    with pytest.raises(NotOneDisk):
        check_disk(accesses, flushes, LOSS)


LOSSES = [Loss(100, 110), Loss(200, 210)]
FIRST = [w(1, 0, 1), w(2, 2, 3), r(1, 120, 121)]  # 2 went with the first host


@pytest.mark.parametrize(
    ("accesses", "flushes"),
    [
        ([*FIRST, r(1, 220, 221)], []),
        ([*FIRST, r(0, 220, 221)], []),
        ([*FIRST, w(3, 122, 123), r(1, 220, 221)], []),
        ([*FIRST, w(3, 122, 123), r(3, 220, 221)], [Flush(124, 125)]),
    ],
)
def test_two_hosts_are_lost_and_it_may_have_been_so(accesses: list[Access], flushes: list[Flush]) -> None:
    check_disk(accesses, flushes, LOSSES)


@pytest.mark.parametrize(
    ("accesses", "flushes"),
    [
        ([*FIRST, r(2, 220, 221)], []),  # it had been lost
        ([*FIRST, r(0, 220, 221)], [Flush(124, 125)]),  # flushed in the second life, though written in the first
        ([*FIRST, w(3, 122, 123), r(1, 220, 221)], [Flush(124, 125)]),
        ([*FIRST, w(3, 122, 123, block=1), r(0, 220, 221), r(3, 220, 221, block=1)], []),  # older than what survived
    ],
)
def test_two_hosts_are_lost_and_it_cannot_have_been_so(accesses: list[Access], flushes: list[Flush]) -> None:
    with pytest.raises(NotOneDisk):
        check_disk(accesses, flushes, LOSSES)


def c(verb: Verb, name: str, result: Result, began: float, ended: float, content: str = "", target: str = "") -> Call:
    return Call(verb, name, result, began, ended, content, target)


DONE, EXISTS, ABSENT, UNKNOWN = Result.DONE, Result.EXISTS, Result.ABSENT, Result.UNKNOWN
CREATE, RENAME, UNLINK, LOOK = Verb.CREATE, Verb.RENAME, Verb.UNLINK, Verb.LOOK
POSSIBLE_NAMES = {
    "one of two creates wins": [
        c(CREATE, "a", DONE, 0, 5, "1"), c(CREATE, "a", EXISTS, 0, 5, "2"), c(LOOK, "a", DONE, 6, 7, "1"),
    ],
    "looked at before": [c(CREATE, "a", DONE, 0, 5, "1"), c(LOOK, "a", ABSENT, 1, 2)],
    "unlinked and made again": [
        c(CREATE, "a", DONE, 0, 1, "1"), c(UNLINK, "a", DONE, 2, 9), c(CREATE, "a", DONE, 3, 8, "2"),
        c(LOOK, "a", DONE, 10, 11, "2"),
    ],
    "renamed over": [
        c(CREATE, "a", DONE, 0, 1, "1"), c(CREATE, "b", DONE, 0, 1, "2"), c(RENAME, "a", DONE, 2, 3, target="b"),
        c(LOOK, "b", DONE, 4, 5, "1"), c(LOOK, "a", ABSENT, 4, 5),
    ],
    "two renames at once": [
        c(CREATE, "a", DONE, 0, 1, "1"), c(RENAME, "a", DONE, 2, 5, target="b"), c(RENAME, "a", DONE, 3, 6, target="b"),
    ],
    "an unknown rename happened": [
        c(CREATE, "a", DONE, 0, 1, "1"), c(RENAME, "a", UNKNOWN, 2, FOR_EVER, target="b"), c(LOOK, "b", DONE, 4, 5, "1"),
    ],
    "an unknown rename did not happen": [
        c(CREATE, "a", DONE, 0, 1, "1"), c(RENAME, "a", UNKNOWN, 2, FOR_EVER, target="b"), c(LOOK, "a", DONE, 4, 5, "1"),
    ],
}  # fmt: skip
IMPOSSIBLE_NAMES = {
    "two creates win": [c(CREATE, "a", DONE, 0, 5, "1"), c(CREATE, "a", DONE, 0, 5, "2")],
    "a stale look": [c(CREATE, "a", DONE, 0, 1, "1"), c(LOOK, "a", ABSENT, 2, 3)],
    "two unlinks of one": [c(CREATE, "a", DONE, 0, 1, "1"), c(UNLINK, "a", DONE, 2, 5), c(UNLINK, "a", DONE, 2, 5)],
    "renamed, and still there": [
        c(CREATE, "a", DONE, 0, 1, "1"), c(RENAME, "a", DONE, 2, 3, target="b"), c(LOOK, "a", DONE, 4, 5, "1"),
    ],
    "neither name during a rename": [
        c(CREATE, "a", DONE, 0, 1, "1"), c(RENAME, "a", DONE, 2, 9, target="b"),
        c(LOOK, "b", ABSENT, 5, 6), c(LOOK, "a", ABSENT, 3, 4),
    ],
    "two renames, one after the other": [
        c(CREATE, "a", DONE, 0, 1, "1"), c(RENAME, "a", DONE, 2, 3, target="b"), c(RENAME, "a", DONE, 4, 5, target="b"),
    ],
    "two renames at once to two names": [
        c(CREATE, "a", DONE, 0, 1, "1"), c(RENAME, "a", DONE, 2, 5, target="b"), c(RENAME, "a", DONE, 2, 5, target="c"),
    ],
    "the loser's content": [c(CREATE, "a", DONE, 0, 5, "1"), c(CREATE, "a", EXISTS, 0, 5, "2"), c(LOOK, "a", DONE, 6, 7, "2")],
    "an unknown create came and went": [
        c(CREATE, "a", UNKNOWN, 0, FOR_EVER, "1"), c(LOOK, "a", DONE, 1, 2, "1"), c(LOOK, "a", ABSENT, 3, 4),
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", POSSIBLE_NAMES)
def test_what_one_directory_can_do_passes(case: str) -> None:
    check_names(POSSIBLE_NAMES[case])


@pytest.mark.parametrize("case", IMPOSSIBLE_NAMES)
def test_what_one_directory_cannot_do_is_found(case: str) -> None:
    with pytest.raises(NotOneDirectory):
        check_names(IMPOSSIBLE_NAMES[case])
