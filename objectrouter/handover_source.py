"""The owner's side of a hand-over: pre-copy, stop, drain, transfer; or give up. Pure.

Input: ``asked``, messages of the target, ``appended``, ``drained``, ``outcome`` (of what was submitted), ``cancel``, ``tick``.
Output: effects. One attempt at a time; one machine per object and epoch.

Only the owner proposes the new epoch, and only after it has stopped replying (``Hold``), has drained, and knows the whole log
durable at the target and here. From the moment at which ``Transfer`` is submitted nobody but the registry knows who owns the
object: a time-out proves nothing. To go on serving, the source commits ``Abort`` of that attempt first, after which the transfer
cannot be applied any more. Before that moment nothing needs to be aborted, and it resumes at once, also without a registry.

While ``pinned_from`` is not None the shell keeps the log's records from there on, whatever the head says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from objectrouter.handover_messages import Ask, Cancelled, Copied, Denied, Finish, Granted, Ready, ToSource, WhyDenied
from registry import Abort, ObjectRecord, Transfer
from volumedriver import Entries, Lineage, Send

Phase = Literal["idle", "copying", "draining", "finishing", "deciding", "aborting", "over"]


@dataclass(frozen=True, slots=True)
class HandoverTimings:
    """Seconds and records.

    ``stay_s``: an object that has just come stays so long, whoever asks by threshold. ``pause_s``: how long clients may wait
    between stop and ``Transfer`` before it is given up; ``decide_s``: how long for its outcome before it is aborted.
    """

    stay_s: float = 60.0
    silence_s: float = 5.0  # of the target while it is copying
    copy_s: float = 600.0
    pause_s: float = 2.0
    decide_s: float = 3.0
    resend_s: float = 0.5
    small_records: int = 256  # the rest is small: stop
    window_records: int = 4096


@dataclass(frozen=True, slots=True)
class Hold:
    """Effect: stop replying (``OwnedObject.hold``); call ``drained`` when nothing is executed any more and the log is durable."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Effect: the object stays here (``OwnedObject.resume``)."""


@dataclass(frozen=True, slots=True)
class CopyOut:
    """Effect: send records ``first_lsn`` to ``last_lsn`` to the target as ``Copy`` messages of this attempt."""

    node: str
    epoch: int
    attempt: int
    first_lsn: int
    last_lsn: int


@dataclass(frozen=True, slots=True)
class Submit:
    """Effect: submit a command and call ``outcome`` when it is known; never before."""

    command: Transfer | Abort


@dataclass(frozen=True, slots=True)
class HandedOver:
    """Effect: another node owns the object (``OwnedObject.depose``). The log becomes remains, and the new owner's DTL store."""

    record: ObjectRecord


Effect = Send | Hold | Resume | CopyOut | Submit | HandedOver


class HandoverSource:
    """One object at its owner, for one epoch."""

    def __init__(
        self,
        object_id: str,
        me: str,
        epoch: int,
        attempt: int,
        end_lsn: int,
        trimmed_through: int,
        now: float,
        *,
        source_stays: bool = True,
        timings: HandoverTimings | None = None,
    ) -> None:
        """``attempt``: the record's. ``source_stays``: False if this node is drained, or the DTL asynchronous."""
        self.object, self.me, self.epoch = object_id, me, epoch
        self.timings = timings or HandoverTimings()
        self.phase: Phase = "idle"
        self.target = ""
        self.attempt = attempt
        self.lineage = Lineage()  # set by the shell, if it is known before ``drained``
        self.source_stays = source_stays
        self._incarnation = 0
        self._begun_at = now  # of the epoch; then of the phase
        self._end, self._trimmed = end_lsn, trimmed_through
        self._stay_until = now + self.timings.stay_s
        self._first = self._sent = self._copied = 0
        self._answered = False  # the target knows of the attempt
        self._heard_at = self._moved_at = now
        self._finish: Finish | None = None

    @property
    def pinned_from(self) -> int | None:
        """The first LSN that an attempt under way may have to send again."""
        return None if self.phase in ("idle", "over") else self._copied + 1

    @property
    def progress(self) -> tuple[int, int]:
        """(records that the target has, records that it needs as of now) of the attempt under way."""
        return (0, 0) if self.phase in ("idle", "over") else (self._copied + 1 - self._first, self._end + 1 - self._first)

    # -- events ----------------------------------------------------------------------------------------------------------

    def asked(self, target: str, ask: Ask, now: float, *, takes: bool, yields: bool = True) -> list[Effect]:
        """A node asks for it. ``takes``: as the registry says, it may be given something. ``yields``: ``UseCounter.yields``."""
        why = self._why_not(target, ask, now, takes, yields)
        if why is not None:
            return [Send(target, Denied(self.object, ask.epoch, why))]
        if self.phase != "idle":  # it asks again
            return [self._granted()]
        self.attempt += 1
        self.target, self._incarnation = target, ask.incarnation
        self._sent = self._copied = self._trimmed
        self._first, self._answered = self._trimmed + 1, False
        self._enter("copying", now)
        return [self._granted()]

    def receive(self, sender: str, message: ToSource, now: float) -> list[Effect]:
        """A message of the target; of an older attempt it says nothing."""
        if isinstance(message, Ask) or message.epoch != self.epoch or self.phase == "over":
            return []
        if sender != self.target or message.attempt != self.attempt:
            is_over = message.attempt <= self.attempt and isinstance(message, Ready)
            return [Send(sender, Cancelled(self.object, self.epoch, message.attempt))] if is_over else []
        self._heard_at, self._answered = now, True
        if isinstance(message, Copied):
            if message.through > self._copied:
                self._copied, self._moved_at = message.through, now
                self._sent = max(self._sent, self._copied)
            return self._go_on(now)
        if isinstance(message, Cancelled):
            return self._give_up(now)
        if isinstance(message, Ready) and self.phase == "finishing":
            self._enter("deciding", now)
            return [Submit(self._transfer())]
        return []

    def appended(self, end_lsn: int, now: float) -> list[Effect]:
        """The log has grown."""
        self._end = max(self._end, end_lsn)
        return self._copy(now) if self.phase == "copying" and self._answered else []

    def trimmed(self, through_lsn: int) -> None:
        """The head includes everything through this LSN; later attempts need not copy it."""
        self._trimmed = max(self._trimmed, through_lsn)

    def drained(self, end_lsn: int, lineage: Lineage, executed: Entries, now: float) -> list[Effect]:
        """Nothing is executed any more; the log is durable here and ends at ``end_lsn``."""
        if self.phase != "draining":
            return []
        self._end = end_lsn
        self._finish = Finish(self.object, self.epoch, self.attempt, end_lsn, lineage, executed)
        self.phase = "finishing"  # the pause goes on: its clock is not set back
        return self._go_on(now)

    def outcome(self, command: Transfer | Abort, record: ObjectRecord | None, current: ObjectRecord, now: float) -> list[Effect]:
        """What became of a command: the record it answered, or None if it was refused; ``current``: the record after that."""
        if self.phase not in ("deciding", "aborting") or command.attempt != self.attempt:
            return []
        if current.epoch != self.epoch:
            self.phase = "over"
            return [HandedOver(current)]
        if isinstance(command, Transfer) or record is not None:  # refused for good, or aborted
            return self._back(now)
        return []

    def cancel(self, now: float) -> list[Effect]:
        """An administrator wants it to stay."""
        return self._give_up(now)

    def tick(self, now: float) -> list[Effect]:
        """Time passes."""
        timings, in_phase_s = self.timings, now - self._begun_at
        if self.phase == "copying":
            if now - self._heard_at >= timings.silence_s or in_phase_s >= timings.copy_s:
                return self._give_up(now)
            return self._copy_again(now)
        if self.phase in ("draining", "finishing"):
            if in_phase_s >= timings.pause_s:
                return self._give_up(now)
            return self._copy_again(now) if self.phase == "finishing" else []
        if self.phase == "deciding" and in_phase_s >= timings.decide_s:
            return self._give_up(now)
        return []

    # -- parts of the above ----------------------------------------------------------------------------------------------

    def _why_not(self, target: str, ask: Ask, now: float, takes: bool, yields: bool) -> WhyDenied | None:
        if ask.epoch != self.epoch or self.phase == "over":
            return "not-owner"
        if not takes:
            return "status"
        if self.phase != "idle":
            same = (target, ask.incarnation) == (self.target, self._incarnation)
            return None if same and self.phase == "copying" else "busy"
        if ask.by_command:
            return None
        return "stay" if now < self._stay_until else None if yields else "used"

    def _enter(self, phase: Phase, now: float) -> None:
        self.phase = phase
        self._begun_at = self._heard_at = self._moved_at = now

    def _transfer(self) -> Transfer:
        return Transfer(
            self.object, self.me, self.target, self._incarnation, self.epoch, self.attempt, self.source_stays
        )  # fmt: skip

    def _copy(self, now: float) -> list[Effect]:
        last = min(self._end, self._copied + self.timings.window_records)
        if last <= self._sent:
            return []
        first, self._sent = self._sent + 1, last
        return [CopyOut(self.target, self.epoch, self.attempt, first, last)]

    def _copy_again(self, now: float) -> list[Effect]:
        """Something may have been lost on the way."""
        if now - self._moved_at < self.timings.resend_s:
            return []
        self._moved_at = now
        self._sent = self._copied
        if self.phase == "finishing" and self._copied >= self._end and self._finish is not None:
            return [Send(self.target, self._finish)]
        return self._copy(now) if self._answered else [self._granted()]

    def _granted(self) -> Send:
        return Send(self.target, Granted(self.object, self.epoch, self.attempt, self._first, self._end, self.lineage))

    def _go_on(self, now: float) -> list[Effect]:
        if self.phase == "copying" and self._answered and self._end - self._copied <= self.timings.small_records:
            self._enter("draining", now)
            return [Hold()]
        if self.phase == "finishing":
            if self._copied >= self._end and self._finish is not None:
                return [Send(self.target, self._finish)]
            return self._copy(now)
        return self._copy(now) if self.phase == "copying" else []

    def _give_up(self, now: float) -> list[Effect]:
        if self.phase == "copying":
            return self._back(now, held=False)
        if self.phase in ("draining", "finishing"):
            return self._back(now)
        if self.phase == "deciding":
            self._enter("aborting", now)
            return [Submit(Abort(self.object, self.epoch, self.attempt))]
        return []

    def _back(self, now: float, *, held: bool = True) -> list[Effect]:
        target, self.target = self.target, ""
        self._enter("idle", now)
        self._finish = None
        cancelled = Send(target, Cancelled(self.object, self.epoch, self.attempt))
        return [cancelled, Resume()] if held else [cancelled]
