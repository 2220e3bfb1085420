"""The target's side of a hand-over: ask, keep what comes, and wait for the registry to say whose the object is. Pure.

Input: ``begin``, messages of the source, ``staged``/``failed`` (the outcome of a ``Stage``), ``changed`` (what the registry
says), ``tick``. Output: effects. What is staged lies apart from whatever else is here of the object, and is marked with (epoch,
attempt): a node that dies after ``Ready`` finds it at its restart, and it is its log if the registry says that this attempt was
the one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from objectrouter.handover_messages import Ask, Cancelled, Copied, Copy, Denied, Finish, Granted, Ready, ToTarget, WhyDenied
from registry import ObjectRecord
from volumedriver import Lineage, Send, TailRecord


@dataclass(frozen=True, slots=True)
class Stage:
    """Effect: make records durable as part of this attempt's log, and ``finish`` behind them; then call ``staged(token)``.

    ``fresh``: what was staged of older attempts goes first. ``failed(token)`` if there is no room.
    """

    token: int
    epoch: int
    attempt: int
    first_lsn: int  # of the attempt's log: what is before is in the backend
    records: tuple[TailRecord, ...]
    finish: Finish | None
    fresh: bool
    lineage: Lineage = field(default=Lineage(), compare=False)  # with ``fresh``: of the source's log
    end_lsn: int = field(default=0, compare=False)  # with ``fresh``: where that ends as of now


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Effect: the object is this node's at ``record.epoch``: open it with what was staged, which ends as ``finish`` says."""

    record: ObjectRecord
    finish: Finish


@dataclass(frozen=True, slots=True)
class Dropped:
    """Effect: nothing has come of it; what was staged may go. ``why``: for the administrator and for when to try again."""

    why: WhyDenied | Literal["cancelled", "silent", "elsewhere"]


Step = Literal["asking", "receiving", "finishing", "ready", "over"]
Effect = Send | Stage | TakeOver | Dropped


class HandoverTarget:
    """One wish of one node for one object, at the epoch it has."""

    def __init__(
        self,
        object_id: str,
        incarnation: int,
        source: str,
        epoch: int,
        *,
        use: float = 0.0,
        by_command: bool = False,
        retry_s: float = 1.0,
        patience_s: float = 10.0,
    ) -> None:
        """``use``: this node's ``UseCounter.count``."""
        self.object, self.source, self.epoch = object_id, source, epoch
        self.attempt = 0
        self._ask = Ask(object_id, epoch, incarnation, use, by_command)
        self._retry_s, self._patience_s = retry_s, patience_s
        self._step: Step = "asking"
        self._first_lsn = 0
        self._next_lsn = 0
        self._wanted_lsn = 0
        self._finish: Finish | None = None
        self._asked_at = self._heard_at = 0.0
        self._token = 0
        self._staged: dict[int, int] = {}  # token -> durable through

    @property
    def is_over(self) -> bool:
        """Nothing more will come of it."""
        return self._step == "over"

    @property
    def is_ready(self) -> bool:
        """The source may have transferred the object here."""
        return self._step == "ready"

    @property
    def progress(self) -> tuple[Step, int, int]:
        """(step, records that have come, records that there were to come when it began)."""
        return self._step, max(0, self._next_lsn - self._first_lsn), max(0, self._wanted_lsn + 1 - self._first_lsn)

    def begin(self, now: float) -> list[Effect]:
        """Ask."""
        self._asked_at = self._heard_at = now
        return [Send(self.source, self._ask)]

    def receive(self, sender: str, message: ToTarget, now: float) -> list[Effect]:
        """A message of the source; of an older attempt it says nothing."""
        if sender != self.source or message.epoch != self.epoch or self._step == "over":
            return []
        self._heard_at = now
        if isinstance(message, Denied):
            return self._drop(message.why) if self._step == "asking" else []
        if isinstance(message, Granted):
            return self._granted(message)
        if message.attempt != self.attempt:
            return []
        if isinstance(message, Cancelled):
            return self._drop("cancelled")
        if isinstance(message, Copy):
            return self._copy(message)
        return self._finished(message)

    def has(self, token: int, through_lsn: int) -> None:
        """Before ``staged`` of a fresh stage: so much of the source's log is here already, durably."""
        if token in self._staged and through_lsn >= self._next_lsn:
            self._next_lsn = through_lsn + 1
            self._staged[token] = through_lsn

    def staged(self, token: int) -> list[Effect]:
        """A ``Stage`` is durable."""
        through = self._staged.pop(token, None)
        if through is None or self._step == "over":
            return []
        if self._finish is not None and self._step == "finishing" and not self._staged:
            self._step = "ready"
            return [Send(self.source, Ready(self.object, self.epoch, self.attempt))]
        return [Send(self.source, Copied(self.object, self.epoch, self.attempt, through))]

    def failed(self, token: int) -> list[Effect]:
        """There was no room for a ``Stage``."""
        self._staged.pop(token, None)
        return [Send(self.source, Cancelled(self.object, self.epoch, self.attempt)), *self._drop("no-room")]

    def changed(self, record: ObjectRecord, me: str) -> list[Effect]:
        """What the registry says now."""
        if record.epoch <= self.epoch or self._step == "over":
            return []
        mine = record.owner == me and record.epoch == self.epoch + 1 and record.attempt == self.attempt
        if mine and self._finish is not None and self._step == "ready":
            self._step = "over"
            return [TakeOver(record, self._finish)]
        return self._drop("elsewhere")

    def tick(self, now: float) -> list[Effect]:
        """Ask again, or stop waiting. Once ready only registry and source say that it is over: ``Transfer`` may be under way."""
        if now - self._asked_at < self._retry_s or self._step == "over":
            return []
        self._asked_at = now
        if self._step == "ready":
            return [Send(self.source, Ready(self.object, self.epoch, self.attempt))]
        if now - self._heard_at >= self._patience_s:
            cancelled = Send(self.source, Cancelled(self.object, self.epoch, self.attempt))
            return [*([cancelled] if self.attempt else []), *self._drop("silent")]
        return [Send(self.source, self._ask)] if self._step == "asking" else []

    # -- parts of the above ----------------------------------------------------------------------------------------------

    def _granted(self, message: Granted) -> list[Effect]:
        if message.attempt <= self.attempt:
            return []
        self.attempt, self._step, self._finish = message.attempt, "receiving", None
        self._first_lsn = self._next_lsn = message.first_lsn
        self._wanted_lsn = message.end_lsn
        self._staged.clear()
        stage = self._stage((), None, fresh=True)
        return [replace(stage, lineage=message.lineage, end_lsn=message.end_lsn)]

    def _copy(self, message: Copy) -> list[Effect]:
        if self._step != "receiving":
            return []
        records = tuple(record for record in message.records if record.last_lsn >= self._next_lsn)
        if message.records and not records:  # had already: an answer to that was lost
            return [] if self._staged else [Send(self.source, Copied(self.object, self.epoch, self.attempt, self._next_lsn - 1))]
        if not records or records[0].lsn > self._next_lsn:  # something before it is missing: it comes again
            return []
        self._next_lsn = records[-1].last_lsn + 1
        return [self._stage(records, None)]

    def _finished(self, message: Finish) -> list[Effect]:
        if self._step == "ready":
            return [Send(self.source, Ready(self.object, self.epoch, self.attempt))]
        if self._step != "receiving" or self._next_lsn <= message.end_lsn:  # more may have come than counts
            return []
        self._step, self._finish = "finishing", message
        return [self._stage((), message)]

    def _stage(self, records: tuple[TailRecord, ...], finish: Finish | None, *, fresh: bool = False) -> Stage:
        self._token += 1
        self._staged[self._token] = self._next_lsn - 1
        return Stage(self._token, self.epoch, self.attempt, self._first_lsn, records, finish, fresh)

    def _drop(self, why: WhyDenied | Literal["cancelled", "silent", "elsewhere"]) -> list[Effect]:
        self._step = "over"
        return [Dropped(why)]
