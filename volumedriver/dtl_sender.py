"""An owner's side of the DTL for one object at one epoch: when may a flush be acknowledged, what does the registry say? Pure.

Input: what the log does (``appended``, ``trimmed``), messages of the peer, outcomes of proposals, ``tick``. Output: effects. The
shell reads records for ``Ship``, submits ``Propose`` (one at a time, until the outcome is known: a time-out is no outcome), and
calls ``covers`` whenever ``CoversMore`` comes, to see which flushes may be acknowledged.

**Two rules.** *In sync* is proposed only when the peer holds everything that was acknowledged and flushes wait for it already.
*Degraded* is committed before anything unprotected is acknowledged: as long as the registry may say *in sync*, flushes wait for
the peer, however long that takes.

**The word.** Without a lease the owner may go on for ``word_s`` from the sending of the last ping that the peer answered, if the
registry says *in sync*: a thief has to fence the peer first, and the peer lets the word run out before it confirms that.

An object that is mirrored asynchronously (``synchronous=False``) never becomes *in sync*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from registry import Dtl, DtlState
from volumedriver.dtl_messages import Append, Begin, FromPeer, Open, Opened, Ping, Pong, Refused, Send, Stored, Trim
from volumedriver.executed import Executed
from volumedriver.tail import Lineage


@dataclass(frozen=True, slots=True)
class DtlTimings:
    """Seconds, and records.

    ``patience_s``: how long flushes wait for a silent peer before the DTL is degraded. A longer ``word_s`` lets an owner go on
    for longer without a word from its peer, and delays a steal by as much if owner and peer were cut off together.
    """

    ping_s: float = 0.5
    patience_s: float = 2.0
    resend_s: float = 0.5
    retry_s: float = 1.0
    word_s: float = 2.0
    margin_s: float = 0.5
    window_records: int = 1024

    def validate(self) -> None:
        """Rules across fields. Errors: ``ValueError``."""
        if not 0 < 2 * self.ping_s <= min(self.word_s, self.patience_s):
            raise ValueError("word_s and patience_s must outlive two pings")
        if self.margin_s <= 0 or self.window_records < 1:
            raise ValueError("margin_s and window_records must be positive")


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
    """Effect: submit ``ProposeDtl(object, epoch, version, peer, state)``, and call ``outcome`` when it is known."""

    version: int
    peer: str
    state: DtlState


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
        synchronous: bool = True,
        timings: DtlTimings | None = None,
    ) -> None:
        """``dtl``: as the command that began the epoch answered. ``executed``: the object's table, asked when it is sent."""
        self.timings = timings or DtlTimings()
        self.timings.validate()
        self.object, self.epoch, self.lineage = object_id, epoch, lineage
        self.dtl = dtl  # as last committed
        self.proposal: Propose | None = None  # its outcome is not known
        self._executed, self._synchronous = executed, synchronous
        self._end, self._trimmed = end_lsn, trimmed_through
        self._guard_lsn: int | None = None  # flushes wait for the peer since the log ended here
        if dtl.state is DtlState.IN_SYNC:
            self._guard_lsn = end_lsn  # the source of a hand-over holds the whole tail
        self.stored_through = end_lsn if dtl.state is DtlState.IN_SYNC else 0
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

    def covers(self, lsn: int) -> bool:
        """Whether a flush of everything through ``lsn`` may be acknowledged as far as the DTL goes."""
        return not self.guarded or self.stored_through >= lsn

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

    def appended(self, end_lsn: int, now: float) -> list[Effect]:
        """The log has grown."""
        self._end = max(self._end, end_lsn)
        return self._ship(now)

    def trimmed(self, through_lsn: int) -> list[Effect]:
        """The head that the registry has committed includes everything through this LSN."""
        self._trimmed = max(self._trimmed, through_lsn)
        return self._trim()

    def choose(self, peer: str, now: float) -> list[Effect]:
        """Another peer from now on (``dtl_peers`` chooses); the old one no longer counts when that is committed."""
        if self.proposal is not None or peer == self.dtl.peer or self.dtl.state is DtlState.OFF:
            return []
        self._close(now)
        return [self._propose(DtlState.DEGRADED, peer)]

    def switch(self, *, on: bool) -> list[Effect]:
        """An administrator switches the DTL on or off."""
        if self.proposal is not None or on == (self.dtl.state is not DtlState.OFF):
            return []
        return [self._propose(DtlState.DEGRADED if on else DtlState.OFF, self.dtl.peer if on else "")]

    def outcome(self, dtl: Dtl, now: float) -> list[Effect]:
        """The proposal is applied or refused; ``dtl`` is what the registry says after that, at this epoch."""
        self.proposal = None
        return self.adopt(dtl, now)

    def adopt(self, dtl: Dtl, now: float) -> list[Effect]:
        """What the registry says, at this epoch."""
        if dtl.version < self.dtl.version:
            return []
        if dtl.peer != self.dtl.peer:
            self._close(now)
            self._since = self._tried_at = None
            self.stored_through = 0
        if self.dtl.state is DtlState.IN_SYNC and dtl.state is not DtlState.IN_SYNC:
            self._guard_lsn = None
        if dtl.state is DtlState.OFF:
            self._close(now)
            self._guard_lsn = None
        self.dtl = dtl
        return [CoversMore(), *self.tick(now)]

    def receive(self, sender: str, message: FromPeer, now: float) -> list[Effect]:
        """A message of the peer. Those of older sessions say nothing."""
        if sender != self.dtl.peer or (message.epoch, getattr(message, "session", 0)) != (self.epoch, self._session):
            return []
        self._heard_at = now
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
        if self.may_be_in_sync and common < self.stored_through:  # it has lost what is counted on
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
            self.stored_through = message.through if not self.may_be_in_sync else max(self.stored_through, message.through)
        if message.through > self.stored_through or message.through >= self._end:
            self._progress_at, self._since = now, None
            self._lagging_at = now if message.through < self._end else None
        self.stored_through = max(self.stored_through, message.through)
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
            if self.dtl.state is not DtlState.IN_SYNC:
                self._guard_lsn = None
                return []
            patient = self._since is not None and now - self._since < self.timings.patience_s
            return [] if patient else [self._propose(DtlState.DEGRADED, self.dtl.peer)]
        if self.dtl.state is DtlState.DEGRADED:
            return [self._propose(DtlState.CATCHING_UP, self.dtl.peer)]
        if self.dtl.state is DtlState.CATCHING_UP and self._synchronous:
            return self._towards_sync()
        return []

    def _towards_sync(self) -> list[Effect]:
        """First flushes wait; then, when the peer has everything from before, that is said."""
        if self._guard_lsn is None:
            if self.lag_records > self.timings.window_records // 2:
                return []
            self._guard_lsn = self._end
        if self.stored_through < self._guard_lsn:
            return []
        return [self._propose(DtlState.IN_SYNC, self.dtl.peer)]

    def _propose(self, state: DtlState, peer: str) -> Propose:
        self.proposal = Propose(self.dtl.version, peer, state)
        return self.proposal

    def _close(self, now: float) -> None:
        """No session; what the peer has stored it still has."""
        if self._since is None:
            self._since = now
        self._phase, self._lagging_at, self._word_until = "closed", None, None
        self._pings.clear()
