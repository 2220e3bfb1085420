"""Forwarding, owning and handing over, step by step; everything at once is in tests/simulation/test_ownership.py."""

from __future__ import annotations

from typing import Any

from objectrouter.forwarder import AskRegistry, Complete, Forwarder
from objectrouter.handover_messages import Ask, Cancelled, Copied, Copy, Denied, Finish, Granted, Ready
from objectrouter.handover_source import CopyOut, HandedOver, HandoverSource, HandoverTimings, Hold, Resume, Submit
from objectrouter.handover_target import Dropped, HandoverTarget, Stage, TakeOver
from objectrouter.owned import Execute, OwnedObject, Sync
from objectrouter.requests import Done, Failed, Moved, Reply, Request, RequestKind
from objectrouter.thresholds import Threshold, UseCounter
from registry import Abort, ObjectKind, ObjectRecord, ObjectState, Transfer
from volumedriver import Entries, Executed, Lineage, Origin, Send, TailRecord

V = "1" * 32
READ, WRITE, FLUSH = RequestKind.READ, RequestKind.WRITE, RequestKind.FLUSH


def messages(effects: list[Any]) -> list[Any]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def request(number: int, kind: RequestKind = WRITE, **changes: Any) -> Request:
    fields: dict[str, Any] = {
        "session": 1,
        "lowest": 1,
        "epoch": 2,
        "first_epoch": 2,
        "acknowledged": (),
        "incarnation": 1,
    } | changes
    origin = Origin("n", fields.pop("incarnation"), number)
    return Request(object=V, origin=origin, kind=kind, payload=b"", **fields)


# -- the sender --------------------------------------------------------------------------------------------------------


class Sender:
    def __init__(self, **limits: float) -> None:
        self.forwarder = Forwarder(V, "n", 1, **limits)
        self.forwarder.route("a", 1, 0.0)

    def submit(self, kind: RequestKind = WRITE, now: float = 0.0, stream: int = 0) -> Request:
        _, effects = self.forwarder.submit(kind, b"", now, stream)
        (sent,) = messages(effects)
        assert isinstance(sent, Request)
        return sent

    def answer(self, to: Request, answer: Any) -> list[Any]:
        return self.forwarder.reply(Reply(V, to.origin, to.epoch, answer), 0.0)


def test_a_request_keeps_its_number_when_it_is_sent_again() -> None:
    sender = Sender(try_s=5.0)
    first = sender.submit()
    again = sender.forwarder.tick(5.0)
    assert AskRegistry() in again
    assert messages(again) == [first]
    (moved,) = messages(sender.forwarder.route("b", 2, 6.0))
    assert (moved.origin, moved.epoch, moved.first_epoch) == (first.origin, 2, 1)


def test_answers_of_older_epochs_are_ignored() -> None:
    sender = Sender()
    first = sender.submit()
    (second,) = messages(sender.forwarder.route("b", 2, 1.0))
    assert sender.answer(first, Done(None, 1, 7)) == []
    assert sender.answer(second, Done(None, 2, 7)) == [Complete(1, Done(None, 2, 7))]
    assert sender.answer(second, Done(None, 2, 7)) == []  # doubled


def test_moved_asks_the_registry_and_requests_wait_for_an_owner() -> None:
    sender = Sender(wait_s=60.0)
    first = sender.submit()
    assert sender.answer(first, Moved("b", 2)) == [AskRegistry()]
    assert sender.forwarder.waiting == 1
    assert sender.forwarder.tick(60.0) == [Complete(1, Failed("waited"))]
    lonely = Forwarder(V, "n", 1)
    assert lonely.submit(READ, b"", 0.0) == (1, [])
    assert len(messages(lonely.route("a", 1, 1.0))) == 1


def test_a_flush_says_what_its_stream_was_answered() -> None:
    sender = Sender()
    sender.answer(sender.submit(stream=1), Done(None, 1, 5))
    sender.answer(sender.submit(stream=2), Done(None, 1, 9))
    flush = sender.submit(FLUSH, stream=1)
    assert flush.acknowledged == ((1, 5),)
    sender.answer(sender.submit(stream=1), Done(None, 1, 4))  # answered after the flush was sent: the flush is not for it
    sender.answer(flush, Failed("lost"))
    assert sender.submit(FLUSH, stream=1).acknowledged == ((1, 5),)
    sender.forwarder.closed(2)
    assert sender.submit(FLUSH, stream=2).acknowledged == ()


def test_a_flush_says_what_was_written_while_this_node_was_the_owner() -> None:
    sender = Sender()
    sender.forwarder.written(0, 1, 7)
    sender.forwarder.route("b", 2, 1.0)
    flush = sender.submit(FLUSH)
    assert flush.acknowledged == ((1, 7),)
    sender.answer(flush, Done())
    assert sender.submit(FLUSH).acknowledged == ()


def test_a_life_that_is_over_fails_what_waits() -> None:
    sender = Sender()
    sender.submit()
    assert sender.forwarder.fence() == [Complete(1, Failed("fenced"))]
    assert sender.forwarder.submit(READ, b"", 0.0) == (2, [Complete(2, Failed("fenced"))])


def test_lowest_follows_the_answers() -> None:
    sender = Sender()
    first, second = sender.submit(), sender.submit()
    sender.answer(second, Done(None, 1, 2))
    assert sender.submit().lowest == 1
    sender.answer(first, Done(None, 1, 1))
    assert sender.submit().lowest == 3


# -- the owner ---------------------------------------------------------------------------------------------------------


class Owner:
    """Owns v at epoch 2, which began behind record 10 of epoch 1."""

    def __init__(self, entries: Entries | None = None) -> None:
        self.allowed = self.covered = True
        lineage = Lineage(((1, 1), (2, 11)))
        self.owned = OwnedObject(
            V, 2, lineage, 10, Executed(entries, lineage, 10), may_reply=lambda _: self.allowed, covers=lambda _: self.covered
        )

    def ask(self, *requests: Request) -> list[Any]:
        return [effect for each in requests for effect in self.owned.request(each, 0.0)]

    def execute(self, asked: Request, lsn: int) -> list[Any]:
        return [reply.answer for reply in messages(self.owned.executed(asked.origin, None, lsn, 0.0))]


def test_a_write_is_executed_once() -> None:
    owner = Owner()
    write = request(1)
    assert owner.ask(write, write) == [Execute(write)]
    assert owner.execute(write, 11) == [Done(None, 2, 11)]
    assert [reply.answer for reply in messages(owner.ask(write))] == [Done(None, 2, 11)]
    assert owner.ask(request(2, lowest=2)) == [Execute(request(2, lowest=2))]
    assert owner.ask(write) == []  # late: its sender has had the answer


def test_what_an_owner_before_has_executed_is_answered_from_the_table() -> None:
    owner = Owner(Entries(0, ((Origin("n", 1, 1), 1, 7), (Origin("n", 1, 2), 1, 12))))
    assert [reply.answer for reply in messages(owner.ask(request(1, first_epoch=1)))] == [Done(None, 1, 7)]
    assert isinstance(owner.ask(request(2, first_epoch=1))[0], Execute)  # the log does not have it


def test_a_write_of_which_nobody_knows_is_refused() -> None:
    owner = Owner(Entries(since=2))
    assert [reply.answer for reply in messages(owner.ask(request(1, first_epoch=1)))] == [Failed("lost")]
    assert isinstance(owner.ask(request(2))[0], Execute)


def test_lease_is_asked_at_the_reply() -> None:
    owner = Owner()
    owner.ask(request(1))
    owner.allowed = False
    assert owner.execute(request(1), 11) == []
    owner.allowed = True
    assert len(messages(owner.owned.tick(1.0))) == 1


def test_a_flush_waits_for_the_disk_and_for_the_dtl() -> None:
    owner = Owner()
    owner.ask(request(1))
    owner.execute(request(1), 11)
    assert owner.ask(request(2, FLUSH)) == [Sync(11)]
    owner.covered = False
    assert owner.owned.synced(11, 0.0) == []
    owner.covered = True
    assert [reply.answer for reply in messages(owner.owned.changed(0.0))] == [Done()]


def test_a_flush_of_what_is_gone_fails() -> None:
    owner = Owner()
    assert [reply.answer for reply in messages(owner.ask(request(1, FLUSH, acknowledged=((1, 12),))))] == [Failed("lost")]
    assert [reply.answer for reply in messages(owner.ask(request(2, FLUSH, acknowledged=((1, 10),))))] == [Done()]


def test_nothing_is_answered_while_it_drains_and_all_is_sent_on_afterwards() -> None:
    owner = Owner()
    owner.ask(request(1))
    owner.owned.hold()
    executing = owner.owned.drained
    assert owner.execute(request(1), 11) == []
    assert (executing, owner.owned.drained) == (False, True)
    assert owner.ask(request(2, READ)) == []
    answers = [reply.answer for reply in messages(owner.owned.depose("b", 3))]
    assert answers == [Moved("b", 3)] * 2
    assert [reply.answer for reply in messages(owner.ask(request(3)))] == [Moved("b", 3)]


def test_resuming_answers_what_was_held_and_not_what_is_over_by_then() -> None:
    owner = Owner()
    owner.ask(request(1))
    owner.execute(request(1), 11)
    owner.owned.hold()
    assert owner.ask(request(1), request(2)) == []
    owner.ask(request(3, READ, lowest=2))
    effects = owner.owned.resume(0.0)
    assert effects == [Execute(request(2)), Execute(request(3, READ, lowest=2))]


def test_epochs_sessions_and_lives() -> None:
    owner = Owner()
    assert [reply.answer for reply in messages(owner.ask(request(1, epoch=1)))] == [Moved("", 2)]
    owner.owned.hold()
    owner.ask(request(1, session=1))
    owner.ask(request(2, session=2))
    assert owner.owned.queued == 1  # the newer session has ended the older one
    assert owner.ask(request(3, session=1)) == []
    owner.owned.ban("n", 1)
    assert owner.owned.queued == 0
    assert [reply.answer for reply in messages(owner.ask(request(4)))] == [Failed("fenced")]
    owner.ask(request(1, incarnation=2))
    assert owner.owned.queued == 1


# -- hand-over ---------------------------------------------------------------------------------------------------------

TIMINGS = HandoverTimings(stay_s=10.0, silence_s=5.0, pause_s=2.0, decide_s=3.0, resend_s=0.5, small_records=2, window_records=4)
LINEAGE = Lineage(((2, 1),))


def record(owner: str, epoch: int, attempt: int = 1) -> ObjectRecord:
    return ObjectRecord(V, ObjectKind.VOLUME, ObjectState.LIVE, owner, epoch, None, None, 0, 16, 0, "", "", attempt=attempt)


def source(end: int = 9) -> HandoverSource:
    return HandoverSource(V, "a", 2, 0, end, 3, 0.0, timings=TIMINGS)


def to_transfer(machine: HandoverSource) -> Transfer:
    machine.asked("b", Ask(V, 2, 7), 20.0, takes=True)
    machine.receive("b", Copied(V, 2, 1, 7), 20.0)
    machine.drained(9, LINEAGE, Entries(), 20.0)
    machine.receive("b", Copied(V, 2, 1, 9), 20.0)
    (submit,) = machine.receive("b", Ready(V, 2, 1), 20.0)
    assert isinstance(submit, Submit)
    assert isinstance(submit.command, Transfer)
    return submit.command


def test_a_source_copies_stops_and_transfers() -> None:
    machine = source()
    effects = machine.asked("b", Ask(V, 2, 7), 20.0, takes=True)
    assert effects == [Send("b", Granted(V, 2, 1, 4))]
    assert machine.receive("b", Copied(V, 2, 1, 3), 20.0) == [CopyOut("b", 2, 1, 4, 7)]
    assert machine.receive("b", Copied(V, 2, 1, 5), 20.0) == [CopyOut("b", 2, 1, 8, 9)]
    assert machine.pinned_from == 6
    assert machine.progress == (2, 6)
    assert machine.receive("b", Copied(V, 2, 1, 7), 20.0) == [Hold()]
    assert machine.drained(10, LINEAGE, Entries(), 20.0) == [CopyOut("b", 2, 1, 10, 10)]
    (finish,) = messages(machine.receive("b", Copied(V, 2, 1, 10), 20.0))
    assert finish == Finish(V, 2, 1, 10, LINEAGE, Entries())
    (submit,) = machine.receive("b", Ready(V, 2, 1), 20.0)
    assert submit == Submit(Transfer(V, "a", "b", 7, 2, 1, True))
    assert isinstance(submit, Submit)
    assert machine.outcome(submit.command, record("b", 3), record("b", 3), 20.0) == [HandedOver(record("b", 3))]


def test_a_source_denies() -> None:
    machine = source()
    ask = Ask(V, 2, 7)
    assert messages(machine.asked("b", ask, 1.0, takes=True)) == [Denied(V, 2, "stay")]
    assert messages(machine.asked("b", ask, 20.0, takes=False)) == [Denied(V, 2, "status")]
    assert messages(machine.asked("b", Ask(V, 1, 7), 20.0, takes=True)) == [Denied(V, 1, "not-owner")]
    assert messages(machine.asked("b", ask, 20.0, takes=True, yields=False)) == [Denied(V, 2, "used")]
    machine.asked("b", Ask(V, 2, 7, by_command=True), 1.0, takes=True, yields=False)
    assert messages(machine.asked("c", ask, 20.0, takes=True)) == [Denied(V, 2, "busy")]


def test_before_the_transfer_a_source_gives_up_by_itself() -> None:
    machine = source()
    machine.asked("b", Ask(V, 2, 7), 20.0, takes=True)
    machine.receive("b", Copied(V, 2, 1, 7), 20.0)
    assert machine.tick(22.0) == [Send("b", Cancelled(V, 2, 1)), Resume()]
    assert messages(machine.receive("b", Ready(V, 2, 1), 22.0)) == [Cancelled(V, 2, 1)]
    assert messages(machine.asked("b", Ask(V, 2, 7), 23.0, takes=True)) == [Granted(V, 2, 2, 4)]


def test_after_the_transfer_only_a_committed_abort_lets_it_resume() -> None:
    machine = source()
    transfer = to_transfer(machine)
    (submit,) = machine.tick(23.0)
    assert submit == Submit(Abort(V, 2, 1))
    assert machine.tick(60.0) == []
    assert isinstance(submit, Submit)
    assert Resume() in machine.outcome(submit.command, record("a", 2, 1), record("a", 2, 1), 60.0)
    assert machine.outcome(transfer, None, record("a", 2, 1), 61.0) == []


def test_an_abort_that_comes_too_late_finds_the_object_handed_over() -> None:
    machine = source()
    to_transfer(machine)
    (submit,) = machine.tick(23.0)
    assert isinstance(submit, Submit)
    assert machine.outcome(submit.command, None, record("b", 3), 24.0) == [HandedOver(record("b", 3))]


def test_a_transfer_that_is_refused_for_good_needs_no_abort() -> None:
    machine = source()
    assert Resume() in machine.outcome(to_transfer(machine), None, record("a", 2, 0), 21.0)


class Target:
    def __init__(self) -> None:
        self.machine = HandoverTarget(V, 7, "a", 2)
        self.machine.begin(0.0)

    def hear(self, message: Any) -> list[Any]:
        """With a disk that is always quick."""
        effects = self.machine.receive("a", message, 0.0)
        return messages([done for effect in effects if isinstance(effect, Stage) for done in self.machine.staged(effect.token)])


def records(first: int, last: int) -> tuple[TailRecord, ...]:
    return tuple(TailRecord(lsn, None, b"") for lsn in range(first, last + 1))


def test_a_target_takes_over_when_the_registry_says_so() -> None:
    target = Target()
    assert target.hear(Granted(V, 2, 1, 4)) == [Copied(V, 2, 1, 3)]
    assert target.hear(Copy(V, 2, 1, records(4, 6))) == [Copied(V, 2, 1, 6)]
    assert target.hear(Copy(V, 2, 1, records(8, 9))) == []  # something is missing
    finish = Finish(V, 2, 1, 8, LINEAGE, Entries())
    assert target.hear(finish) == []
    assert target.hear(Copy(V, 2, 1, records(5, 8))) == [Copied(V, 2, 1, 8)]
    assert target.hear(finish) == [Ready(V, 2, 1)]
    assert target.machine.changed(record("a", 2), "b") == []
    assert target.machine.changed(record("b", 3, 1), "b") == [TakeOver(record("b", 3, 1), finish)]


def test_a_target_drops_what_is_not_to_be_its_own() -> None:
    for news in (record("c", 3), record("b", 4), record("b", 3, 2)):
        target = Target()
        target.hear(Granted(V, 2, 1, 4))
        assert target.hear(Finish(V, 2, 1, 3, LINEAGE, Entries())) == [Ready(V, 2, 1)]
        assert target.machine.changed(news, "b") == [Dropped("elsewhere")]
    target = Target()
    target.hear(Granted(V, 2, 1, 4))
    (stage,) = target.machine.receive("a", Copy(V, 2, 1, records(4, 4)), 0.0)
    assert isinstance(stage, Stage)
    assert target.machine.failed(stage.token) == [Send("a", Cancelled(V, 2, 1)), Dropped("no-room")]


def test_a_ready_target_waits_for_the_registry_however_long() -> None:
    target = Target()
    target.hear(Granted(V, 2, 1, 4))
    target.hear(Finish(V, 2, 1, 3, LINEAGE, Entries()))
    assert messages(target.machine.tick(1000.0)) == [Ready(V, 2, 1)]
    assert target.machine.is_ready
    other = Target()
    assert other.machine.tick(1000.0) == [Dropped("silent")]


def test_an_object_is_asked_for_by_who_uses_it_much() -> None:
    counter = UseCounter(Threshold(forwards=100, half_life_s=10.0, again_s=5.0))
    wanted = []
    for tenth in range(200):
        counter.used(tenth / 10)
        wanted.append(counter.wants(tenth / 10))
    assert wanted.index(True) > 100  # more than the threshold, since older ones count for less
    counter.refused(20.0)
    assert not counter.wants(24.9)
    counter.used(25.0, 100)
    assert counter.wants(25.0)
    assert counter.count(65.0) < 20


def test_two_nodes_that_use_an_object_alike_leave_it_where_it_is() -> None:
    one, two = UseCounter(Threshold(forwards=10)), UseCounter(Threshold(forwards=10))
    for tenth in range(1000):
        one.used(tenth / 10)
        two.used(tenth / 10)
    assert one.wants(100.0)
    assert not two.yields(one.count(100.0), 100.0)
    assert two.yields(one.count(100.0), 160.0)  # it has not been used there since
