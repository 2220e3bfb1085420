"""An owner's side of the DTL on a real log: the shell around ``DtlSender``.

What the log gets is sent to the peer as batches; a flush waits until the machine says that it is covered. What nobody flushes is
sent a little later, in larger pieces. Where the mirror is asynchronous, flushes and writes wait while its lag is at the bound.

Concurrency: one loop; the machine is called without an await between its answer and the carrying out of its effects. One task
reads the log and sends; what the machine orders meanwhile it finds when it comes back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import structlog
import trio

from objectrouter.mirror_policy import MirrorPolicy
from registry import DtlState, ObjectRecord, ProposeDtl
from volumedriver import CoversMore, DtlSender, Entries, Executed, FromPeer, Propose, Ship, TailRecord, Volume
from volumedriver.dtl_messages import Append, Opened, Pong, Refused, Stored
from vpool.errors import Conflict, NotFound, Unavailable, VPoolError

if TYPE_CHECKING:
    from objectrouter.place import Place

log = structlog.get_logger()

DtlMode = Literal["off", "sync", "async"]

SEND_LATER_S = 0.02  # what nobody flushes waits so long for more
BATCH_BYTES = 1 << 20
AHEAD_BYTES = 16 << 20  # sent and not confirmed
SMALL_RECORDS = 16  # read at once, without a thread
READ_AGAIN_S = 0.002
TICK_S = 0.25


class MirrorOwner:
    """See above; one per place."""

    takes = (Opened, Stored, Pong, Refused)

    def __init__(self, place: Place, policy: MirrorPolicy) -> None:
        self._place, self._policy = place, policy
        self._mirror: Mirror | None = None

    @property
    def effects(self) -> Mapping[type, Callable[[Any], None]]:
        """See ``Role``; the mirror's own, since the machine's are of one epoch."""
        return {}

    @property
    def mirror(self) -> Mirror | None:
        """Of the epoch that this node serves; None: it does not."""
        return self._mirror

    @property
    def is_idle(self) -> bool:
        """See ``Role``."""
        return self._mirror is None

    def receive(self, sender: str, message: FromPeer) -> None:
        """A message of a peer."""
        if self._mirror is not None:
            self._mirror.receive(sender, message)

    def began(self, record: ObjectRecord, first_lsn: int, volume: Volume) -> None:
        """This node has opened the object."""
        self.ended()
        self._mirror = Mirror(self._place, self._policy, record, first_lsn, volume)

    def ended(self) -> None:
        """Its log was closed here."""
        if self._mirror is not None:
            self._mirror.end()
            self._mirror = None

    def see(self, record: ObjectRecord) -> None:
        """The registry's word."""
        mirror = self._mirror
        if mirror is None or record.epoch < mirror.sender.epoch:
            return
        if record.epoch > mirror.sender.epoch:
            if record.owner != self._place.ownership.registry.node:
                self.ended()
            return
        mirror.see(record)

    def tick(self, now: float) -> None:
        """The mirror has a clock of its own."""


class Mirror:
    """Of one object for one epoch; ``Volume`` asks it at each flush."""

    def __init__(self, place: Place, policy: MirrorPolicy, record: ObjectRecord, first_lsn: int, volume: Volume) -> None:
        ownership = place.ownership
        self._ownership, self._policy, self._volume, self._object = ownership, policy, volume, record.id
        self._native = volume.native  # of this epoch
        notes = ownership.notes.read(record.id)
        assert notes is not None, "the epoch was noted when it was opened"
        self.sender = DtlSender(
            record.id, record.epoch, record.dtl, notes.lineage, first_lsn - 1, self._native.tail_first_lsn() - 1,
            lambda: Executed(Entries(record.epoch + 1)),  # who asked for what does not travel with the records
            tail_bytes=self._native.stats().dirty_bytes, now=ownership.now(), timings=policy.timings,
        )  # fmt: skip
        self._bytes_before = self._native.stats().bytes_written
        self._wrote, self._wanted, self._changed = trio.Event(), trio.Event(), trio.Event()
        self._ordered, self._next = 0, 1  # last LSN that is to be sent; next one to be sent
        self._order_came = trio.Event()
        self._ahead: deque[tuple[int, int]] = deque()  # (last LSN, bytes) sent and not confirmed
        self._is_over = self._is_waiting = False
        self._scope = trio.CancelScope()
        self._away_since: float | None = None
        self._avoided: dict[str, float] = {}  # nodes that did not answer, and since when they are avoided
        volume.mirror = self
        ownership.nursery.start_soon(self._run_all)

    # -- what the volume asks ----------------------------------------------------------------------------------------------

    def wrote(self) -> None:
        """The log has grown."""
        self._wrote.set()

    @property
    def lag_records(self) -> int:
        """How far the peer is behind; 0 while there is none."""
        return 0 if self.sender.dtl.state in (DtlState.OFF, DtlState.DEGRADED) else self.sender.lag_records

    @property
    def lag_bytes(self) -> int:
        """The same in bytes, at most."""
        return 0 if self.sender.dtl.state in (DtlState.OFF, DtlState.DEGRADED) else self.sender.lag_bytes

    @property
    def lag_s(self) -> float:
        """For how long the peer has lacked the oldest of it."""
        is_told = self.sender.dtl.state not in (DtlState.OFF, DtlState.DEGRADED)
        return self.sender.lag_s(self._now()) if is_told else 0.0

    async def order(self, mode: DtlMode | None, peer: str) -> None:
        """An administrator changes how it is mirrored (None: as it is), or names a peer; returns when the registry has it.

        Errors: ``Unavailable`` (the object is closed meanwhile), ``Conflict`` (the registry has refused it).
        """
        if mode == "off":
            await self._propose_now(lambda: self.sender.switch(on=False))
            return
        is_off, dtl = self.sender.dtl.state is DtlState.OFF, self.sender.dtl
        if is_off or mode is not None:
            asynchronous = mode == "async" if mode is not None else not is_off and dtl.asynchronous
            await self._propose_now(lambda: self.sender.switch(on=True, asynchronous=asynchronous))
        wanted = peer or self.sender.dtl.peer or self._policy.choose(self._object, frozenset())
        if wanted and wanted != self.sender.dtl.peer:
            await self._propose_now(lambda: self.sender.choose(wanted, self._now()))

    async def _propose_now(self, propose: Callable[[], list[Any]]) -> None:
        await self._decided()
        effects = propose()
        version = self.sender.dtl.version
        self._run(effects)
        await self._decided()
        if effects and self.sender.dtl.version == version:
            raise Conflict("the registry has refused the change; try it again", object=self._object)

    async def _decided(self) -> None:
        """Until no proposal is under way."""
        while self.sender.proposal is not None:
            if self._is_over:
                raise Unavailable("the object was closed meanwhile", object=self._object)
            await self._changed.wait()

    @property
    def is_within_bound(self) -> bool:
        """Whether a write may be acknowledged: an asynchronous peer is near enough, or not counted on."""
        return self.sender.is_within_bound

    async def near_enough(self) -> None:
        """A write may be acknowledged on return, as far as the DTL goes."""
        self._wanted.set()
        self._look_at_log()
        self._say_waiting()
        while not self.sender.is_within_bound and not self._is_over:
            await self._changed.wait()

    def _say_waiting(self) -> None:
        if not self._is_waiting and not self.sender.is_within_bound:
            self._is_waiting = True
            log.info("dtl_lag_at_bound", object=self._object, peer=self.sender.dtl.peer, lag_bytes=self.sender.lag_bytes)

    def flushes(self, lsn: int) -> None:
        """Somebody waits for the peer to have everything through ``lsn``."""
        if not self.sender.covers(lsn):
            self._wanted.set()
            self._look_at_log()
            if not self.sender.covers(lsn):
                self._say_waiting()

    async def covered(self, lsn: int) -> None:
        """A flush of everything through ``lsn`` may be acknowledged on return, as far as the DTL goes.

        Errors: ``Unavailable`` (the log is closed meanwhile: to be made again on the next, if there is one).
        """
        while not self.sender.covers(lsn):
            if self._is_over:
                raise Unavailable("the log of the volume is being exchanged", object=self._object)
            await self._changed.wait()

    # -- events ------------------------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: FromPeer) -> None:
        """A message of the peer."""
        if isinstance(message, Refused):
            log.info("dtl_peer_refuses", object=self._object, peer=sender, why=message.why)
        if isinstance(message, Stored):
            while self._ahead and self._ahead[0][0] <= message.through:
                self._ahead.popleft()
            self._order_came.set()
        self._run(self.sender.receive(sender, message, self._now()))

    def see(self, record: ObjectRecord) -> None:
        """The registry's word at this epoch."""
        if record.dtl.version > self.sender.dtl.version:
            self._run(self.sender.adopt(record.dtl, self._now()))

    def end(self) -> None:
        """The epoch is over here."""
        self._is_over = True
        self._scope.cancel()
        if self._volume.mirror is self:
            self._volume.mirror = None
        self._tell()

    # -- parts of the above ----------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._ownership.now()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _run_all(self) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_log)
                nursery.start_soon(self._send)
                while True:
                    self._tick()
                    await trio.sleep(TICK_S)

    def _tick(self) -> None:
        now = self._now()
        self._look_at_log()
        self._run(self.sender.tick(now))
        self._choose(now)
        if self._is_waiting and self.sender.is_within_bound:
            self._is_waiting = False
            log.info("dtl_lag_within_bound", object=self._object, peer=self.sender.dtl.peer)

    async def _follow_log(self) -> None:
        while True:
            await self._wrote.wait()
            self._wrote = trio.Event()
            with trio.move_on_after(SEND_LATER_S):
                await self._wanted.wait()
            self._wanted = trio.Event()
            self._look_at_log()

    def _look_at_log(self) -> None:
        if self.sender.dtl.state is DtlState.OFF and not self.sender.guarded:
            return
        self.sender.trimmed(self._native.tail_first_lsn() - 1)
        stats = self._native.stats()
        self._run(self.sender.appended(stats.lsn, self._now(), stats.bytes_written - self._bytes_before))

    def _choose(self, now: float) -> None:
        """Switch the DTL on where it is to be, and give it a peer, or another one if it stays away."""
        sender = self.sender
        if sender.proposal is not None:
            return
        if sender.dtl.state is DtlState.OFF:
            if sender.dtl.version == 0 and self._policy.is_wanted():
                self._run(sender.switch(on=True, asynchronous=self._policy.is_asynchronous))
            return
        peer = sender.dtl.peer
        if sender.dtl.state is not DtlState.DEGRADED:
            self._away_since = None
            return
        if peer and self._away_since is None:
            self._away_since = now
        if peer and now - (self._away_since or now) < self._policy.change_peer_s:
            return
        if peer:
            self._avoided[peer] = now
        self._avoided = {node: at for node, at in self._avoided.items() if now - at < self._policy.avoid_s}
        chosen = self._policy.choose(self._object, frozenset(self._avoided))
        if chosen and chosen != peer:
            log.info("dtl_peer_chosen", object=self._object, peer=chosen, before=peer)
            self._away_since = None
            self._run(sender.choose(chosen, now))

    # -- effects -----------------------------------------------------------------------------------------------------------

    def _run(self, effects: list[Any]) -> None:
        for effect in effects:
            if self._is_over:
                return
            match effect:
                case Ship():
                    self._ship(effect)
                case Propose():
                    self._propose(effect)
                case CoversMore():
                    self._tell()
                case _:
                    self._ownership.send(effect.node, effect.message)

    def _ship(self, effect: Ship) -> None:
        if effect.first_lsn != self._ordered + 1:  # a new session, or again what was not confirmed
            self._next = effect.first_lsn
            self._ahead.clear()
        self._ordered = effect.last_lsn
        self._order_came.set()

    def _propose(self, effect: Propose) -> None:
        epoch = self.sender.epoch
        command = ProposeDtl(self._object, epoch, effect.version, effect.peer, effect.state, effect.asynchronous)

        def decided(outcome: ObjectRecord | VPoolError) -> None:
            record = outcome if isinstance(outcome, ObjectRecord) else self._ownership.registry.view.object(self._object)
            if self._is_over or record is None or record.epoch != epoch:
                return
            dtl = record.dtl
            way = "async" if dtl.asynchronous else "sync"
            log.info("dtl_state", object=self._object, state=dtl.state.value, mode=way, peer=dtl.peer)
            self._run(self.sender.outcome(record.dtl, self._now()))

        self._ownership.submit(command, decided)

    async def _send(self) -> None:
        """Read what is ordered, and send it, not faster than the peer makes it durable."""
        while True:
            await self._order_came.wait()
            self._order_came = trio.Event()
            while self._next <= self._ordered and sum(size for _, size in self._ahead) < AHEAD_BYTES:
                first, session = self._next, self.sender.session
                try:
                    batch = await self._read(first)
                except NotFound:  # the head has passed it; the machine begins a new session there
                    break
                except VPoolError as error:
                    log.error("log_not_read_for_dtl", object=self._object, reason=str(error))
                    break
                if (first, session) != (self._next, self.sender.session):
                    continue
                if batch is None or batch.first_lsn != first:
                    await trio.sleep(READ_AGAIN_S)
                    continue
                self._next = batch.last_lsn + 1
                self._ahead.append((batch.last_lsn, len(batch.data)))
                run = TailRecord(batch.first_lsn, None, batch.data, batch.last_lsn - batch.first_lsn + 1)
                self._ownership.send(self.sender.dtl.peer, Append(self._object, self.sender.epoch, session, (run,)))

    async def _read(self, first_lsn: int) -> Any:
        if self._ordered - first_lsn < SMALL_RECORDS:
            await trio.lowlevel.checkpoint()
            return self._native.tail(first_lsn, BATCH_BYTES)
        return await trio.to_thread.run_sync(self._native.tail, first_lsn, BATCH_BYTES)
