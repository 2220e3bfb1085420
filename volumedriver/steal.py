"""Taking an object over from a node that the registry has expired, without losing anything that was flushed. Pure.

Order: fence the DTL peer, fetch its tail, make it durable here, then the new epoch, then serve. Each step waits for the one
before; whatever gets in between (the owner is back, another thief was faster) shows as a refusal of ``Steal``, which is
compare-and-set.

Input: ``begin``, messages of the peer, ``kept`` (a ``Keep`` is durable), ``outcome`` (of ``SubmitSteal``), ``tick``. The natural
thief is the peer itself: then messages go to this node's own store, in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry import DtlState, NodeRecord, ObjectRecord, ObjectState
from volumedriver.dtl_messages import Fence, Fenced, Fetch, Fetched, Send
from volumedriver.executed import Entries
from volumedriver.tail import Lineage, TailRecord


@dataclass(frozen=True, slots=True)
class Consent:
    """An administrator's: ``powered_off`` if the old owner is known to be off."""

    accept_loss: bool = False
    powered_off: bool = False


def may_be_stolen(record: ObjectRecord, owner: NodeRecord | None, me: str) -> bool:
    """Whether a thief may begin: the owner has expired."""
    if record.state is ObjectState.HALTED or not record.owner or record.owner == me:
        return False
    return owner is None or owner.expired


def without_loss(record: ObjectRecord) -> bool:
    """Whether the tail can be had from a peer."""
    return record.dtl.state is DtlState.IN_SYNC and record.dtl.peer not in ("", record.owner)


def has_some_tail(record: ObjectRecord) -> bool:
    """Whether a peer has begun to store this epoch's log: all of it or less, and nothing else.

    A new epoch degrades, and only a session that was begun in it leads away from that.
    """
    states = (DtlState.IN_SYNC, DtlState.FOLLOWING, DtlState.CATCHING_UP)
    return record.dtl.state in states and record.dtl.peer not in ("", record.owner)


@dataclass(frozen=True, slots=True)
class Keep:
    """Effect: make these records durable, as the tail of what will be this node's log; then call ``kept``.

    The first effect of a thief that finds something of the object here replaces it. ``in_place``: the thief is the peer, and has
    the records already.
    """

    records: tuple[TailRecord, ...]
    trimmed_through: int
    lineage: Lineage
    executed: Entries
    in_place: bool = False


@dataclass(frozen=True, slots=True)
class SubmitSteal:
    """Effect: submit ``Steal`` with these fields, and call ``outcome`` when it is known."""

    epoch: int
    dtl_version: int
    fenced_peer: str
    accept_loss: bool
    powered_off: bool


@dataclass(frozen=True, slots=True)
class Stolen:
    """Effect: the object is this node's at ``record.epoch``.

    Open it with what was kept (all through ``end_lsn``), or from the backend alone if there was no peer (``end_lsn`` None).
    ``lost``: what was flushed may be gone.
    """

    record: ObjectRecord
    end_lsn: int | None
    lost: bool = False


@dataclass(frozen=True, slots=True)
class GaveUp:
    """Effect: not this time, or not without consent; what was kept may go."""

    why: str


Effect = Send | Keep | SubmitSteal | Stolen | GaveUp


class Thief:
    """One attempt of one node at one object, at the epoch it has."""

    def __init__(self, me: str, record: ObjectRecord, consent: Consent, *, retry_s: float = 1.0) -> None:
        self.me, self.record, self.consent = me, record, consent
        self._retry_s = retry_s
        self._step = "new"  # fencing, fetching, keeping, stealing, over
        self._asked_at = 0.0
        self._fenced: Fenced | None = None
        self._records: list[TailRecord] = []

    @property
    def is_over(self) -> bool:
        """Nothing more will come of it."""
        return self._step == "over"

    @property
    def is_submitted(self) -> bool:
        """``Steal`` is under way. Before that another thief may take its place: one with an administrator's consent."""
        return self._step in ("stealing", "over")

    def begin(self, now: float) -> list[Effect]:
        """The first step."""
        if not without_loss(self.record) or self.consent.powered_off:
            if not self.consent.accept_loss:
                return self._give_up("what was flushed might be lost")
            if self.consent.powered_off or not has_some_tail(self.record):
                return self._steal("")
        self._step = "fencing"
        return self._ask(now)

    def receive(self, sender: str, message: Fenced | Fetched, now: float) -> list[Effect]:
        """An answer of the peer."""
        if sender != self.record.dtl.peer or message.epoch != self.record.epoch:
            return []
        if isinstance(message, Fenced) and self._step == "fencing":
            if not message.holds:
                if without_loss(self.record):
                    return self._give_up("the peer has lost its copy of the tail")
                return self._steal("")  # accepted: an asynchronous peer is of some use only as long as it has something
            self._fenced, self._step = message, "fetching"
            if sender == self.me:
                self._step = "keeping"
                return [Keep((), message.trimmed_through, message.lineage, message.executed, in_place=True)]
            return self._ask_or_keep(now)
        if isinstance(message, Fetched) and self._step == "fetching":
            at = self._next_lsn()
            self._records += [record for record in message.records if record.last_lsn >= at]
            return self._ask_or_keep(now)
        return []

    def kept(self, now: float) -> list[Effect]:
        """The tail is durable here."""
        return self._steal(self.record.dtl.peer) if self._step == "keeping" else []

    def outcome(self, record: ObjectRecord | None, why: str = "") -> list[Effect]:
        """``Steal`` has been applied (the object's record as answered) or refused."""
        if record is None:
            return self._give_up(why)
        self._step = "over"
        end_lsn = None if self._fenced is None else self._fenced.end_lsn
        return [Stolen(record, end_lsn, end_lsn is None or not without_loss(self.record))]

    def changed(self, record: ObjectRecord, owner: NodeRecord | None) -> list[Effect]:
        """What the registry says now; a thief whose reason is gone stops. Once ``Steal`` is submitted its outcome decides."""
        if self._step in ("stealing", "over"):
            return []
        if record.epoch != self.record.epoch or not may_be_stolen(record, owner, self.me):
            return self._give_up("the object has an owner")
        return []

    def tick(self, now: float) -> list[Effect]:
        """Ask again."""
        if self._step in ("fencing", "fetching") and now - self._asked_at >= self._retry_s:
            return self._ask(now)
        return []

    def _next_lsn(self) -> int:
        assert self._fenced is not None
        return self._records[-1].last_lsn + 1 if self._records else self._fenced.trimmed_through + 1

    def _ask_or_keep(self, now: float) -> list[Effect]:
        fenced = self._fenced
        assert fenced is not None
        if self._next_lsn() <= fenced.end_lsn:
            return self._ask(now)
        self._step = "keeping"
        return [Keep(tuple(self._records), fenced.trimmed_through, fenced.lineage, fenced.executed)]

    def _ask(self, now: float) -> list[Effect]:
        self._asked_at = now
        peer, epoch = self.record.dtl.peer, self.record.epoch
        if self._step == "fencing":
            return [Send(peer, Fence(self.record.id, epoch))]
        return [Send(peer, Fetch(self.record.id, epoch, self._next_lsn()))]

    def _steal(self, fenced_peer: str) -> list[Effect]:
        self._step = "stealing"
        consent = self.consent
        return [
            SubmitSteal(
                self.record.epoch, self.record.dtl.version, fenced_peer, consent.accept_loss, consent.powered_off
            )
        ]  # fmt: skip

    def _give_up(self, why: str) -> list[Effect]:
        self._step = "over"
        return [GaveUp(why)]
