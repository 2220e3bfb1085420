"""Whether what several clients saw of blocks on shared disks could have come from one disk that did one thing at a time.

Each block is a register. Every write has a value of its own, so that a read says which write it has seen; for such histories
linearizability is decided by intervals (Gibbons and Korach, "Testing Shared Memories", 1997): a write and its reads are one
*cluster*, in which everything must be able to happen without another cluster between. The outcome of a write that failed is
*unknown*: it may have happened, at any time after it was begun, or not at all; if nobody has read it, it need not have.

Where a disk has lost its newest writes on purpose (a host is gone, and what was not flushed with it), ``check_disk`` is told
when, and looks at the lives before and after one by one: what begins the new life must be a *prefix* of what was written, and
nothing that was flushed may be missing. Times are of one clock of the test, in nanoseconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

FOR_EVER = math.inf
INITIAL = 0  # value of a block that nobody has written
UNSEEN = -1  # value that a life began with, if nobody has read it


class NotOneDisk(AssertionError):
    """A history that no single disk can have; says which block, and what contradicts."""


@dataclass(frozen=True, slots=True)
class Access:
    """One request on one block, as its client saw it.

    Attributes:
        value: written, or read.
        ended: when it was answered; ``FOR_EVER``: a write of unknown outcome.
    """

    block: int
    is_write: bool
    value: int
    began: float
    ended: float
    who: str = ""

    def __str__(self) -> str:
        what = "write of" if self.is_write else "read of"
        end = "unknown" if self.ended == FOR_EVER else f"{self.ended / 1e9:.6f}"
        return f"block {self.block}: {what} {self.value} by {self.who} from {self.began / 1e9:.6f} to {end}"


@dataclass(frozen=True, slots=True)
class Flush:
    """A flush that succeeded: what was answered before it began is safe once it has ended."""

    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Loss:
    """The disk went on from a prefix of its writes, at some time in this interval."""

    began: float
    ended: float


@dataclass(slots=True)
class _Cluster:
    """A write and its reads."""

    write: Access
    reads: list[Access]

    @property
    def first_end(self) -> float:
        return min(access.ended for access in (self.write, *self.reads))

    @property
    def last_begin(self) -> float:
        return max(access.began for access in (self.write, *self.reads))

    @property
    def is_forward(self) -> bool:
        """Whether its value must have stood for some time, from ``first_end`` to ``last_begin``."""
        return self.first_end < self.last_begin


def check_block(accesses: Sequence[Access], initial: int = INITIAL) -> None:
    """One block, from a known beginning. Raises ``NotOneDisk``."""
    clusters = _clusters(accesses, initial)
    for cluster in clusters:
        for read in cluster.reads:
            if read.ended < cluster.write.began:
                raise NotOneDisk(f"read before it was written:\n{read}\n{cluster.write}")
    forward = sorted((each for each in clusters if each.is_forward), key=lambda each: each.first_end)
    for one, next_ in pairwise(forward):
        if next_.first_end < one.last_begin:
            raise NotOneDisk(f"two values at one time:\n{_shown(one)}\n{_shown(next_)}")
    begins = [each.first_end for each in forward]
    for cluster in clusters:
        at = bisect_left(begins, cluster.last_begin) - 1  # the last that began before it; none overlap, so no other can hold it
        if not cluster.is_forward and at >= 0 and cluster.first_end < forward[at].last_begin:
            raise NotOneDisk(f"written while another value stood before and after:\n{_shown(cluster)}\n{_shown(forward[at])}")


def _clusters(accesses: Sequence[Access], initial: int) -> list[_Cluster]:
    beginning = Access(accesses[0].block if accesses else 0, True, initial, -FOR_EVER, -FOR_EVER, "the beginning")
    clusters = {initial: _Cluster(beginning, [])}
    for access in accesses:
        if access.is_write:
            if access.value in clusters:
                raise ValueError(f"not a value of its own: {access}")
            clusters[access.value] = _Cluster(access, [])
    for access in accesses:
        if not access.is_write:
            if access.value not in clusters:
                raise NotOneDisk(f"nobody has written that: {access}")
            clusters[access.value].reads.append(access)
    return [each for each in clusters.values() if each.reads or each.write.ended != FOR_EVER]


def _shown(cluster: _Cluster) -> str:
    return "\n".join(str(access) for access in (cluster.write, *sorted(cluster.reads, key=lambda read: read.began)))


def check_disk(accesses: Iterable[Access], flushes: Iterable[Flush] = (), losses: Sequence[Loss] = ()) -> None:
    """All blocks of one object, over losses that are known. Raises ``NotOneDisk``."""
    blocks: defaultdict[int, list[Access]] = defaultdict(list)
    for access in accesses:
        blocks[access.block].append(access)
    flushed = list(flushes)
    before: Loss | None = None
    since = Loss(-FOR_EVER, -FOR_EVER)  # what the life before that began with
    begun: dict[int, Access | None] = dict.fromkeys(blocks)  # by block that somebody has seen: the write that a life began with
    for loss in [*sorted(losses, key=lambda loss: loss.began), Loss(FOR_EVER, FOR_EVER)]:
        begins: dict[int, Access | None] = {}
        for block, history in blocks.items():
            life = _life(history, before, loss)
            if before is None:
                check_block(life)
            else:
                _check_life(block, life, _could_begin(block, history, begun, since, before), begins)
        if before is not None:
            _check_prefix(blocks, begins, begun, flushed, since, before)
            begun, since = begins, before
        before = loss


def _could_begin(
    block: int, history: Sequence[Access], begun: Mapping[int, Access | None], since: Loss, loss: Loss
) -> list[Access]:
    """Writes that may be what is left after a loss: those of the life that it ended, and what that life had begun with."""
    writes = [access for access in history if access.is_write and access.began < loss.ended]
    if block not in begun:
        return writes  # nobody has looked
    return [access for access in writes if access.ended > since.began or access is begun[block]]


def _life(history: Sequence[Access], before: Loss | None, loss: Loss) -> list[Access]:
    """What belongs to the life between two losses; writes that reach into or over one are of unknown outcome in both."""
    start, since = (-FOR_EVER, -FOR_EVER) if before is None else (before.ended, before.began)
    found = []
    for access in history:
        if access.ended <= since or access.began >= loss.began:
            continue
        if access.is_write:
            began = -FOR_EVER if access.began < start else access.began
            is_whole = access.began >= start and access.ended <= loss.began
            found.append(replace(access, began=began, ended=access.ended if is_whole else FOR_EVER))
        elif access.began >= start and access.ended <= loss.began:
            found.append(access)
    return found


def _check_life(block: int, life: list[Access], earlier: list[Access], begins: dict[int, Access | None]) -> None:
    """One block in a life that began with something earlier; ``begins`` gets the write that this was, if somebody has seen it."""
    own = {access.value for access in life if access.is_write}
    foreign = {access.value for access in life if not access.is_write} - own
    if len(foreign) > 1:
        raise NotOneDisk(f"a life began with several values of block {block}: {sorted(foreign)}")
    if not foreign:
        check_block(life, UNSEEN)
        return
    value = foreign.pop()
    check_block(life, value)
    begins[block] = next((access for access in earlier if access.value == value), None)
    if value != INITIAL and begins[block] is None:
        raise NotOneDisk(f"that cannot be left: {next(each for each in life if each.value == value)}")


def _check_prefix(
    blocks: Mapping[int, list[Access]],
    begins: Mapping[int, Access | None],
    begun: Mapping[int, Access | None],
    flushes: Sequence[Flush],
    since: Loss,
    loss: Loss,
) -> None:
    """What survived a loss is the beginning of what there was, and has all that was flushed.

    A write is *lost* if its block shows one that had ended before it began. Nothing that began after its end may have survived
    then.
    """
    lost = []
    for block, survivor in begins.items():
        end = -FOR_EVER if survivor is None else survivor.ended
        whole = [each for each in blocks[block] if each.is_write and each.began >= since.ended and each.ended <= loss.began]
        whole += [each for each in [begun.get(block)] if each is not None]
        lost += [access for access in whole if access.began > end]
    for access in lost:
        if any(access.ended < flush.began and flush.ended <= loss.began for flush in flushes):
            raise NotOneDisk(f"flushed, and lost:\n{access}")
    if not lost:
        return
    first = min(lost, key=lambda access: access.ended)
    for survivor in begins.values():
        if survivor is not None and survivor.began > first.ended:
            raise NotOneDisk(f"lost, though a later write survived:\n{first}\n{survivor}")
