"""One object on one host of the simulated world: the machines, bound to a simulated log, a backend and the links."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from objectrouter import forwarder as f
from objectrouter import handover_source as hs
from objectrouter import handover_target as ht
from objectrouter import owned as o
from objectrouter.handover_messages import Ask, Cancelled, Copied, Copy, Denied, Finish, Granted, Ready
from objectrouter.requests import Done, Moved, Reply, Request, RequestKind
from objectrouter.thresholds import UseCounter
from registry import (
    AdvanceHeads,
    DtlState,
    Head,
    HeadAdvance,
    NewEpoch,
    ObjectRecord,
    ProposeDtl,
    Refusal,
    Steal,
    TlogName,
)
from tests.simulation.ownership_disk import Log, Staging, Stored
from volumedriver import (
    NOTHING_KEPT,
    Append,
    Consent,
    CoversMore,
    DtlSender,
    DtlStore,
    Entries,
    Executed,
    Fenced,
    Fetched,
    GaveUp,
    Keep,
    Kept,
    Lineage,
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
    without_loss,
)
from volumedriver.dtl_messages import Begin, Fence, Fetch, Open, Opened, Ping, Pong, Refused, Trim
from volumedriver.dtl_messages import Stored as StoredMessage

if TYPE_CHECKING:
    from tests.simulation.ownership_node import Host

BLOCKS = 3
TIMINGS = hs.HandoverTimings(
    stay_s=1.0, silence_s=1.0, copy_s=5.0, pause_s=1.0, decide_s=0.4, resend_s=0.3, small_records=3, window_records=8
)


class Uploads:
    """Closes TLogs, sends them in parallel, and proposes heads as they arrive: it relies on the registry to refuse gaps."""

    def __init__(self, place: Place, record: ObjectRecord, from_lsn: int) -> None:
        self.place, self.epoch = place, record.epoch
        self.from_lsn = from_lsn
        self.number = record.head.tlog.number if record.head is not None else 0
        self.previous = None if record.head is None else (record.id, record.head.tlog.epoch, record.head.tlog.number)
        self.begun_at = 0

    def close(self) -> None:
        from tests.simulation.ownership_world import Tlog

        place, log = self.place, self.place.log
        last = min(log.synced, self.from_lsn + 7)
        if last < self.from_lsn or self.from_lsn <= log.trimmed:
            return
        self.number += 1
        name = (place.object, self.epoch, self.number)
        tlog = Tlog(self.from_lsn, last, log.part(self.from_lsn, last), self.previous)
        self.previous, self.from_lsn = name, last + 1
        world = place.host.world
        slow = world.random.random() < 0.3
        place.host.later(world.random.random() * (1.5 if slow else 0.05), self._arrived, name, tlog)
        if world.random.random() < 0.1:  # sent again, late: perhaps long after this host's death
            world.at(world.random.random() * 3.0, world.put, name, tlog)

    def _arrived(self, name: tuple[str, int, int], tlog: Any) -> None:
        self.place.host.world.put(name, tlog)
        self._propose(name, tlog)

    def _propose(self, name: tuple[str, int, int], tlog: Any) -> None:
        place = self.place
        if place.uploads is not self:
            return
        head = Head(TlogName(name[1], name[2], 0, tlog.last_lsn), tlog.last_lsn + 1, None, 0)
        advance = HeadAdvance(place.object, self.epoch, name[2] - 1, head, past_tail=tlog.last_lsn >= self.begun_at)
        place.host.submit(AdvanceHeads((advance,)), lambda outcome: self._proposed(outcome, name, tlog))

    def _proposed(self, outcome: Any, name: tuple[str, int, int], tlog: Any) -> None:
        place = self.place
        if place.uploads is not self or isinstance(outcome, Refusal):
            return
        (advanced,) = outcome
        if advanced.error is not None and dict(advanced.error.details).get("reason") == "previous":
            place.host.later(0.2, self._propose, name, tlog)
        place.trimmed(place.host.world.head_lsn(place.object, advanced.head))


class Place:
    def __init__(self, host: Host, object_id: str) -> None:
        self.host, self.object = host, object_id
        self.world, self.parts, self.random = host.world, host.world.parts, host.random
        self.truth = self.world.truths[object_id]
        self.forwarder = self.parts.forwarder(object_id, host.name, host.incarnation, try_s=1.0)
        self.counter = UseCounter(_threshold())
        self.clients: dict[int, int] = {}  # number of a request -> client
        self.owned: o.OwnedObject | None = None
        self.sender: DtlSender | None = None
        self.source: hs.HandoverSource | None = None
        self.target: ht.HandoverTarget | None = None
        self.thief: Thief | None = None
        self.store: DtlStore | None = None
        self.uploads: Uploads | None = None
        self.opening = False
        self.content: dict[int, int] = {}
        self._storing: deque[Store] = deque()
        self._exec_at = self._disk_at = 0.0
        self._expired_at: float | None = None
        self._away: dict[str, float] = {}
        self._draining = False
        self._opened_lsn = 0  # where the log ended when it was opened

    # -- the object's log --------------------------------------------------------------------------------------------------

    @property
    def log(self) -> Log:
        return self.host.disk.logs[self.object]

    @property
    def now(self) -> float:
        return self.host.clock

    def record(self) -> ObjectRecord:
        return self.host.objects()[self.object]

    def begin(self) -> None:
        """After the node has registered: what is here, and whose is it?"""
        self._find_store()
        self.see()
        for client in range(self.world.weather.clients):
            self.host.later(self.random.random() * 0.1, self.ask, client)

    def _find_store(self) -> None:
        stored = self.host.disk.stores.get(self.object)
        if stored is None:
            stored = Stored(NOTHING_KEPT)
        self._have_store(stored)

    def _have_store(self, stored: Stored) -> None:
        from tests.simulation.ownership_world import DTL

        self.host.disk.stores[self.object] = stored
        self._storing.clear()
        self.store = self.parts.store(
            self.object, stored.kept, stored.end, self.now, word_s=DTL.word_s, margin_s=DTL.margin_s
        )  # fmt: skip

    def see(self) -> None:
        """The registry shows something new."""
        record = self.record()
        if not self.host.registered:
            return
        if self.owned is not None:
            for node in self.host.nodes().values():
                self.owned.ban(node.id, node.incarnation - (not node.expired))
            if record.epoch > self.owned.epoch and not self._deciding(record):
                self._deposed(record)
            elif record.epoch == self.owned.epoch and self.sender is not None:
                self.run(self.sender.adopt(record.dtl, self.now))
        if self.thief is not None:
            self.run(self.thief.changed(record, self.host.nodes().get(record.owner)))
        if self.target is not None:
            self.run(self.target.changed(record, self.host.name))
        if self.owned is None and not self.opening and self.thief is None:
            self._perhaps_open(record)
        if record.owner:
            self.run(self.forwarder.route(record.owner, record.epoch, self.now))

    def _deciding(self, record: ObjectRecord) -> bool:
        """The source learns of its own transfer by the outcome, or here: both will do."""
        return False

    def _perhaps_open(self, record: ObjectRecord) -> None:
        if record.owner == self.host.name:
            if self.target is not None and not self.target.is_over and self.target.epoch + 1 == record.epoch:
                return
            self._restart(record)
        elif not record.owner and self.host.name == min(name for name, host in self.world.hosts.items() if not host.destroyed):
            self._restart(record)
        else:
            self._bury(record)

    def _bury(self, record: ObjectRecord) -> None:
        """A log of ours of an epoch that is over: it is worth being a store, unless it may have what nobody else has."""
        log = self.host.disk.logs.get(self.object)
        if log is None or not log.epochs:
            return
        fate = fate_of_log(record, self.host.name, frozenset(log.epochs), self._stored_epoch())
        if fate.what == "store" and log.end == log.synced:
            self._to_store(log, fate.epoch)
        elif fate.what == "drop":
            del self.host.disk.logs[self.object]

    def _stored_epoch(self) -> int:
        stored = self.host.disk.stores.get(self.object)
        return 0 if stored is None else stored.kept.epoch

    def _to_store(self, log: Log, epoch: int) -> None:
        kept = Kept(epoch, epoch, 0, log.trimmed, log.lineage, log.executed)
        self._have_store(Stored(kept, list(log.records)))
        del self.host.disk.logs[self.object]

    # -- opening -------------------------------------------------------------------------------------------------------------

    def _restart(self, record: ObjectRecord) -> None:
        """We own it, or nobody does, and it is not open: take the log that is here, make it durable, take a new epoch."""
        self.opening = True
        staged = self.host.disk.staged.get(self.object)
        log = self.host.disk.logs.get(self.object)
        mark = None if staged is None else StagedMark(staged.epoch, staged.attempt, staged.complete)
        choice = log_to_open(record, None if log is None else frozenset(log.epochs), mark)
        how = "restart"
        if choice == "staged" and staged is not None:
            log = self.host.disk.logs[self.object] = staged.log
            log.epochs = {record.epoch}
        elif choice == "none" and record.epoch:
            log, how = None, "lost"
        if log is None:
            log = self.host.disk.logs[self.object] = Log(0, [], Lineage(), Entries(), set())
        self.host.disk.staged.pop(self.object, None)
        log.synced = log.end
        log.epochs.add(record.epoch + 1)
        self.host.later(self.random.random() * 0.01, self._restart_synced, record, how)

    def _restart_synced(self, record: ObjectRecord, how: str) -> None:
        if not self.parts.restart_takes_epoch and record.owner == self.host.name and how != "lost":
            self._open(record, how)
            return
        self.host.submit(NewEpoch(self.object, record.epoch, self.host.name), lambda outcome: self._restarted(outcome, how))

    def _restarted(self, outcome: Any, how: str) -> None:
        if isinstance(outcome, Refusal):
            self.opening = False
            self.host.later(0.3, self.see)
        else:
            self._open(outcome, how)

    def _open(self, record: ObjectRecord, how: str) -> None:
        """The epoch is ours: serve. ``how``: restart, lost, transfer, steal."""
        self.opening = True
        head_lsn = self.world.head_lsn(self.object, record.head)
        content = self.world.content(self.object, record.head)
        log = self.log
        if how == "lost" or log.end < head_lsn:  # from the backend alone
            log.records, log.trimmed = [], head_lsn
            log.executed = Entries(record.epoch if record.epoch > 1 else 0)
            log.lineage = Lineage(tuple(start for start in _lineage_of(self.truth) if start[1] <= head_lsn))
        from_lsn = head_lsn + 1
        if not self.parts.cut_at_head:
            from_lsn = self._cut_beyond(head_lsn)
        for entry in log.records:
            if entry.lsn > head_lsn:
                content[entry.payload[0]] = entry.payload[1]  # type: ignore[index]
        table = Executed(log.executed, log.lineage, log.end)
        table.note_records(log.records, log.lineage)
        log.lineage = log.lineage.with_epoch(record.epoch, log.end + 1)
        log.epochs, log.synced = {record.epoch}, log.end
        all_kept = how == "transfer" or (how == "restart" and not log.lossy)
        log.lossy = False
        self.host.disk.staged.pop(self.object, None)
        self.host.disk.stores.pop(self.object, None)
        self._have_store(Stored(NOTHING_KEPT))
        self.truth.opened(
            self.host.name, record.epoch, [(entry.lsn, *entry.payload) for entry in log.records], log.end, all_kept=all_kept  # type: ignore[misc]
        )  # fmt: skip
        self._serve(record, content, table, from_lsn)

    def _cut_beyond(self, head_lsn: int) -> int:
        """A mutation: whatever lies in the backend counts, as a listing would show it."""
        beyond = [tlog.last_lsn for name, tlog in self.world.backend.items() if name[0] == self.object]
        return min(max([head_lsn, *beyond]), self.log.end) + 1

    def _serve(self, record: ObjectRecord, content: dict[int, int], table: Executed, from_lsn: int) -> None:
        from tests.simulation.ownership_world import DTL

        log, now = self.log, self.now
        self.opening, self.content, self.thief = False, content, None
        uploads = self.uploads = Uploads(self, record, from_lsn)
        uploads.begun_at = log.end
        sender = self.sender = self.parts.sender(
            self.object, record.epoch, record.dtl, log.lineage, log.end, from_lsn - 1, lambda: table,
            tail_bytes=log.end - from_lsn + 1, now=now, timings=DTL,
        )  # fmt: skip
        self._opened_lsn = log.end
        self.owned = self.parts.owned(
            self.object, record.epoch, log.lineage, log.end, table,
            may_reply=lambda now: self.host.lease.serves(now) or sender.vouches(now),
            covers=sender.covers,
        )  # fmt: skip
        for node in self.host.nodes().values():
            self.owned.ban(node.id, node.incarnation - (not node.expired))
        self.source = self.parts.source(
            self.object, self.host.name, record.epoch, record.attempt, log.end, from_lsn - 1, now, timings=TIMINGS
        )
        self._draining = False
        self._exec_at = now
        self.world.note(f"open {self.host.name} {record.epoch} {log.end}")
        self.run(sender.tick(now))
        self.see()
        self.host.later(0.05, self._upload, uploads)

    def _upload(self, uploads: Uploads) -> None:
        if self.uploads is uploads:
            uploads.close()
            self.host.later(0.05 + self.random.random() * 0.5, self._upload, uploads)

    def trimmed(self, through: int) -> None:
        """The head includes this much: local copies may go, but what a hand-over may have to send again."""
        if self.sender is None or self.source is None or self.owned is None:
            return
        self.run(self.sender.trimmed(through))
        self.source.trimmed(through)
        pinned = self.source.pinned_from
        through = min(through, self.log.synced, through if pinned is None else pinned - 1)
        self.log.executed = self.owned.executed_table.entries()
        self.log.trim(through)

    def _deposed(self, record: ObjectRecord) -> None:
        """Somebody else's, or another epoch of ours."""
        assert self.owned is not None
        self.run(self.owned.depose(record.owner, record.epoch))
        self.owned = self.sender = self.source = self.uploads = None
        self._bury(record)
        if record.owner == self.host.name:
            self._perhaps_open(record)

    # -- time ----------------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        now = self.now
        self.run(self.forwarder.tick(now))
        if self.store is not None:
            self.run(self.store.tick(now))
        if self.owned is not None:
            assert self.sender is not None
            assert self.source is not None
            self.run(self.sender.tick(now))
            self._choose(now)
        if self.owned is not None and self.source is not None:
            self.run(self.source.tick(now))
        self.changed()
        if self.target is not None:
            self.run(self.target.tick(now))
        if self.thief is not None:
            self.run(self.thief.tick(now))
        self._failover(now)

    def changed(self) -> None:
        if self.owned is not None:
            self.run(self.owned.tick(self.now))

    def _choose(self, now: float) -> None:
        """A peer, if there is none; another one if it stays away."""
        sender = self.sender
        if sender is None or not self.world.dtl:
            return
        if sender.dtl.state is DtlState.OFF:
            self.run(sender.switch(on=True, asynchronous=self.world.asynchronous))
            return
        if sender.dtl.asynchronous is not self.world.asynchronous:
            self.run(sender.switch(on=True, asynchronous=self.world.asynchronous))
        peer, nodes = sender.dtl.peer, self.host.nodes()
        gone = peer in nodes and nodes[peer].expired
        stays_away = sender.dtl.state is DtlState.DEGRADED and now - self._away.setdefault(peer, now) > 2.0
        if sender.dtl.state is not DtlState.DEGRADED:
            self._away.clear()
        if not peer or gone or stays_away:
            away = frozenset(name for name, since in self._away.items() if name and now - since > 1.0)
            chosen = choose_peer(self.object, self.host.name, nodes.values(), away - {""})
            if not chosen:
                self._away.clear()
            elif chosen != peer:
                self.run(sender.choose(chosen, now))

    def _failover(self, now: float) -> None:
        record = self.record()
        if not may_be_stolen(record, self.host.nodes().get(record.owner), self.host.name):
            self._expired_at = None
            return
        if self._expired_at is None:
            self._expired_at = now
        rank = thief_rank(self.object, record.dtl.peer, self.host.name, self.host.nodes().values())
        if rank is None or self.thief is not None or self.opening or self.owned is not None:
            return
        if without_loss(record) and now - self._expired_at >= rank * 0.8:
            self._expired_at = now
            self.steal(Consent())

    def steal(self, consent: Consent) -> None:
        if (self.thief is None or not self.thief.is_submitted) and not self.opening and self.owned is None:
            self.target = None  # one of them at a time: both stage in the same place
            self.thief = self.parts.thief(self.host.name, self.record(), consent, retry_s=0.4)
            self.run(self.thief.begin(self.now))

    def want(self, *, by_command: bool = False) -> None:
        record = self.record()
        busy = self.target is not None or self.opening or self.owned is not None or self.thief is not None
        if busy or record.owner in ("", self.host.name):
            return
        use = self.counter.count(self.now)
        self.target = self.parts.target(
            self.object, self.host.incarnation, record.owner, record.epoch,
            use=use, by_command=by_command, retry_s=0.3, patience_s=2.0,
        )  # fmt: skip
        self.run(self.target.begin(self.now))

    def fence(self) -> None:
        """This life of the node is over: its clients are told so."""
        self.run(self.forwarder.fence())

    # -- clients -------------------------------------------------------------------------------------------------------------

    def ask(self, client: int) -> None:
        kind = self.random.choices((RequestKind.WRITE, RequestKind.READ, RequestKind.FLUSH), (5, 3, 3))[0]
        block = self.random.randrange(BLOCKS)
        self.world.value += 1
        payload = (block, self.world.value)
        number = self.forwarder._number + 1
        from volumedriver import Origin

        self.truth.submitted(Origin(self.host.name, self.host.incarnation, number), kind, *payload, client)
        self.clients[number] = client
        _, effects = self.forwarder.submit(kind, payload, self.now, client)
        self.counter.used(self.now)
        if self.owned is None and self.world.by_threshold and self.counter.wants(self.now):
            self.want()
        self.run(effects)

    def _complete(self, effect: f.Complete) -> None:
        from volumedriver import Origin

        self.truth.completed(Origin(self.host.name, self.host.incarnation, effect.number), effect.answer)
        if isinstance(effect.answer, Done):
            self.host.done[self.object] += 1
        client = self.clients.pop(effect.number)
        slow = self.random.random() < 0.2
        self.host.later(self.random.random() * (0.6 if slow else 0.08), self.ask, client)

    # -- messages ------------------------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Any) -> None:
        now = self.now
        if isinstance(message, Request):
            if self.owned is not None:
                self.run(self.owned.request(message, now))
            else:
                record = self.record()
                if record.epoch >= message.epoch and record.owner != self.host.name:
                    reply = Reply(self.object, message.origin, message.epoch, Moved(record.owner, record.epoch))
                    self.world.send(self.host.name, sender, reply)
        elif isinstance(message, Reply):
            self.run(self.forwarder.reply(message, now))
        elif isinstance(message, Open | Begin | Append | Trim | Ping | Fence | Fetch):
            if self.store is not None and self.owned is None:
                self.run(self.store.receive(sender, message, now))
        elif isinstance(message, Opened | StoredMessage | Pong | Refused):
            if self.sender is not None:
                self.run(self.sender.receive(sender, message, now))
        elif isinstance(message, Fenced | Fetched):
            if self.thief is not None:
                self.run(self.thief.receive(sender, message, now))
        else:
            self._handover(sender, message)

    def _handover(self, sender: str, message: Any) -> None:
        if isinstance(message, Ask) and self.source is not None:
            yields = self.counter.yields(message.use, self.now)
            self.run(self.source.asked(sender, message, self.now, takes=True, yields=yields))
        elif isinstance(message, Copied | Ready | Cancelled) and self.source is not None:
            self.run(self.source.receive(sender, message, self.now))
        if isinstance(message, Denied | Granted | Copy | Finish | Cancelled) and self.target is not None:
            self.run(self.target.receive(sender, message, self.now))

    # -- effects -------------------------------------------------------------------------------------------------------------

    def run(self, effects: list[Any]) -> None:
        for effect in effects:
            _EFFECTS[type(effect)](self, effect)

    def _send(self, effect: Send) -> None:
        message = effect.message
        if isinstance(message, Reply) and self.owned is not None:
            kind = self.truth.operations[message.origin].kind
            self.world.note(f"reply {self.host.name} {message.origin.node} {message.origin.number}")
            self.truth.answered(self.host.name, self.owned.epoch, message.origin, kind, message.answer)
        self.world.send(self.host.name, effect.node, message)

    def _execute(self, effect: o.Execute) -> None:
        self._exec_at = max(self._exec_at, self.now + self.world.disk_delay() * 0.5) + 0.000001
        self.host.later(self._exec_at - self.now, self._executes, self.owned, effect.request)

    def _executes(self, owned: o.OwnedObject, request: Request) -> None:
        if self.owned is not owned:
            return
        block, value = request.payload
        if request.kind is RequestKind.READ:
            self.run(owned.executed(request.origin, self.content.get(block, 0), 0, self.now))
            self._drain()
            return
        if self.host.full:
            self.host.later(0.2, self._executes, owned, request)
            return
        log = self.log
        lsn = log.end + 1
        log.records.append(TailRecord(lsn, request.origin, (block, value)))
        self.content[block] = value
        self.truth.executed(self.host.name, owned.epoch, lsn, request.origin, block, value)
        assert self.sender is not None
        assert self.source is not None
        self.run(owned.executed(request.origin, None, lsn, self.now))
        if self.owned is owned:
            self.run(self.sender.appended(lsn, self.now, lsn - self._opened_lsn))
            self.run(self.source.appended(lsn, self.now))
            self._drain()

    def _sync(self, effect: o.Sync) -> None:
        self.host.later(self.world.disk_delay(), self._synced, self.owned, self.log.end)

    def _synced(self, owned: o.OwnedObject, end: int) -> None:
        if self.owned is owned:
            self.log.synced = max(self.log.synced, end)
            self.run(owned.synced(end, self.now))
            self._drain()

    def _hold(self, effect: hs.Hold) -> None:
        assert self.owned is not None
        self.owned.hold()
        self._draining = True
        self._drain()

    def _drain(self) -> None:
        owned, source = self.owned, self.source
        if not self._draining or owned is None or source is None or source.phase != "draining" or not owned.drained:
            return
        self._draining = False
        self.host.later(self.world.disk_delay(), self._drained, owned)

    def _drained(self, owned: o.OwnedObject) -> None:
        if self.owned is owned and self.source is not None:
            log = self.log
            log.synced = log.end
            self.run(self.source.drained(log.end, log.lineage, owned.executed_table.entries(), self.now))

    def _resume(self, effect: hs.Resume) -> None:
        self._draining = False
        if self.owned is not None:
            self.run(self.owned.resume(self.now))

    def _ship(self, effect: Ship) -> None:
        if effect.first_lsn > self.log.trimmed:
            records = self.log.part(effect.first_lsn, effect.last_lsn)
            self.world.send(self.host.name, effect.node, effect.message(self.object, records))

    def _propose(self, effect: Propose) -> None:
        sender = self.sender
        assert sender is not None
        command = ProposeDtl(self.object, sender.epoch, effect.version, effect.peer, effect.state, effect.asynchronous)

        def proposed(outcome: Any) -> None:
            record = outcome if isinstance(outcome, ObjectRecord) else self.record()
            if self.sender is sender and record.epoch == sender.epoch:
                self.run(sender.outcome(record.dtl, self.now))

        self.host.submit(command, proposed)

    def _covers_more(self, effect: CoversMore) -> None:
        self.changed()

    def _store(self, effect: Store) -> None:
        self._storing.append(effect)
        if len(self._storing) == 1:
            self.host.later(self.world.disk_delay(), self._stored, self.store)

    def _stored(self, store: DtlStore) -> None:
        if self.store is not store or not self._storing:
            return
        if self.host.full and any(effect.records for effect in self._storing):
            failed = list(self._storing)
            self._storing.clear()
            for effect in failed:
                self.run(store.failed(effect.token))
            return
        effect = self._storing.popleft()
        stored = self.host.disk.stores[self.object]
        if effect.cut_past is not None:
            del stored.records[max(0, effect.cut_past - stored.kept.trimmed_through) :]
        stored.records += effect.records
        dropped = effect.kept.trimmed_through - stored.kept.trimmed_through
        del stored.records[:dropped]
        stored.kept = effect.kept
        if self._storing:
            self.host.later(self.world.disk_delay(), self._stored, store)
        self.run(store.stored(effect.token, self.now))

    def _send_records(self, effect: SendRecords) -> None:
        stored = self.host.disk.stores[self.object]
        first = effect.first_lsn - stored.kept.trimmed_through - 1
        if first >= 0:
            records = tuple(stored.records[first : first + 6])
            self.world.send(self.host.name, effect.node, Fetched(self.object, effect.epoch, records))

    def _keep(self, effect: Keep) -> None:
        self.host.later(self.world.disk_delay(), self._kept, self.thief, effect)

    def _kept(self, thief: Thief, effect: Keep) -> None:
        if self.thief is not thief:
            return
        records = list(self.host.disk.stores[self.object].records if effect.in_place else effect.records)
        end = effect.trimmed_through + len(records)
        log = Log(effect.trimmed_through, records, effect.lineage, effect.executed, set(), end, lossy=True)
        self.host.disk.staged[self.object] = Staging(thief.record.epoch + 1, None, log)
        self.run(thief.kept(self.now))

    def _submit_steal(self, effect: SubmitSteal) -> None:
        thief = self.thief
        assert thief is not None
        how = (effect.dtl_version, effect.fenced_peer, effect.accept_loss, effect.powered_off)
        command = Steal(self.object, self.host.name, effect.epoch, *how)

        def outcome(result: Any) -> None:
            if self.thief is thief:
                refused = isinstance(result, Refusal)
                self.run(thief.outcome(None if refused else result, result.message if refused else ""))

        self.host.submit(command, outcome)

    def _stolen(self, effect: Stolen) -> None:
        staged = self.host.disk.staged.get(self.object)
        self.thief, self.target = None, None
        if effect.end_lsn is None or staged is None:
            self.host.disk.logs[self.object] = Log(0, [], Lineage(), Entries(), {effect.record.epoch})
            self._open(effect.record, "lost")
        else:
            self.host.disk.logs[self.object] = staged.log
            self._open(effect.record, "steal")

    def _gave_up(self, effect: GaveUp) -> None:
        self.thief = None
        self.world.note(f"gave up {self.host.name} {effect.why}")

    def _copy_out(self, effect: hs.CopyOut) -> None:
        if effect.first_lsn > self.log.trimmed:
            records = self.log.part(effect.first_lsn, effect.last_lsn)
            self.world.send(self.host.name, effect.node, Copy(self.object, effect.epoch, effect.attempt, records))

    def _submit(self, effect: hs.Submit) -> None:
        source = self.source

        def outcome(result: Any) -> None:
            if self.source is source and source is not None:
                record = None if isinstance(result, Refusal) else result
                current = self.record() if record is None else record
                self.run(source.outcome(effect.command, record, current, self.now))

        self.host.submit(effect.command, outcome)

    def _handed_over(self, effect: hs.HandedOver) -> None:
        if self.owned is not None:
            self._deposed(effect.record)

    def _stage(self, effect: ht.Stage) -> None:
        self._disk_at = max(self._disk_at, self.now + self.world.disk_delay()) + 0.000001
        self.host.later(self._disk_at - self.now, self._staged, self.target, effect)

    def _staged(self, target: ht.HandoverTarget, effect: ht.Stage) -> None:
        if self.target is not target or target.attempt != effect.attempt:
            return
        if self.host.full and effect.records:
            self.run(target.failed(effect.token))
            return
        disk = self.host.disk
        if effect.fresh:
            log = Log(effect.first_lsn - 1, [], Lineage(), Entries(), set())
            disk.staged[self.object] = Staging(effect.epoch + 1, effect.attempt, log)
        staged = disk.staged[self.object]
        staged.log.records += effect.records
        staged.log.synced = staged.log.end
        if effect.finish is not None:
            staged.finish = effect.finish
            staged.log.lineage, staged.log.executed = effect.finish.lineage, effect.finish.executed
        self.run(target.staged(effect.token))

    def _take_over(self, effect: ht.TakeOver) -> None:
        self.target = None
        if self.owned is None and not self.opening:
            self.host.disk.logs[self.object] = self.host.disk.staged[self.object].log
            self._open(effect.record, "transfer")

    def _dropped(self, effect: ht.Dropped) -> None:
        self.target = None
        self.counter.refused(self.now)

    def _ask_registry(self, effect: f.AskRegistry) -> None:
        self.host.refresh()


def _threshold() -> Any:
    from tests.simulation.ownership_node import THRESHOLD

    return THRESHOLD


def _lineage_of(truth: Any) -> tuple[tuple[int, int], ...]:
    """Of the official history: what the TLogs in the backend say."""
    starts: list[tuple[int, int]] = []
    for lsn, (epoch, *_) in enumerate(truth.history, 1):
        if not starts or starts[-1][0] != epoch:
            starts.append((epoch, lsn))
    return tuple(starts)


_EFFECTS: dict[type, Any] = {
    Send: Place._send,
    f.Complete: Place._complete,
    f.AskRegistry: Place._ask_registry,
    o.Execute: Place._execute,
    o.Sync: Place._sync,
    Ship: Place._ship,
    Propose: Place._propose,
    CoversMore: Place._covers_more,
    Store: Place._store,
    SendRecords: Place._send_records,
    Keep: Place._keep,
    SubmitSteal: Place._submit_steal,
    Stolen: Place._stolen,
    GaveUp: Place._gave_up,
    hs.Hold: Place._hold,
    hs.Resume: Place._resume,
    hs.CopyOut: Place._copy_out,
    hs.Submit: Place._submit,
    hs.HandedOver: Place._handed_over,
    ht.Stage: Place._stage,
    ht.TakeOver: Place._take_over,
    ht.Dropped: Place._dropped,
}
