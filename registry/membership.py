"""Who takes part in Raft: voters and learners, as an entry of the log; and the next step from what is to what should be. Pure.

A membership is written whole, takes effect when it is appended, and differs from the one before by one member (Ongaro 2014, 4.1).
That is why ``next_step`` gives one step at a time: two memberships that follow each other always have a voter in common in
every two majorities.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from registry.codec import Malformed, pack, unpack


@dataclass(frozen=True, slots=True)
class Membership:
    """Ids of nodes, ascending. ``learners`` receive the log and do not count."""

    voters: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()

    @property
    def everybody(self) -> tuple[str, ...]:
        return self.voters + self.learners

    def is_majority(self, nodes: Set[str]) -> bool:
        """Whether these nodes may decide."""
        return 2 * sum(voter in nodes for voter in self.voters) > len(self.voters)

    def with_learner(self, node: str) -> Membership:
        """A new member, or a voter that becomes a learner."""
        return Membership(_without(self.voters, node), _with(self.learners, node))

    def with_voter(self, node: str) -> Membership:
        return Membership(_with(self.voters, node), _without(self.learners, node))

    def without(self, node: str) -> Membership:
        return Membership(_without(self.voters, node), _without(self.learners, node))


def encode_membership(membership: Membership) -> bytes:
    """Bytes for the log."""
    return pack([list(membership.voters), list(membership.learners)])


def decode_membership(data: bytes) -> Membership:
    """The reverse. Errors: ``Malformed``."""
    return membership_of(unpack(data))


def membership_of(plain: Any) -> Membership:
    """From plain data. Errors: ``Malformed``."""
    if not (isinstance(plain, list) and len(plain) == 2 and all(_is_ids(part) for part in plain)):
        raise Malformed("not a membership")
    voters, learners = plain
    if set(voters) & set(learners):
        raise Malformed("a member is voter and learner")
    return Membership(tuple(voters), tuple(learners))


def next_step(now: Membership, wanted: Membership, alive: Set[str], caught_up: Set[str], leader: str) -> Membership | None:
    """The membership that should follow, one member away; None: there is nothing to do, or nothing that may be done now.

    New members come as learners first. Voters that are dead go before others come, others go after them, and the leader last. No
    step is taken after which those that are alive would not be a majority, or nobody would vote.

    Args:
        now: the membership in force, committed.
        wanted: what it should become.
        alive: nodes that have answered lately, the leader among them.
        caught_up: learners that have (nearly) the whole log.
        leader: who asks.
    """
    if now == wanted or not wanted.voters:
        return None
    for node in wanted.everybody:
        if node not in now.everybody:
            return now.with_learner(node)
    for node in now.learners:
        if node not in wanted.everybody:
            return now.without(node)
    going = sorted(set(now.voters) - set(wanted.voters), key=lambda node: (node in alive, node == leader, node))
    coming = [node for node in now.learners if node in wanted.voters and node in caught_up]
    steps = [_dropped(now, wanted, node) for node in going if node not in alive]
    steps += [now.with_voter(node) for node in coming]
    steps += [_dropped(now, wanted, node) for node in going if node in alive]
    for step in steps:
        if step.voters and step.is_majority(alive):
            return step
    return None


def is_one_step(before: Membership, after: Membership) -> bool:
    """Whether every majority of the one has a voter in every majority of the other."""
    return bool(after.voters) and len(set(before.voters) ^ set(after.voters)) <= 1


def _dropped(now: Membership, wanted: Membership, node: str) -> Membership:
    return now.with_learner(node) if node in wanted.learners else now.without(node)


def _with(nodes: tuple[str, ...], node: str) -> tuple[str, ...]:
    return tuple(sorted({*nodes, node}))


def _without(nodes: tuple[str, ...], node: str) -> tuple[str, ...]:
    return tuple(each for each in nodes if each != node)


def _is_ids(part: Any) -> bool:
    return isinstance(part, list) and all(isinstance(node, str) for node in part) and part == sorted(set(part))
