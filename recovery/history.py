"""How far the objects of one log prove its history: the furthest head that a registry may be given.

Pure: works on TLogs that were read and on what was found of their SCOs. A head is *proven* when an unbroken chain of TLogs leads
to it from a head that the registry is known to have had (or from the log's beginning), each naming its predecessor by checksum,
and all SCOs on the way are there and right. Everything that was ever committed is in such a chain, since a head is committed only
after all its objects are safe; what was sent but not committed may be in it too, if its epoch was the last: those are writes that
were acknowledged, in their order.

Of two continuations the one of the higher epoch counts: its first TLog names the base of that epoch, which was the head when the
epoch began, so whatever the older epoch sent beyond it was never part of the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine import TlogContents, TlogRef
from registry import TlogName


@dataclass(frozen=True, slots=True)
class ScoFact:
    """One SCO that a TLog covers, as the TLog has it."""

    number: int
    clusters: int  # > 0
    crc: int


@dataclass(frozen=True, slots=True)
class TlogFact:
    """What one TLog of the backend says; verified by its own checksum."""

    name: TlogName
    previous: TlogName | None
    first_of_epoch: bool
    next_sco: int
    scos: tuple[ScoFact, ...]


def fact_of(contents: TlogContents) -> TlogFact:
    """A TLog as it was read."""
    scos = tuple(ScoFact(sco.number, sco.clusters, sco.crc) for sco in contents.scos if sco.clusters)
    previous = contents.previous
    return TlogFact(
        _name(contents.ref), None if previous is None else _name(previous), contents.first_of_epoch, contents.next_sco, scos
    )


def furthest(facts: Iterable[TlogFact], start: TlogName | None, epoch_min: int) -> list[TlogFact]:
    """The TLogs that follow ``start`` (None: the beginning) in the one history that counts, oldest first.

    ``epoch_min``: the epoch that the registry is known to have reached; what older epochs have beyond ``start`` does not count.
    """
    following: dict[TlogName | None, list[TlogFact]] = {}
    for each in facts:
        if each.name.epoch >= epoch_min:
            following.setdefault(each.previous, []).append(each)
    before: dict[TlogName, TlogFact | None] = {}
    best: TlogFact | None = None
    waiting: list[tuple[TlogName | None, TlogFact | None]] = [(start, None)]
    while waiting:
        name, fact = waiting.pop()
        for onward in following.get(name, ()):
            if onward.name in before or not _follows(onward, name):
                continue
            before[onward.name] = fact
            if best is None or _order(onward) > _order(best):
                best = onward
            waiting.append((onward.name, onward))
    way: list[TlogFact] = []
    step = best
    while step is not None:
        way.append(step)
        step = before[step.name]
    return way[::-1]


def beginnings(facts: Sequence[TlogFact]) -> list[TlogName | None]:
    """Where histories may begin when nothing is known: the log's beginning, or TLogs that are named but not there."""
    there = {fact.name for fact in facts}
    return list({fact.previous: None for fact in facts if fact.previous not in there})


def _follows(fact: TlogFact, previous: TlogName | None) -> bool:
    if previous is None:
        return fact.name.number == 1
    if fact.name.number != previous.number + 1:
        return False
    return fact.name.epoch > previous.epoch if fact.first_of_epoch else fact.name.epoch == previous.epoch


def _order(fact: TlogFact) -> tuple[int, int]:
    return fact.name.epoch, fact.name.number


def _name(ref: TlogRef) -> TlogName:
    return TlogName(ref.epoch, ref.number, ref.combined_sco, ref.checksum)
