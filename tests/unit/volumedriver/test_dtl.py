"""The DTL's two sides and the thief, step by step; everything at once is in tests/simulation/test_ownership.py."""

from __future__ import annotations

from typing import Any

import pytest

from registry import Dtl, DtlState, NodeRecord, NodeStatus, ObjectKind, ObjectRecord, ObjectState, Remains
from volumedriver import (
    NOTHING_KEPT,
    Append,
    Consent,
    CoversMore,
    DtlSender,
    DtlStore,
    DtlTimings,
    Entries,
    Executed,
    Fenced,
    Fetch,
    Fetched,
    GaveUp,
    Keep,
    Kept,
    Lineage,
    Origin,
    Propose,
    Send,
    SendRecords,
    Ship,
    StagedMark,
    Stolen,
    Store,
    SubmitSteal,
    TailRecord,
    Thief,
    choose_peer,
    fate_of_log,
    log_to_open,
    may_be_stolen,
    thief_rank,
)
from volumedriver.dtl_lag import Lag
from volumedriver.dtl_messages import Begin, Fence, Open, Opened, Ping, Pong, Refused, Stored, Trim

V = "1" * 32
FIRST = Lineage(((1, 1),))


def records(first: int, last: int) -> tuple[TailRecord, ...]:
    return tuple(TailRecord(lsn, None, b"") for lsn in range(first, last + 1))


def messages(effects: list[Any]) -> list[Any]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def proposals(effects: list[Any]) -> list[DtlState]:
    return [effect.state for effect in effects if isinstance(effect, Propose)]


# -- lineage and table -------------------------------------------------------------------------------------------------


def test_logs_part_where_epochs_differ() -> None:
    old, new = Lineage(((1, 1), (2, 10))), Lineage(((1, 1), (3, 8)))
    assert old.common_end(20, new, 20) == 7
    assert old.common_end(5, new, 20) == 5
    assert old.common_end(20, Lineage(((4, 1),)), 20) == 0
    assert old.with_epoch(5, 10) == Lineage(((1, 1), (5, 10)))
    assert [old.epoch_at(lsn) for lsn in (0, 1, 9, 10)] == [0, 1, 1, 2]
    assert old.holds(2, 12, 12)
    assert not old.holds(1, 12, 12)
    assert not old.holds(2, 12, 11)


def test_a_table_keeps_what_is_not_confirmed_and_nothing_of_records_that_are_gone() -> None:
    table = Executed()
    first, second = Origin("a", 1, 1), Origin("a", 1, 2)
    table.note(first, 1, 5)
    table.note(second, 1, 6)
    table.settle("a", 1, 2)
    assert table.record_of(first) is None
    assert table.is_over(first)
    assert table.record_of(second) == (1, 6)
    assert Executed(table.entries(), FIRST, 6).record_of(second) == (1, 6)
    assert Executed(table.entries(), FIRST, 5).record_of(second) is None
    assert Executed(table.entries(), Lineage(((1, 1), (2, 6))), 9).record_of(second) is None  # cut off, and written anew
    table.note(Origin("a", 2, 1), 1, 7)
    assert table.is_over(second)  # a later life
    assert table.record_of(second) is None
    assert not table.fits(Origin("a", 2, 1 + 4096))


# -- the peer ----------------------------------------------------------------------------------------------------------


class Peer:
    """A store whose disk is always quick."""

    def __init__(self, kept: Kept = NOTHING_KEPT, end: int = 0) -> None:
        self.store = DtlStore(V, kept, end, 0.0, word_s=2.0, margin_s=0.5)
        self.stores: list[Store] = []

    def say(self, message: Any, now: float = 10.0, sender: str = "owner") -> list[Any]:
        said: list[Any] = []
        todo = self.store.receive(sender, message, now)
        while todo:
            effect = todo.pop(0)
            if isinstance(effect, Store):
                self.stores.append(effect)
                todo += self.store.stored(effect.token, now)
            elif isinstance(effect, Send):
                said.append(effect.message)
            else:
                said.append(effect)
        return said

    def begin(self, epoch: int = 1, session: int = 1, keep: int = 0, first: int = 1) -> list[Any]:
        return self.say(Begin(V, epoch, session, keep, first, FIRST, Entries()))


def test_a_peer_confirms_what_is_durable() -> None:
    peer = Peer()
    assert peer.say(Open(V, 1, 1)) == [Opened(V, 1, 1, False, 0, Lineage())]
    assert peer.begin() == [Stored(V, 1, 1, 0)]
    effects = peer.store.receive("owner", Append(V, 1, 1, records(1, 3)), 10.0)
    assert messages(effects) == []
    (store,) = effects
    assert isinstance(store, Store)
    assert messages(peer.store.stored(store.token, 10.0)) == [Stored(V, 1, 1, 3)]
    assert peer.say(Append(V, 1, 1, records(2, 3))) == [Stored(V, 1, 1, 3)]  # doubled
    assert peer.say(Append(V, 1, 1, records(5, 6))) == [Refused(V, 1, 1, "gap")]
    assert peer.say(Trim(V, 1, 1, 2, Entries())) == []
    assert peer.store.kept.trimmed_through == 2


def test_a_late_session_cannot_rewind() -> None:
    peer = Peer()
    peer.begin(session=2)
    peer.say(Append(V, 1, 2, records(1, 5)))
    assert peer.begin(session=1) == [Refused(V, 1, 1, "session")]
    assert peer.say(Append(V, 1, 1, records(1, 9))) == [Refused(V, 1, 1, "session")]
    assert peer.begin(session=2) == [Stored(V, 1, 2, 5)]  # said twice
    assert peer.begin(session=3, keep=6, first=7) == [Refused(V, 1, 3, "gap")]  # it has lost some since it was asked
    assert peer.begin(session=3, keep=4, first=5) == [Stored(V, 1, 3, 4)]
    assert peer.stores[-1].cut_past == 4
    assert peer.begin(session=4, keep=4, first=9) == [Stored(V, 1, 4, 8)]  # the head is past all that is here
    assert peer.store.kept.trimmed_through == 8


def test_a_fence_waits_for_the_word_and_ends_the_owner() -> None:
    peer = Peer()
    peer.begin()
    assert peer.say(Ping(V, 1, 1, 7), now=20.0) == [Pong(V, 1, 1, 7)]
    assert peer.say(Fence(V, 1), now=21.0, sender="thief") == []
    for message in (Append(V, 1, 1, records(1, 1)), Ping(V, 1, 1, 8), Open(V, 1, 2)):
        assert isinstance(peer.say(message, now=21.0)[0], Refused)
    assert peer.store.tick(22.4) == []
    (fenced,) = messages(peer.store.tick(22.5))
    assert isinstance(fenced, Fenced)
    assert fenced.holds
    assert peer.say(Fetch(V, 1, 1), sender="thief") == [SendRecords("thief", 1, 1)]
    assert peer.begin(epoch=2) == [Stored(V, 2, 1, 0)]  # the next epoch is not meant


def test_a_peer_that_comes_back_has_given_its_word_just_now() -> None:
    peer = Peer(Kept(0, 1, 1, 0, FIRST, Entries()), 4)
    assert peer.say(Fence(V, 1), now=1.0, sender="thief") == []
    assert isinstance(messages(peer.store.tick(2.5))[0], Fenced)


def test_a_full_peer_refuses_and_takes_a_new_session() -> None:
    peer = Peer()
    peer.begin()
    (store,) = peer.store.receive("owner", Append(V, 1, 1, records(1, 3)), 10.0)
    assert isinstance(store, Store)
    assert messages(peer.store.failed(store.token)) == [Refused(V, 1, 1, "no-space")]
    assert peer.say(Append(V, 1, 1, records(1, 3))) == [Refused(V, 1, 1, "session")]
    assert peer.say(Open(V, 1, 2)) == [Opened(V, 1, 2, True, 0, FIRST)]
    assert peer.begin(session=2) == [Stored(V, 1, 2, 0)]


# -- the owner ---------------------------------------------------------------------------------------------------------

TIMINGS = DtlTimings(
    ping_s=0.5, patience_s=2.0, resend_s=0.5, retry_s=1.0, word_s=2.0, margin_s=0.5, window_records=8, lag_bytes=100, lag_s=1.0
)


class Owner:
    def __init__(self, dtl: Dtl, end: int = 0, tail_bytes: int = 0) -> None:
        self.sender = DtlSender(
            V, 1, dtl, FIRST, end, 0, Executed, tail_bytes=tail_bytes, timings=TIMINGS
        )  # fmt: skip
        self.dtl = dtl

    def agree(self, effects: list[Any], now: float = 0.0) -> list[Any]:
        """The registry accepts what has been proposed."""
        for effect in effects:
            if isinstance(effect, Propose):
                self.dtl = Dtl(effect.state, effect.peer, effect.version + 1, effect.asynchronous)
                return self.sender.outcome(self.dtl, now)
        raise AssertionError("nothing is proposed")

    def hear(self, message: Any, now: float = 0.0) -> list[Any]:
        return self.sender.receive("p", message, now)

    def live(self, now: float = 0.0, through: int = 0) -> list[Any]:
        (opening,) = messages(self.sender.tick(now))
        assert isinstance(opening, Open)
        (begin,) = messages(self.hear(Opened(V, 1, opening.session, True, through, FIRST), now))
        assert isinstance(begin, Begin)
        assert (begin.keep_through, begin.first_lsn) == (through, through + 1)
        return self.hear(Stored(V, 1, opening.session, through), now)


def test_in_sync_is_proposed_when_flushes_wait_and_the_peer_has_everything() -> None:
    owner = Owner(Dtl(DtlState.DEGRADED, "p", 1), end=3)
    effects = owner.live()
    assert proposals(effects) == [DtlState.CATCHING_UP]
    assert owner.sender.covers(3)  # unprotected, and the registry says so
    (ship,) = [effect for effect in effects if isinstance(effect, Ship)]
    assert (ship.first_lsn, ship.last_lsn) == (1, 3)
    assert proposals(owner.agree(effects)) == []
    assert not owner.sender.covers(3)  # flushes wait already
    effects = owner.hear(Stored(V, 1, 1, 3))
    assert proposals(effects) == [DtlState.IN_SYNC]
    owner.sender.appended(4, 0.0)
    assert not owner.sender.covers(4)
    owner.agree(effects)
    assert owner.sender.covers(3)
    owner.hear(Stored(V, 1, 1, 4))
    assert owner.sender.covers(4)


def test_flushes_wait_for_nobody_once_it_is_off() -> None:
    """Switched off while flushes wait already and the peer has not got everything: else they would wait for it for ever."""
    owner = Owner(Dtl(DtlState.DEGRADED, "p", 1), end=3)
    owner.agree(owner.live())
    assert not owner.sender.covers(3)
    (proposal,) = owner.sender.switch(on=False)
    owner.agree([proposal])
    owner.sender.appended(4, 1.0)
    assert owner.sender.covers(4)
    assert owner.sender.tick(60.0) == []


def test_degraded_is_committed_before_a_flush_goes_on_without_the_peer() -> None:
    owner = Owner(Dtl(DtlState.IN_SYNC, "p", 4), end=3)
    owner.live(through=3)
    owner.sender.appended(4, 0.1)
    assert proposals(owner.sender.tick(1.0)) == []
    effects = [*owner.sender.tick(2.2), *owner.sender.tick(2.3)]
    assert proposals(effects) == [DtlState.DEGRADED]
    assert not owner.sender.covers(4)
    owner.agree(effects, 2.4)
    assert owner.sender.covers(4)


def test_an_outcome_that_is_not_known_may_be_in_sync() -> None:
    owner = Owner(Dtl(DtlState.CATCHING_UP, "p", 2), end=1)
    effects = owner.live(through=1)
    assert proposals(effects) == [DtlState.IN_SYNC]
    owner.sender.appended(2, 0.0)
    owner.hear(Refused(V, 1, 1, "gap"), 0.1)
    assert proposals(owner.sender.tick(50.0)) == []  # one at a time
    assert not owner.sender.covers(2)
    after = owner.sender.outcome(Dtl(DtlState.CATCHING_UP, "p", 2), 51.0)  # refused
    assert CoversMore() in after
    assert owner.sender.covers(2)


def test_a_peer_that_has_lost_what_is_counted_on_is_not_begun_with() -> None:
    owner = Owner(Dtl(DtlState.IN_SYNC, "p", 4), end=3)
    owner.sender.tick(0.0)
    effects = owner.hear(Opened(V, 1, 1, False, 0, Lineage()))
    assert messages(effects) == []
    assert proposals(effects) == [DtlState.DEGRADED]


def test_the_word_is_good_from_the_sending_of_the_ping_and_only_in_sync() -> None:
    owner = Owner(Dtl(DtlState.IN_SYNC, "p", 4), end=3)
    owner.live(through=3)
    (ping,) = [message for message in messages(owner.sender.tick(1.0)) if isinstance(message, Ping)]
    assert not owner.sender.vouches(1.0)
    owner.hear(Pong(V, 1, 1, ping.token), 1.9)
    assert owner.sender.vouches(2.9)
    assert not owner.sender.vouches(3.0)
    owner.hear(Refused(V, 1, 1, "fenced"), 2.0)
    assert not owner.sender.vouches(2.0)


def test_an_asynchronous_dtl_is_never_in_sync_and_its_lag_is_bounded() -> None:
    """Flushes do not wait for the peer, but where it would be behind by more than the bound; that is said when it is true."""
    owner = Owner(Dtl(DtlState.CATCHING_UP, "p", 2, asynchronous=True))
    effects = owner.live()
    assert proposals(effects) == [DtlState.FOLLOWING]
    owner.sender.appended(1, 0.0, 60)
    assert owner.sender.covers(1)  # within the bound, also while the outcome is not known
    owner.agree(effects)
    owner.sender.appended(2, 0.1, 101)
    assert not owner.sender.covers(2)
    assert (owner.sender.lag_records, owner.sender.lag_bytes) == (2, 101)
    owner.hear(Stored(V, 1, 1, 1), 0.2)
    assert owner.sender.covers(2)
    assert owner.sender.lag_bytes == 41
    owner.sender.tick(0.5)
    assert owner.sender.covers(2)
    owner.sender.tick(1.2)  # not many bytes, but for too long
    assert not owner.sender.covers(2)
    assert owner.sender.lag_s(1.2) == pytest.approx(1.1)
    owner.hear(Stored(V, 1, 1, 2), 1.3)
    assert owner.sender.covers(2)
    assert not owner.sender.vouches(1.3)


def test_following_is_not_said_before_the_peer_is_near() -> None:
    owner = Owner(Dtl(DtlState.DEGRADED, "p", 1, asynchronous=True), end=3, tail_bytes=300)
    effects = owner.live()
    assert proposals(effects) == [DtlState.CATCHING_UP]
    assert proposals(owner.agree(effects)) == []
    assert owner.sender.covers(3)  # unbounded, and the registry says so
    effects = owner.hear(Stored(V, 1, 1, 3))
    assert proposals(effects) == [DtlState.FOLLOWING]


def test_the_bound_holds_until_degraded_is_committed() -> None:
    owner = Owner(Dtl(DtlState.FOLLOWING, "p", 4, asynchronous=True))
    owner.live()
    owner.sender.appended(1, 0.1, 500)
    assert not owner.sender.covers(1)
    effects = [*owner.sender.tick(2.2), *owner.sender.tick(2.3)]
    assert proposals(effects) == [DtlState.DEGRADED]
    assert not owner.sender.covers(1)
    owner.agree(effects, 2.4)
    assert owner.sender.covers(1)
    assert owner.dtl.asynchronous


def test_a_peer_that_goes_while_it_catches_up_is_given_up() -> None:
    """Else nobody would choose another one."""
    for asynchronous in (False, True):
        owner = Owner(Dtl(DtlState.CATCHING_UP, "p", 2, asynchronous), end=300, tail_bytes=3000)
        owner.live()
        effects = [effect for at in (1.0, 2.2, 2.3, 4.5) for effect in owner.sender.tick(at)]
        assert DtlState.DEGRADED in proposals(effects)


def test_the_two_ways_change_into_each_other_with_the_same_peer() -> None:
    owner = Owner(Dtl(DtlState.IN_SYNC, "p", 4), end=3)
    owner.live(through=3)
    owner.sender.appended(4, 0.1, 50)
    assert not owner.sender.covers(4)
    effects = owner.sender.switch(on=True, asynchronous=True)
    assert proposals(effects) == [DtlState.CATCHING_UP]
    assert not owner.sender.covers(4)  # the registry may still say that nothing can be lost
    effects = owner.agree(effects, 0.2)
    assert (owner.dtl.peer, owner.dtl.asynchronous, proposals(effects)) == ("p", True, [DtlState.FOLLOWING])
    assert owner.sender.covers(4)
    owner.agree(effects, 0.3)
    assert owner.sender.switch(on=True, asynchronous=True) == []
    effects = owner.agree(owner.sender.switch(on=True), 0.4)
    assert (owner.dtl.state, owner.dtl.asynchronous) == (DtlState.CATCHING_UP, False)
    assert not owner.sender.covers(4)
    assert proposals(owner.hear(Stored(V, 1, 1, 4), 0.5)) == [DtlState.IN_SYNC]


def test_the_lag_is_told_at_most_and_never_too_little() -> None:
    lag = Lag(10, 1000, 0.0)
    assert (lag.bytes, lag.seconds(2.0)) == (1000, 2.0)
    for step in range(3000):
        lag.appended(11 + step, 7, 1.0 + step)
        if step % 100 == 0:
            lag.stored(step)
            assert lag.bytes >= 7 * min(step, 11)
    lag.stored(2990)
    assert 7 * 20 <= lag.bytes <= 7 * 60
    assert 19 <= lag.seconds(3000.0) <= 60
    lag.trimmed(3010)
    assert (lag.bytes, lag.seconds(4000.0)) == (0, 0.0)


def test_another_peer_and_no_peer() -> None:
    owner = Owner(Dtl(DtlState.IN_SYNC, "p", 4), end=3)
    effects = owner.sender.choose("q", 0.0)
    assert proposals(effects) == [DtlState.DEGRADED]
    assert not owner.sender.covers(4)
    owner.agree(effects)
    assert owner.sender.covers(4)
    assert owner.sender.dtl.peer == "q"
    assert proposals(owner.sender.switch(on=False)) == [DtlState.OFF]


# -- the thief, and whose the logs are ------------------------------------------------------------------------------------


def record(**changes: Any) -> ObjectRecord:
    fields: dict[str, Any] = {
        "owner": "dead",
        "epoch": 1,
        "dtl": Dtl(DtlState.IN_SYNC, "p", 4),
        "attempt": 0,
        "remains": (),
    } | changes
    return ObjectRecord(
        V, ObjectKind.VOLUME, ObjectState.LIVE, fields.pop("owner"), fields.pop("epoch"), None, None, 0, 16, 0, "", "", **fields
    )  # fmt: skip


def test_a_thief_fences_fetches_keeps_and_steals_in_this_order() -> None:
    thief = Thief("me", record(), Consent())
    assert messages(thief.begin(0.0)) == [Fence(V, 1)]
    assert messages(thief.tick(1.0)) == [Fence(V, 1)]
    assert messages(thief.receive("p", Fenced(V, 1, True, 2, 5, FIRST, Entries()), 1.0)) == [Fetch(V, 1, 3)]
    assert messages(thief.receive("p", Fetched(V, 1, records(3, 4)), 1.0)) == [Fetch(V, 1, 5)]
    (keep,) = thief.receive("p", Fetched(V, 1, records(4, 5)), 1.0)
    assert isinstance(keep, Keep)
    assert [kept.lsn for kept in keep.records] == [3, 4, 5]
    assert thief.kept(2.0) == [SubmitSteal(1, 4, "p", False, False)]
    assert thief.is_submitted
    won = record(owner="me", epoch=2)
    assert thief.outcome(won) == [Stolen(won, 5)]


@pytest.mark.parametrize("state", [DtlState.FOLLOWING, DtlState.CATCHING_UP])
def test_an_asynchronous_peer_is_never_enough_and_asked_all_the_same(state: DtlState) -> None:
    """With consent a thief begins with what the peer has; and with the backend alone if that one has lost it."""
    behind = record(dtl=Dtl(state, "p", 4, asynchronous=True))
    assert isinstance(Thief("me", behind, Consent()).begin(0.0)[0], GaveUp)
    thief = Thief("me", behind, Consent(accept_loss=True))
    assert messages(thief.begin(0.0)) == [Fence(V, 1)]
    assert messages(thief.receive("p", Fenced(V, 1, True, 2, 3, FIRST, Entries()), 1.0)) == [Fetch(V, 1, 3)]
    thief.receive("p", Fetched(V, 1, records(3, 3)), 1.0)
    assert thief.kept(2.0) == [SubmitSteal(1, 4, "p", True, False)]
    won = record(owner="me", epoch=2)
    assert thief.outcome(won) == [Stolen(won, 3, True)]
    thief = Thief("me", behind, Consent(accept_loss=True))
    thief.begin(0.0)
    assert thief.receive("p", Fenced(V, 1, False, 0, 0, FIRST, Entries()), 1.0) == [SubmitSteal(1, 4, "", True, False)]
    assert thief.outcome(won) == [Stolen(won, None, True)]
    off = Thief("me", behind, Consent(accept_loss=True, powered_off=True))
    assert off.begin(0.0) == [SubmitSteal(1, 4, "", True, True)]


@pytest.mark.parametrize("dtl", [Dtl(), Dtl(DtlState.DEGRADED, "p", 3), Dtl(DtlState.IN_SYNC, "dead", 3)])
def test_without_a_tail_there_must_be_consent(dtl: Dtl) -> None:
    assert isinstance(Thief("me", record(dtl=dtl), Consent()).begin(0.0)[0], GaveUp)
    assert Thief("me", record(dtl=dtl), Consent(accept_loss=True)).begin(0.0) == [SubmitSteal(1, dtl.version, "", True, False)]


def test_a_thief_stops_when_its_reason_is_gone() -> None:
    alive = NodeRecord("dead", 2, "", 0, False)
    assert not may_be_stolen(record(), alive, "me")
    thief = Thief("me", record(), Consent())
    thief.begin(0.0)
    assert isinstance(thief.changed(record(), alive)[0], GaveUp)
    other = Thief("me", record(), Consent())
    other.begin(0.0)
    assert isinstance(other.receive("p", Fenced(V, 1, False, 0, 0, Lineage(), Entries()), 0.0)[0], GaveUp)


def test_peers_are_chosen_in_another_failure_domain() -> None:
    nodes = [NodeRecord(name, 1, "", 1, False, domain=domain) for name, domain in (("a", "x"), ("b", "x"), ("c", "y"))]
    assert choose_peer(V, "a", nodes) == "c"
    assert choose_peer(V, "a", nodes, frozenset("c")) == "b"
    assert choose_peer(V, "a", nodes[:1]) == ""
    drained = [*nodes[:2], NodeRecord("c", 1, "", 1, False, NodeStatus.DRAINED, "y")]
    assert choose_peer(V, "a", drained) == "b"
    assert thief_rank(V, "c", "c", nodes) == 0
    assert {thief_rank(V, "c", "a", nodes), thief_rank(V, "c", "b", nodes)} == {1, 2}
    assert thief_rank(V, "c", "c", drained) is None


def test_which_log_is_the_objects() -> None:
    now = record(owner="me", epoch=5, attempt=3)
    assert log_to_open(now, frozenset({4, 5}), None) == "own"
    assert log_to_open(now, frozenset({3, 4}), None) == "none"
    assert log_to_open(now, frozenset({5}), StagedMark(5, 3, True)) == "staged"
    assert log_to_open(now, None, StagedMark(5, 2, True)) == "none"
    assert log_to_open(now, None, StagedMark(5, 3, False)) == "none"
    assert log_to_open(now, None, StagedMark(5, None, True)) == "staged"


def test_what_becomes_of_a_former_owners_log() -> None:
    handed_over = record(owner="b", epoch=2, dtl=Dtl(DtlState.IN_SYNC, "me", 5), remains=(Remains("me", 1, False),))
    assert fate_of_log(handed_over, "me", frozenset({1}), 0).what == "store"
    assert fate_of_log(handed_over, "me", frozenset({1}), 1).what == "keep"
    assert fate_of_log(record(owner="b", epoch=2, dtl=Dtl(DtlState.IN_SYNC, "me", 5)), "me", frozenset({1}), 0).what == "store"
    assert fate_of_log(record(owner="b", epoch=2, remains=(Remains("me", 1, True),)), "me", frozenset({1}), 0).what == "keep"
    assert fate_of_log(record(owner="b", epoch=3), "me", frozenset({1}), 0).what == "drop"
    assert fate_of_log(record(owner="b", epoch=1), "me", frozenset({1, 2}), 0).what == "keep"
