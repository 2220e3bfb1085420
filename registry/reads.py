"""Read barriers (Raft's *read index*; Ongaro 2014, 6.4), both sides. Pure; driven by ``registry.raft``.

**Why a read behind a barrier is not stale.** The leader notes its commit index when it is asked, then lets a majority confirm,
by a round of heartbeats that begins *after* the question, that it still leads. So nobody else has committed anything before the
question that is not at or below the index. A replica that has applied the index shows all of it.

**Under a lease the leader asks nobody.** Voters give no vote within ``election_min_s`` of having heard of a leader. So when a
majority has answered to heartbeats that left at some time, no other leader can be before that time and ``election_min_s``; less a
margin for clocks that run at different rates, the leader answers at once. The clock must go on while a host sleeps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

ASK_AGAIN_S = 0.15
WAITING_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Question:
    """Of a replica (or of the leader itself: ``asker`` None)."""

    round: int  # of heartbeats, the first whose confirmations count
    index: int
    asker: Hashable | None
    number: int


class LeaderReads:
    """The leader's side, for one term."""

    def __init__(self, lease_s: float) -> None:
        self.round = 0  # of the heartbeats that leave next
        self._lease_s = lease_s
        self._left_at: dict[int, float] = {}  # round -> when its first heartbeats left
        self._lease_until = float("-inf")
        self._questions: deque[Question] = deque()
        self._confirmed: dict[str, int] = {}  # node -> newest round that it has confirmed
        self._begin_round = False

    def ask(self, index: int, asker: Hashable | None, number: int) -> None:
        """A question, at this commit index; the next heartbeats must leave soon."""
        self._begin_round = True
        self._questions.append(Question(self.round + 1, index, asker, number))

    def leaving(self, now: float) -> int:
        """Heartbeats are about to leave: their round. Each time another, so that it is known when what is confirmed had left."""
        self._begin_round = False
        self.round += 1
        self._left_at[self.round] = now
        return self.round

    def holds_lease(self, now: float) -> bool:
        """Whether nobody else can lead at this moment."""
        return now < self._lease_until

    def give_up_lease(self) -> None:
        """Another is asked to lead, and will be elected though this one lives."""
        self._lease_s = float("-inf")
        self._lease_until = float("-inf")

    @property
    def wants_heartbeats(self) -> bool:
        """Whether a question waits for a round that has not begun."""
        return self._begin_round

    def confirmed(self, node: str, round_: int, is_majority: Callable[[set[str]], bool], me: str) -> None:
        """A node has answered to heartbeats of a round, in this term."""
        self._confirmed[node] = max(self._confirmed.get(node, 0), round_)
        for newest in sorted(self._left_at, reverse=True):
            if is_majority({me} | {each for each, seen in self._confirmed.items() if seen >= newest}):
                self._lease_until = max(self._lease_until, self._left_at[newest] + self._lease_s)
                self._left_at = {round_: at for round_, at in self._left_at.items() if round_ > newest}
                return

    def answered(self, is_majority: Callable[[set[str]], bool], me: str) -> list[Question]:
        """The questions that a majority has confirmed by now, taken out."""
        found = []
        while self._questions and self._questions[0].round <= self.round:
            wanted = self._questions[0].round
            if not is_majority({me} | {node for node, round_ in self._confirmed.items() if round_ >= wanted}):
                break
            found.append(self._questions.popleft())
        return found


class ReplicaReads:
    """Everybody's side: readers wait, share a question, and go on when its index is applied. Tokens are the caller's."""

    def __init__(self, first_number: int) -> None:
        """``first_number`` is random: an answer to a question of an earlier life must not be taken for one to this life's."""
        self._waiting: list[Hashable] = []  # not asked for yet
        self._asked: list[tuple[int, list[Hashable]]] = []  # by the first question for them, oldest first
        self._number = first_number
        self._asked_at: float | None = None
        self._known: deque[tuple[int, list[Hashable]]] = deque()

    @property
    def count(self) -> int:
        """Readers that wait."""
        return len(self._waiting) + sum(len(tokens) for _, tokens in (*self._asked, *self._known))

    def wait(self, token: Hashable) -> None:
        """One more reader."""
        self._waiting.append(token)

    def question_due(self, now: float) -> int | None:
        """The number of a question that has to be asked now (noted as asked); None: none.

        A question that is not answered in time is asked again under a new number, for those too that have come since; an answer
        to the one before still serves those who waited for that, so that a leader far away is heard at all.
        """
        if self._asked_at is not None and now - self._asked_at < ASK_AGAIN_S:
            return None
        if not self._waiting and not self._asked:
            return None
        self._number += 1
        if self._waiting:
            self._asked.append((self._number, self._waiting))
            self._waiting = []
        self._asked_at = now
        return self._number

    def due(self) -> float:
        """When ``question_due`` should be asked again; inf: not before somebody waits."""
        if self._asked_at is not None:
            return self._asked_at + ASK_AGAIN_S
        return float("-inf") if self._waiting else float("inf")

    def hurry(self) -> None:
        """There is another leader: what is under way will not be answered."""
        if self._asked_at is not None:
            self._asked_at = float("-inf")

    def answer(self, number: int, index: int) -> None:
        """The leader's, for whoever waited when that question was asked; what is no question of this life serves nobody."""
        if number > self._number:
            return
        served = [tokens for first, tokens in self._asked if first <= number]
        self._asked = [(first, tokens) for first, tokens in self._asked if first > number]
        self._known += [(index, tokens) for tokens in served]
        if not self._asked:
            self._asked_at = None

    def readable(self, applied: int) -> list[Hashable]:
        """The readers whose index is applied, taken out."""
        found: list[Hashable] = []
        waiting: deque[tuple[int, list[Hashable]]] = deque()
        for index, tokens in self._known:
            if index <= applied:
                found += tokens
            else:
                waiting.append((index, tokens))
        self._known = waiting
        return found
