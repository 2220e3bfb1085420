"""Which TLogs prove how far a log's history goes."""

from __future__ import annotations

from recovery.history import TlogFact, beginnings, furthest
from registry import TlogName


def tlog(epoch: int, number: int, previous: TlogFact | None, *, first: bool = False) -> TlogFact:
    name = TlogName(epoch, number, 0, epoch * 1000 + number)
    return TlogFact(name, previous.name if previous else None, first, number + 1, ())


A1 = tlog(1, 1, None, first=True)
A2 = tlog(1, 2, A1)
A3 = tlog(1, 3, A2)
A4 = tlog(1, 4, A3)
B3 = tlog(3, 3, A2, first=True)
B4 = tlog(3, 4, B3)
C4 = tlog(7, 4, B3, first=True)


def names(way: list[TlogFact]) -> list[tuple[int, int]]:
    return [(fact.name.epoch, fact.name.number) for fact in way]


def test_a_chain_is_followed_from_the_head_that_is_known() -> None:
    facts = [A4, A2, A1, A3]
    assert names(furthest(facts, None, 0)) == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert names(furthest(facts, A2.name, 1)) == [(1, 3), (1, 4)]
    assert furthest(facts, A4.name, 1) == []


def test_a_gap_ends_it() -> None:
    assert names(furthest([A1, A2, A4], None, 0)) == [(1, 1), (1, 2)]


def test_the_base_of_a_later_epoch_cuts_off_what_the_older_one_sent_beyond_it() -> None:
    """Else writes that a restart had undone would come back in the middle of later ones."""
    facts = [A1, A2, A3, A4, B3, B4]
    assert names(furthest(facts, None, 0)) == [(1, 1), (1, 2), (3, 3), (3, 4)]
    assert names(furthest([*facts, C4], None, 0)) == [(1, 1), (1, 2), (3, 3), (7, 4)], "the newest epoch says where it began"


def test_an_epoch_that_the_registry_had_reached_excludes_older_ones_beyond_its_base() -> None:
    """The export says epoch 3 with base 2: what epoch 1 sent beyond was never committed, whatever epoch 3 has sent."""
    assert furthest([A3, A4], A2.name, 3) == []
    assert names(furthest([A3, A4, B3], A2.name, 3)) == [(3, 3)]


def test_a_first_tlog_must_be_of_a_later_epoch_and_others_of_the_same() -> None:
    odd = tlog(2, 3, A2)
    stale = tlog(1, 3, A2, first=True)
    assert furthest([odd, stale], A2.name, 1) == []


def test_another_checksum_is_another_tlog() -> None:
    other = TlogFact(TlogName(1, 3, 0, 99), TlogName(1, 2, 0, 5), False, 4, ())
    assert furthest([other], A2.name, 1) == []


def test_without_a_beginning_a_history_begins_behind_what_is_named_and_not_there() -> None:
    assert beginnings([A3, A4]) == [A2.name]
    assert beginnings([A1, A2]) == [None]
    assert names(furthest([A3, A4], A2.name, 0)) == [(1, 3), (1, 4)]
