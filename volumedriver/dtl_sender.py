"""An owner's side of the DTL for one object at one epoch: when may a flush be acknowledged, what does the registry say? Pure.

Input: what the log does (``appended``, ``trimmed``), messages of the peer, outcomes of proposals, ``tick``. Output: effects. The
shell reads records for ``Ship``, submits ``Propose`` (one at a time, until the outcome is known: a time-out is no outcome), and
calls ``covers`` whenever ``CoversMore`` comes, to see which flushes may be acknowledged.

**Two rules.** *In sync* is proposed only when the peer holds everything that was acknowledged and flushes wait for it already.
*Degraded* is committed before anything unprotected is acknowledged: as long as the registry may say *in sync*, flushes wait for
the peer, however long that takes.

**The word.** Without a lease the owner may go on for ``word_s`` from the sending of the last ping that the peer answered, if the
registry says *in sync*: a thief has to fence the peer first, and the peer lets the word run out before it confirms that.

**Asynchronously** (``Dtl.asynchronous``) the object never becomes *in sync*, but *following*: the peer is behind by no more than
``lag_bytes`` and ``lag_s``. The two rules hold for that bound in the same way: *following* is proposed when the peer is within it
and flushes (the shell: writes, too) wait already where it would be passed, and *degraded* is committed before it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from registry import Dtl, DtlState
from volumedriver.dtl_lag import Lag
from volumedriver.dtl_messages import Append, Begin, FromPeer, Open, Opened, Ping, Pong, Refused, Send, Stored, Trim
from volumedriver.executed import Executed
from volumedriver.tail import Lineage


@dataclass(frozen=True, slots=True)
class DtlTimings:
    """Seconds, records, bytes.

    ``patience_s``: how long flushes wait for a silent peer before the DTL is degraded. A longer ``word_s`` lets an owner go on
    for longer without a word from its peer, and delays a steal by as much if owner and peer were cut off together. ``lag_bytes``,
    ``lag_s``: how far an asynchronous peer may be behind.
    """

    ping_s: float = 0.5
    patience_s: float = 2.0
    resend_s: float = 0.5
    retry_s: float = 1.0
    word_s: float = 2.0
    margin_s: float = 0.5
    window_records: int = 1024
    lag_bytes: int = 64 << 20
    lag_s: float = 5.0

    def validate(self) -> None:
        """Rules across fields. Errors: ``ValueError``."""
        if not 0 < 2 * self.ping_s <= min(self.word_s, self.patience_s):
            raise ValueError("word_s and patience_s must outlive two pings")
        if self.margin_s <= 0 or self.window_records < 1 or self.lag_bytes < 1 or self.lag_s <= 0:
            raise ValueError("margin_s, window_records, lag_bytes and lag_s must be positive")


@dataclass(frozen=True, slots=True)
class Ship:
    """Effect: send records ``first_lsn`` to ``last_lsn`` of the log to the peer, as ``Append`` messages of this session."""

    node: str
    epoch: int
    session: int
    first_lsn: int
    last_lsn: int

    def message(self, object_id: str, records: tuple[object, ...]) -> Append:
        """The message that carries these records."""
        return Append(object_id, self.epoch, self.session, records)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Propose:
    """Effect: submit ``ProposeDtl(object, epoch, version, peer, state, asynchronous)``, and call ``outcome`` when it is known."""

    version: int
    peer: str
    state: DtlState
    asynchronous: bool = False


@dataclass(frozen=True, slots=True)
class CoversMore:
    """Effect: ``covers`` may say more than before."""


Effect = Send | Ship | Propose | CoversMore


class DtlSender:
    """One object, from the beginning of an epoch to its end."""

    def __init__(
        self,
        object_id: str,
        epoch: int,
        dtl: Dtl,
        lineage: Lineage,
        end_lsn: int,
        trimmed_through: int,
        executed: Callable[[], Executed],
        *,
        tail_bytes: int = 0,
        now: float = 0.0,
        timings: DtlTimings | None = None,
    ) -> None:
        """``dtl``: as the command that began the epoch answered. ``executed``: the object's table, asked when it is sent.

        ``tail_bytes``: of what is in the log already and no head has passed.
        """
        self.timings = timings or DtlTimings()
        self.timings.validate()
        self.object, self.epoch, self.lineage = object_id, epoch, lineage
        self.dtl = dtl  # as last committed
        self.proposal: Propose | None = None  # its outcome is not known
        self._executed = executed
        self._end, self._trimmed = end_lsn, trimmed_through
        self._guard_lsn: int | None = None  # flushes wait for the peer since the log ended here
        if dtl.state is DtlState.IN_SYNC:
            self._guard_lsn = end_lsn  # the source of a hand-over holds the whole tail
        self.stored_through = end_lsn if dtl.state is DtlState.IN_SYNC else 0
        self._lag = Lag(end_lsn, tail_bytes, now)
        self._lag.stored(self.stored_through)
        self._written_bytes = 0
        self._now = now  # of the last event
        self._is_bounded = False  # flushes wait where the bound of the lag would be passed
        self._session = 0
        self._phase = "closed"  # opening: asked what the peer holds; beginning; live
        self._sent_through = 0
        self._trim_sent = 0
        self._heard_at: float | None = None  # from the peer, in this epoch
        self._since: float | None = None  # the peer has confirmed nothing new, or there is no session
        self._lagging_at: float | None = None  # since then it owes a confirmation
        self._tried_at: float | None = None
        self._progress_at = 0.0
        self._pings: dict[int, float] = {}
        self._pinged_at: float | None = None
        self._ping = 0
        self._word_until: float | None = None

    # -- questions -------------------------------------------------------------------------------------------------------

    @property
    def session(self) -> int:
        """Number of the newest session."""
        return self._session

    @property
    def may_be_in_sync(self) -> bool:
        """Whether the registry says, or may say as far as is known here, *in sync*."""
        return self.dtl.state is DtlState.IN_SYNC or (self.proposal is not None and self.proposal.state is DtlState.IN_SYNC)

    @property
    def guarded(self) -> bool:
        """Whether flushes wait for the peer."""
        return self.may_be_in_sync or self._guard_lsn is not None

    @property
    def lag_records(self) -> int:
        """How far the peer is behind."""
        return max(0, self._end - self.stored_through)

    @property
    def lag_bytes(self) -> int:
        """The same in bytes, at most."""
        return self._lag.bytes

    def lag_s(self, now: float) -> float:
        """For how long the oldest record that the peer lacks has been in the log, at most."""
        return self._lag.seconds(now)

    @property
    def may_be_following(self) -> bool:
        """Whether the registry says, or may say as far as is known here, that the lag is bounded."""
        return self.dtl.state is DtlState.FOLLOWING or (self.proposal is not None and self.proposal.state is DtlState.FOLLOWING)

    @property
    def bounded(self) -> bool:
        """Whether flushes wait where the lag would pass its bound."""
        return self._is_bounded or self.may_be_following

    @property
    def is_within_bound(self) -> bool:
        """Whether something may be acknowledged as far as the bound of an asynchronous peer's lag goes."""
        return not self.bounded or self._is_near()

    def covers(self, lsn: int) -> bool:
        """Whether a flush of everything through ``lsn`` may be acknowledged as far as the DTL goes."""
        if self.stored_through >= lsn:
            return True
        is_known = lsn <= self._end or not self.bounded  # else what it adds to the lag is not
        return is_known and not self.guarded and self.is_within_bound

    def vouches(self, now: float) -> bool:
        """Whether the peer's word allows an acknowledgement at this very moment, without a lease."""
        return (
            self.dtl.state is DtlState.IN_SYNC
            and self.proposal is None
            and self._phase == "live"
            and self._word_until is not None
            and now < self._word_until
        )

    # -- events ----------------------------------------------------------------------------------------------------------

    def appended(self, end_lsn: int, now: float, written_bytes: int = 0) -> list[Effect]:
        """The log has grown: to this LSN, and by so many bytes since the epoch began."""
        self._now = now
        if end_lsn > self._end:
            self._end = end_lsn
            self._lag.appended(end_lsn, max(0, written_bytes - self._written_bytes), now)
            self._written_bytes = written_bytes
        return self._ship(now)

    def trimmed(self, through_lsn: int) -> list[Effect]:
        """The head that the registry has committed includes everything through this LSN."""
        self._trimmed = max(self._trimmed, through_lsn)
        self._lag.trimmed(self._trimmed)
        return self._trim()

    def choose(self, peer: str, now: float) -> list[Effect]:
        """Another peer from now on (``dtl_peers`` chooses); the old one no longer counts when that is committed."""
        if self.proposal is not None or peer == self.dtl.peer or self.dtl.state is DtlState.OFF:
            return []
        self._close(now)
        return [self._propose(DtlState.DEGRADED, peer)]

    def switch(self, *, on: bool, asynchronous: bool = False) -> list[Effect]:
        """An administrator switches the DTL off, or on, or between its two ways; the peer stays, and what it has."""
        is_on, state = self.dtl.state is not DtlState.OFF, self.dtl.state
        if self.proposal is not None or (on, on and asynchronous) == (is_on, is_on and self.dtl.asynchronous):
            return []
        if not on:
            return [self._propose(DtlState.OFF, "", asynchronous=False)]
        if state in (DtlState.IN_SYNC, DtlState.FOLLOWING):
            state = DtlState.CATCHING_UP
        return [self._propose(state if is_on else DtlState.DEGRADED, self.dtl.peer, asynchronous=asynchronous)]

    def outcome(self, dtl: Dtl, now: float) -> list[Effect]:
        """The proposal is applied or refused; ``dtl`` is what the registry says after that, at this epoch."""
        self.proposal = None
        return self.adopt(dtl, now)

    def adopt(self, dtl: Dtl, now: float) -> list[Effect]:
        """What the registry says, at this epoch."""
        if dtl.version < self.dtl.version:
            return []
        self._now = now
        if dtl.peer != self.dtl.peer:
            self._close(now)
            self._since = self._tried_at = None
            self._stored_now(0)
        if dtl.asynchronous or (self.dtl.state is DtlState.IN_SYNC and dtl.state is not DtlState.IN_SYNC):
            self._guard_lsn = None
        if not dtl.asynchronous or (self.dtl.state is DtlState.FOLLOWING and dtl.state is not DtlState.FOLLOWING):
            self._is_bounded = False
        if dtl.state is DtlState.OFF:
            self._close(now)
            self._guard_lsn = None
        self.dtl = dtl
        return [CoversMore(), *self.tick(now)]

    def receive(self, sender: str, message: FromPeer, now: float) -> list[Effect]:
        """A message of the peer. Those of older sessions say nothing."""
        if sender != self.dtl.peer or (message.epoch, getattr(message, "session", 0)) != (self.epoch, self._session):
            return []
        self._heard_at = self._now = now
        if isinstance(message, Refused):
            self._close(now)
            self._tried_at = now
            return []
        if isinstance(message, Opened):
            return self._begin(message, now) if self._phase == "opening" else []
        if isinstance(message, Pong):
            sent_at = self._pings.pop(message.token, None)
            if sent_at is not None:
                until = sent_at + self.timings.word_s
                self._word_until = until if self._word_until is None else max(self._word_until, until)
            return [CoversMore()]
        if isinstance(message, Stored) and self._phase in ("beginning", "live"):
            return self._stored(message, now)
        return []

    def tick(self, now: float) -> list[Effect]:
        """Time passes; a few times per second."""
        self._now = now
        if self.dtl.state is DtlState.OFF or not self.dtl.peer:
            return []
        if self._since is None and self._phase != "live":
            self._since = now
        if self._phase == "closed" and (self._tried_at is None or now - self._tried_at >= self.timings.retry_s):
            return [*self._open(now), *self._settle(now)]
        self._give_up_silent(now)
        effects: list[Effect] = []
        if self._phase == "live":
            if now - self._progress_at >= self.timings.resend_s and self._sent_through > self.stored_through:
                self._sent_through, self._progress_at = self.stored_through, now
            if self._pinged_at is None or now - self._pinged_at >= self.timings.ping_s:
                effects.append(self._send_ping(now))
            effects += self._ship(now)
        return effects + self._settle(now)

    # -- parts of the above ----------------------------------------------------------------------------------------------

    def _give_up_silent(self, now: float) -> None:
        if self._phase == "live":
            silent = self._heard_at is not None and now - self._heard_at >= self.timings.patience_s
            stuck = self._lagging_at is not None and now - self._lagging_at >= self.timings.patience_s
            if silent or stuck:
                self._close(self._lagging_at if stuck and self._lagging_at is not None else now - self.timings.patience_s)
        elif self._phase != "closed" and self._tried_at is not None and now - self._tried_at >= self.timings.retry_s:
            self._close(now)

    def _open(self, now: float) -> list[Effect]:
        self._session += 1
        self._phase, self._tried_at = "opening", now
        return [Send(self.dtl.peer, Open(self.object, self.epoch, self._session))]

    def _begin(self, opened: Opened, now: float) -> list[Effect]:
        common = self.lineage.common_end(self._end, opened.lineage, opened.end_lsn) if opened.holds else 0
        if (self.may_be_in_sync or self.may_be_following) and common < self.stored_through:  # it has lost what is counted on
            self._close(now)
            self._tried_at = now
            return [] if self.proposal is not None else [self._propose(DtlState.DEGRADED, self.dtl.peer)]
        first_lsn = max(common, self._trimmed) + 1
        self._phase = "beginning"
        self._sent_through = first_lsn - 1
        self._trim_sent = self._trimmed
        self._progress_at = now
        begin = Begin(
            self.object, self.epoch, self._session, common, first_lsn, self.lineage, self._executed().entries()
        )  # fmt: skip
        return [Send(self.dtl.peer, begin)]

    def _stored(self, message: Stored, now: float) -> list[Effect]:
        if self._phase == "beginning":
            self._phase = "live"
            is_counted_on = self.may_be_in_sync or self.may_be_following
            self._stored_now(max(self.stored_through, message.through) if is_counted_on else message.through)
        if message.through > self.stored_through or message.through >= self._end:
            self._progress_at, self._since = now, None
            self._lagging_at = now if message.through < self._end else None
        self._stored_now(max(self.stored_through, message.through))
        return [CoversMore(), *self._ship(now), *self._trim(), *self._settle(now)]

    def _ship(self, now: float) -> list[Effect]:
        if self._phase != "live":
            return []
        if self._sent_through < self._trimmed and self._sent_through < self._end:
            self._close(now)  # what is to be sent is not here any more: the next session begins at the head
            return []
        last = min(self._end, self.stored_through + self.timings.window_records)
        if last <= self._sent_through:
            return []
        first, self._sent_through = self._sent_through + 1, last
        if self._lagging_at is None:
            self._lagging_at = now
        if first == self.stored_through + 1:
            self._progress_at = now
        return [Ship(self.dtl.peer, self.epoch, self._session, first, last)]

    def _trim(self) -> list[Effect]:
        through = min(self._trimmed, self.stored_through)
        if self._phase != "live" or through <= self._trim_sent:
            return []
        self._trim_sent = through
        return [Send(self.dtl.peer, Trim(self.object, self.epoch, self._session, through, self._executed().entries()))]

    def _send_ping(self, now: float) -> Send:
        self._ping += 1
        self._pings = {token: at for token, at in self._pings.items() if now - at < self.timings.word_s}
        self._pings[self._ping] = self._pinged_at = now
        return Send(self.dtl.peer, Ping(self.object, self.epoch, self._session, self._ping))

    def _settle(self, now: float) -> list[Effect]:
        """Propose what has become true, or must be said before it becomes true."""
        if self.proposal is not None:
            return []
        if self._phase != "live":
            return self._settle_without_session(now)
        if self.dtl.state is DtlState.DEGRADED:
            return [self._propose(DtlState.CATCHING_UP, self.dtl.peer)]
        if self.dtl.state is DtlState.CATCHING_UP:
            return self._towards_following() if self.dtl.asynchronous else self._towards_sync()
        return []

    def _settle_without_session(self, now: float) -> list[Effect]:
        if self.dtl.state not in (DtlState.IN_SYNC, DtlState.FOLLOWING):
            self._guard_lsn, self._is_bounded = None, False
        if self.dtl.state in (DtlState.OFF, DtlState.DEGRADED):
            return []
        patient = self._since is not None and now - self._since < self.timings.patience_s
        return [] if patient else [self._propose(DtlState.DEGRADED, self.dtl.peer)]

    def _towards_sync(self) -> list[Effect]:
        """First flushes wait; then, when the peer has everything from before, that is said."""
        if self._guard_lsn is None:
            if self.lag_records > self.timings.window_records // 2:
                return []
            self._guard_lsn = self._end
        if self.stored_through < self._guard_lsn:
            return []
        return [self._propose(DtlState.IN_SYNC, self.dtl.peer)]

    def _towards_following(self) -> list[Effect]:
        """Within the bound flushes begin to wait for it, and that is said."""
        if not self._is_near():
            return []
        self._is_bounded = True
        return [self._propose(DtlState.FOLLOWING, self.dtl.peer)]

    def _is_near(self) -> bool:
        return self._lag.bytes <= self.timings.lag_bytes and self._lag.seconds(self._now) <= self.timings.lag_s

    def _stored_now(self, through_lsn: int) -> None:
        self.stored_through = through_lsn
        self._lag.stored(through_lsn)

    def _propose(self, state: DtlState, peer: str, *, asynchronous: bool | None = None) -> Propose:
        is_asynchronous = self.dtl.asynchronous if asynchronous is None else asynchronous
        self.proposal = Propose(self.dtl.version, peer, state, is_asynchronous)
        return self.proposal

    def _close(self, now: float) -> None:
        """No session; what the peer has stored it still has."""
        if self._since is None:
            self._since = now
        self._phase, self._lagging_at, self._word_until = "closed", None, None
        self._pings.clear()
