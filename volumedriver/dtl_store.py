"""A peer's side of the DTL for one object: what it keeps of another node's tail, and for whom. Pure.

Input: ``receive`` (a message), ``stored``/``failed`` (the outcome of a ``Store``), ``tick``. Output: effects. The shell executes
``Store`` effects in order, durably, and reports each; nothing is confirmed before.

**Durable** is what ``Kept`` names, and the records. Not durable is the word given to the owner (``Pong``): a store that comes
back behaves as if it had given it just now.

**The word.** An owner whose lease has run out may go on while its peer confirms that it has not been fenced. So a fence is
confirmed only when the last such word has run out, by this clock and with a margin for the owner's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from volumedriver.dtl_messages import (
    Append,
    Begin,
    Fence,
    Fenced,
    Fetch,
    Open,
    Opened,
    Ping,
    Pong,
    Refused,
    Send,
    Stored,
    ToPeer,
    Trim,
    WhyRefused,
)
from volumedriver.executed import Entries
from volumedriver.tail import Lineage, TailRecord


@dataclass(frozen=True, slots=True)
class Kept:
    """What is durable beside the records."""

    fenced: int  # owners of this epoch and before are refused
    epoch: int  # of the newest session; 0: there has never been one
    session: int
    trimmed_through: int
    lineage: Lineage
    executed: Entries  # of what was trimmed, and perhaps more: entries past the end are to be ignored


NOTHING_KEPT = Kept(0, 0, 0, 0, Lineage(), Entries())


@dataclass(frozen=True, slots=True)
class Store:
    """Effect: durably, in this order: cut what is past ``cut_past`` or trimmed, append, write ``kept``.

    A run may begin with records that are there already. Then call ``stored(token)``.

    If there is no room nothing is changed, and ``failed(token)`` is called, for this one and all
    that have been ordered behind it.
    """

    token: int
    cut_past: int | None
    records: tuple[TailRecord, ...]
    kept: Kept


@dataclass(frozen=True, slots=True)
class SendRecords:
    """Effect: read records from ``first_lsn`` on, as many as fit into a message, and send them as ``Fetched``."""

    node: str
    epoch: int
    first_lsn: int


Effect = Send | Store | SendRecords


class DtlStore:
    """One object's store on one node."""

    def __init__(self, object_id: str, kept: Kept, end_lsn: int, now: float, *, word_s: float, margin_s: float) -> None:
        """As found on the disk. ``word_s``: how long a ``Pong`` is good for at the owner; ``margin_s``: for clocks' rates."""
        self.object = object_id
        self.kept = kept  # as of the last Store that was ordered
        self.end_lsn = end_lsn  # as of the last Store that was ordered
        self._durable_end = end_lsn
        self._live = True  # False: the newest session has failed, and another must begin
        self._word_s = word_s + margin_s
        self._word_until = now + self._word_s  # a life before this one may have given its word
        self._token = 0
        self._replies: dict[int, tuple[str, int]] = {}  # token -> (owner, end) to be confirmed
        self._fences: dict[int, tuple[str, int]] = {}  # token -> (thief, epoch) that becomes durable with it
        self._waiting: list[tuple[str, int]] = []  # thieves whose fence is durable, until the word has run out

    def receive(self, sender: str, message: ToPeer, now: float) -> list[Effect]:
        """A message from an owner or a thief."""
        if isinstance(message, Fence):
            return self._fence(sender, message)
        if isinstance(message, Fetch):
            return [SendRecords(sender, message.epoch, message.first_lsn)] if message.epoch <= self.kept.fenced else []
        if message.epoch <= self.kept.fenced:
            return self._refuse(sender, message, "fenced")
        if isinstance(message, Open):
            holds = self.kept.epoch > 0
            return [Send(sender, Opened(self.object, message.epoch, message.session, holds, self.end_lsn, self.kept.lineage))]
        if isinstance(message, Begin):
            return self._begin(sender, message)
        if not self._live or (message.epoch, message.session) != (self.kept.epoch, self.kept.session):
            return self._refuse(sender, message, "session")
        if isinstance(message, Append):
            return self._append(sender, message)
        if isinstance(message, Trim):
            return self._trim(message)
        self._word_until = max(self._word_until, now + self._word_s)
        return [Send(sender, Pong(self.object, message.epoch, message.session, message.token))]

    def stored(self, token: int, now: float) -> list[Effect]:
        """A ``Store`` is durable."""
        effects: list[Effect] = []
        if token in self._replies:
            owner, self._durable_end = self._replies.pop(token)
            end_lsn = self._durable_end
            effects.append(Send(owner, Stored(self.object, self.kept.epoch, self.kept.session, end_lsn)))
        if token in self._fences:
            self._waiting.append(self._fences.pop(token))
        return effects + self.tick(now)

    def failed(self, token: int) -> list[Effect]:
        """There was no room for a ``Store``: the session is over."""
        owner, _ = self._replies.pop(token, ("", 0))
        self._fences.pop(token, None)
        self.end_lsn, self._live = min(self.end_lsn, self._durable_end), False
        return [Send(owner, Refused(self.object, self.kept.epoch, self.kept.session, "no-space"))] if owner else []

    def tick(self, now: float) -> list[Effect]:
        """Confirm fences when the word has run out."""
        if not self._waiting or now < self._word_until:
            return []
        waiting, self._waiting = self._waiting, []
        kept = self.kept
        return [
            Send(
                thief,
                Fenced(
                    self.object, epoch, kept.epoch > 0, kept.trimmed_through, self.end_lsn, kept.lineage, kept.executed
                ),
            )
            for thief, epoch in waiting
        ]  # fmt: skip

    # -- parts of the above ----------------------------------------------------------------------------------------------

    def _refuse(self, sender: str, message: Open | Begin | Append | Trim | Ping, why: WhyRefused) -> list[Effect]:
        return [Send(sender, Refused(self.object, message.epoch, message.session, why))]

    def _fence(self, thief: str, message: Fence) -> list[Effect]:
        token = self._next()
        self.kept = replace(self.kept, fenced=max(self.kept.fenced, message.epoch))
        self._fences[token] = (thief, message.epoch)
        return [Store(token, None, (), self.kept)]

    def _begin(self, owner: str, message: Begin) -> list[Effect]:
        known = (self.kept.epoch, self.kept.session)
        if (message.epoch, message.session) < known or ((message.epoch, message.session) == known and not self._live):
            return self._refuse(owner, message, "session")
        if (message.epoch, message.session) == known:  # said twice
            return [Send(owner, Stored(self.object, message.epoch, message.session, self._durable_end))]
        if message.keep_through > self.end_lsn:  # some of what ``Opened`` said has been lost since: it is to be asked again
            return self._refuse(owner, message, "gap")
        keep = message.keep_through
        trimmed = self.kept.trimmed_through
        if message.first_lsn != keep + 1:  # what is kept lies before the head
            keep = trimmed = message.first_lsn - 1
        self.kept = Kept(self.kept.fenced, message.epoch, message.session, trimmed, message.lineage, message.executed)
        self.end_lsn, self._live = keep, True
        self._durable_end = min(self._durable_end, keep)
        self._replies.clear()  # of older sessions
        return [self._store(owner, keep, ())]

    def _append(self, owner: str, message: Append) -> list[Effect]:
        records = tuple(record for record in message.records if record.last_lsn > self.end_lsn)
        if not records:
            return [Send(owner, Stored(self.object, message.epoch, message.session, self._durable_end))]
        if records[0].lsn > self.end_lsn + 1:
            return self._refuse(owner, message, "gap")
        self.end_lsn = records[-1].last_lsn
        if message.executed is not None:
            self.kept = replace(self.kept, executed=message.executed)
        return [self._store(owner, None, records)]

    def _trim(self, message: Trim) -> list[Effect]:
        through = min(message.through, self.end_lsn)
        if through <= self.kept.trimmed_through:
            return []
        self.kept = replace(self.kept, trimmed_through=through, executed=message.executed)
        return [Store(self._next(), None, (), self.kept)]

    def _store(self, owner: str, cut_past: int | None, records: tuple[TailRecord, ...]) -> Store:
        token = self._next()
        self._replies[token] = (owner, self.end_lsn)
        return Store(token, cut_past, records, self.kept)

    def _next(self) -> int:
        self._token += 1
        return self._token
