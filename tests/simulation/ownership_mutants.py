"""The protocol with one clause taken out at a time. The simulation must notice each, or it proves nothing about that clause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from objectrouter import handover_source as hs
from objectrouter.forwarder import Forwarder
from objectrouter.owned import OwnedObject
from objectrouter.requests import Reply, Request, RequestKind
from registry import DtlState, objects, ownership
from tests.simulation import ownership_place
from tests.simulation.ownership_truth import Violation
from tests.simulation.ownership_weather import BEHIND, CUT_OFF, DEAF, DEATHS, LATE, LOOSE, MOVES, PAUSES, STALE, Weather
from tests.simulation.ownership_world import Parts, World
from volumedriver import DtlSender, DtlStore, Executed, Fenced, Send, SubmitSteal, Thief, steal, without_loss
from volumedriver.dtl_messages import Begin


class ResumesByTimeOut(hs.HandoverSource):
    """The source takes a time-out of its transfer for a no."""

    def _give_up(self, now: float) -> list[hs.Effect]:
        return self._back(now) if self.phase == "deciding" else super()._give_up(now)


class ProposesInSyncEarly(DtlSender):
    def _towards_sync(self) -> list[Any]:
        self._guard_lsn = self._end
        return [self._propose(DtlState.IN_SYNC, self.dtl.peer)]


class GuardsLate(DtlSender):
    """*In sync* is proposed when the peer holds everything, but flushes wait only when it is committed."""

    def covers(self, lsn: int) -> bool:
        return self.dtl.state is not DtlState.IN_SYNC or self.stored_through >= lsn


class RecordsDegradedLate(DtlSender):
    """Unprotected flushes are acknowledged while *degraded* is on its way."""

    def covers(self, lsn: int) -> bool:
        leaving = self.proposal is not None and self.proposal.state is DtlState.DEGRADED
        return leaving or super().covers(lsn)


class NeverWaitsForFollower(DtlSender):
    """The lag of an asynchronous peer is told, and not bounded."""

    @property
    def is_within_bound(self) -> bool:
        return True


class LetsFollowerGoLate(DtlSender):
    """The bound is passed while *degraded* is on its way."""

    @property
    def is_within_bound(self) -> bool:
        leaving = self.proposal is not None and self.proposal.state is DtlState.DEGRADED
        return leaving or super().is_within_bound


class SaysFollowingEarly(DtlSender):
    def _towards_following(self) -> list[Any]:
        self._is_bounded = True
        return [self._propose(DtlState.FOLLOWING, self.dtl.peer)]


class _KnowsNothing(Executed):
    def record_of(self, origin: Any) -> tuple[int, int] | None:
        return None

    def is_over(self, origin: Any) -> bool:
        return False


class WithoutIds(OwnedObject):
    def request(self, request: Request, now: float) -> list[Any]:
        if not isinstance(self.executed_table, _KnowsNothing):
            self.executed_table = _KnowsNothing()
        self._executing.pop(request.origin, None)
        return super().request(request, now)


class TakesOldReplies(Forwarder):
    def _counts(self, reply: Reply, pending: Any) -> bool:
        return True


class ChecksLeaseAtAdmission(OwnedObject):
    def _begin(self, request: Request, now: float) -> list[Any]:
        return super()._begin(request, now) if self._may_reply(now) else []

    def changed(self, now: float) -> list[Any]:
        allowed, self._may_reply = self._may_reply, lambda now: True
        try:
            return super().changed(now)
        finally:
            self._may_reply = allowed


class ReadsWhileDraining(OwnedObject):
    def request(self, request: Request, now: float) -> list[Any]:
        held, self.held = self.held, self.held and request.kind is not RequestKind.READ
        try:
            return super().request(request, now)
        finally:
            self.held = held

    def executed(self, origin: Any, value: object, lsn: int, now: float) -> list[Any]:
        held, self.held = self.held, self.held and lsn > 0
        try:
            return super().executed(origin, value, lsn, now)
        finally:
            self.held = held


class StealsBeforeFencing(Thief):
    """The new epoch first, then the fence and the tail."""

    _won: Any = None

    def begin(self, now: float) -> list[Any]:
        effects = super().begin(now)
        if self._step == "fencing":
            self._step, self._won = "stealing", None
            return [SubmitSteal(self.record.epoch, self.record.dtl.version, self.record.dtl.peer, False, False)]
        return effects

    def outcome(self, record: Any, why: str = "") -> list[Any]:
        if record is None or not without_loss(self.record):
            return super().outcome(record, why)
        self._won, self._step = record, "fencing"
        return self._ask(0.0)

    def changed(self, record: Any, owner: Any) -> list[Any]:
        return []

    def kept(self, now: float) -> list[Any]:
        return super().outcome(self._won)


class FencesNobody(DtlStore):
    """The peer answers a thief at once, and goes on taking what the owner sends."""

    def _fence(self, thief: str, message: Any) -> list[Any]:
        kept = self.kept
        fenced = Fenced(
            self.object, message.epoch, kept.epoch > 0, kept.trimmed_through, self.end_lsn, kept.lineage, kept.executed
        )
        return [Send(thief, fenced)]

    def receive(self, sender: str, message: Any, now: float) -> list[Any]:
        from volumedriver import Fetch, SendRecords

        if isinstance(message, Fetch):
            return [SendRecords(sender, message.epoch, message.first_lsn)]
        return super().receive(sender, message, now)


class BreaksItsWord(DtlStore):
    """A fence is confirmed while the word given to the owner is still good."""

    def tick(self, now: float) -> list[Any]:
        self._word_until = min(self._word_until, now)
        return super().tick(now)


class TakesLateSessions(DtlStore):
    """A late beginning of an older session cuts what came after it."""

    def _begin(self, owner: str, message: Begin) -> list[Any]:
        if (message.epoch, message.session) < (self.kept.epoch, self.kept.session):
            self.kept = replace(self.kept, epoch=message.epoch, session=message.session - 1)
        return super()._begin(owner, message)


class PromisesWhatIsGone(OwnedObject):
    """A flush does not look whether what it is for has survived."""

    def _begin_flush(self, request: Request, now: float) -> list[Any]:
        return super()._begin_flush(replace(request, acknowledged=()), now)


class ForgetsBans(OwnedObject):
    def ban(self, node: str, incarnation: int) -> None:
        pass


@dataclass(frozen=True)
class Mutation:
    name: str
    parts: Parts = field(default_factory=Parts)
    weather: Weather | None = None  # in which it shows soon
    registry: tuple[tuple[Any, str, Callable[..., Any]], ...] = ()

    def first_seed_that_catches(self, monkeypatch: pytest.MonkeyPatch, seeds: int) -> int | None:
        """The number of seeds it takes."""
        for module, name, mutant in self.registry:
            monkeypatch.setattr(module, name, mutant)
        for seed in range(seeds):
            try:
                World(seed, self.parts, self.weather).run()
            except Violation:
                return seed + 1
            except AssertionError as error:
                if "stuck" not in str(error):
                    raise
        return None


def _any_attempt(record: Any, attempt: int) -> None:
    pass


def _same_dtl(dtl: Any, command: Any) -> Any:
    return dtl


def _any_head(record: Any, advance: Any) -> None:
    pass


def _follower_has_all(record: Any) -> bool:
    return record.dtl.state in (DtlState.IN_SYNC, DtlState.FOLLOWING) and record.dtl.peer not in ("", record.owner)


def _any_peer_has_some(record: Any) -> bool:
    return record.dtl.peer not in ("", record.owner)


def _fenced_follower_will_do(record: Any, command: Any) -> bool:
    return _follower_has_all(record) and command.fenced_peer == record.dtl.peer


MUTATIONS = [
    Mutation("transfer without attempt", registry=((ownership, "_check_attempt", _any_attempt),)),
    Mutation("transfer without abort", Parts(source=ResumesByTimeOut)),
    Mutation("restart without new epoch", Parts(restart_takes_epoch=False)),
    Mutation("cut beyond the head", Parts(cut_at_head=False)),
    Mutation("head over a gap", registry=((objects, "_check_advance", _any_head),)),
    Mutation("transfer that leaves the DTL state", registry=((ownership, "_handed_over", _same_dtl),)),
    Mutation("in sync proposed early", Parts(sender=ProposesInSyncEarly)),
    Mutation("flushes wait late", Parts(sender=GuardsLate)),
    Mutation("degraded recorded late", Parts(sender=RecordsDegradedLate)),
    Mutation("no request ids", Parts(owned=WithoutIds)),
    Mutation("reply of an old epoch accepted", Parts(forwarder=TakesOldReplies), STALE),
    Mutation("lease checked at admission", Parts(owned=ChecksLeaseAtAdmission), PAUSES),
    Mutation("reads served while draining", Parts(owned=ReadsWhileDraining), MOVES),
    Mutation("steal before the peer is fenced", Parts(thief=StealsBeforeFencing), CUT_OFF),
    Mutation("peer that does not fence", Parts(store=FencesNobody), CUT_OFF),
    Mutation("fence before the peer's word has run out", Parts(store=BreaksItsWord), DEAF),
    Mutation("late session taken", Parts(store=TakesLateSessions), LATE),
    Mutation("flush of what is gone", Parts(owned=PromisesWhatIsGone), LOOSE),
    Mutation("clients of an expired life served", Parts(owned=ForgetsBans), DEATHS),
    Mutation("lag of a follower not bounded", Parts(sender=NeverWaitsForFollower), BEHIND),
    Mutation("follower let go late", Parts(sender=LetsFollowerGoLate), BEHIND),
    Mutation("following proposed early", Parts(sender=SaysFollowingEarly), BEHIND),
    Mutation(
        "asynchronous counted as in sync",
        Parts(),
        BEHIND,
        (
            (steal, "without_loss", _follower_has_all),
            (ownership_place, "without_loss", _follower_has_all),
            (ownership, "_has_fenced_tail", _fenced_follower_will_do),
        ),
    ),
    Mutation("tail of a peer of no session taken", Parts(), BEHIND, ((steal, "has_some_tail", _any_peer_has_some),)),
]
