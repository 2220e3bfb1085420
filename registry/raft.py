"""Raft for the registry.

PySyncObj 0.3.17 with what it gets wrong replaced. docs/adr/0002-raft-on-pysyncobj.md lists each override.

``_SyncObj`` has PySyncObj's class name with an underscore, which Python strips when it mangles private names: a method ``__x`` in
here *is* PySyncObj's ``__x``, and replaces it. So this file reads like the one it corrects. The base class keeps the fields, the
log's index arithmetic and the bookkeeping of links; every decision is in here.

**The one rule of durability.** Whatever a call changes (entries, term, vote, state) gathers in one transaction of the disk, and
whatever it wants to say (messages, outcomes) gathers in an outbox. ``doTick`` ends by committing the one and then emptying the
other. So nothing leaves before what it reflects is durable, whatever the code in between does. One exception, which halves the
latency: entries leave a leader while its own disk still writes them (Ongaro 2014, 10.2.1). It counts itself for them only with
the answers of others, which it reads when its disk is done; a voter alone has no others, and waits.

No clock, no random, no sockets: all are handed in. One thread. An exception anywhere (in ``apply`` above all) drops the
transaction, stops the node for good and is raised; the next life begins at the last commit.
"""

# ruff: noqa: N802, N803
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from zlib import crc32

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.syncobj import _RAFT_STATE

from registry.codec import Malformed
from registry.disk import Disk, Snapshot
from registry.journal import NO_OP, DiskJournal, Row
from registry.kv import View
from registry.membership import Membership, decode_membership, encode_membership, is_one_step, membership_of, next_step
from registry.reads import WAITING_MAX, LeaderReads, Question, ReplicaReads
from registry.transport import FrameTransport, Message
from vpool.errors import Halted, Internal, Unavailable, VPoolError

REGULAR = b"\x00"  # pysyncobj's type byte of a command
MEMBERSHIP = b"\x02"  # pysyncobj's too, with another content
LEASE_SHARE = 0.75  # of election_min_s, for which the leader counts on not being deposed: clocks may differ by a quarter
CUT_ENTRIES = 128  # the log is cut by about so many at a time, so that no tick takes long
Clock = Callable[[], float]
Apply = Callable[[View, bytes], Any]


@dataclass(frozen=True, slots=True)
class Timings:
    """Periods in seconds and limits.

    Elections begin after a random time between ``election_min_s`` and ``election_max_s`` without a leader; a leader without a
    majority for ``fallback_s`` steps down. A longer heartbeat is less traffic and a slower recovery of lost messages.
    """

    heartbeat_s: float = 0.05
    election_min_s: float = 0.4
    election_max_s: float = 0.8
    fallback_s: float = 2.0
    batch_bytes: int = 1 << 16
    window_entries: int = 1024  # sent to a follower and not confirmed
    apply_entries: int = 256  # per tick
    apply_s: float = 0.008  # and for so long, so that no tick takes long,
    apply_entries_min: int = 64  # but so many: commits of less would cost more than they spare
    queue_commands: int = 8192  # waiting for a leader
    keep_entries: int = 1024  # behind the applied ones, for followers that lag a little
    caught_up_entries: int = 256  # a learner that lags by no more may become a voter

    def validate(self) -> None:
        """Rules across fields. Errors: ``ValueError``."""
        if not 3 * self.heartbeat_s < self.election_min_s < self.election_max_s <= self.fallback_s:
            raise ValueError("3 × heartbeat < election_min < election_max <= fallback")


@dataclass(frozen=True, slots=True)
class Progress:
    """Indexes of one node; of the others, what a leader knows."""

    term: int
    committed: int
    applied: int
    matched: dict[str, int]
    alive: tuple[str, ...]  # have answered to this leader lately


class _Sending:
    """A snapshot on its way to one follower: one chunk under way at a time."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.say_again_at = float("-inf")
        self.number = 0
        self.checksum = 0
        self.items, self.done = [], False
        self._advance(b"", 0)

    def _advance(self, after_key: bytes, limit: int) -> None:
        self.items, self.done = self.snapshot.chunk(after_key, limit)
        for key, value in self.items:
            self.checksum = crc32(value, crc32(key, self.checksum))

    items: list[tuple[bytes, bytes]]

    def next_chunk(self, limit: int) -> None:
        self.number += 1
        self._advance(self.items[-1][0] if self.items else b"", limit)


class _SyncObj(SyncObj):  # type: ignore[misc]
    __raftLeader: Any  # the frame's: Node | None

    def __init__(
        self,
        me: str,
        others: Sequence[str],
        disk: Disk,
        transport: FrameTransport,
        apply: Apply,
        *,
        clock: Clock,
        random: Random,
        timings: Timings,
        on_applied: Callable[[Any], None],
        validate: Callable[[bytes], object],
        joining: bool = False,
        on_readable: Callable[[Hashable], None] = lambda token: None,
    ) -> None:
        timings.validate()
        self._clock, self._random, self._timings = clock, random, timings
        self._disk, self._apply, self._on_applied, self._validate = disk, apply, on_applied, validate
        self._stopped: BaseException | None = None
        self._outbox: list[tuple[Node, Message]] = []
        self._early: list[tuple[Node, Message]] = []  # of a leader: leave before its own disk is done
        self._outcomes: list[Any] = []
        self._queue: deque[bytes] = deque()
        self._votes: set[str] = set()
        self._pre_votes: set[str] | None = None  # while asking whether an election would succeed
        self._leader_heard_at = clock()  # perhaps by the life before: it may have answered a leader, which counts on that
        self._reads = ReplicaReads(random.getrandbits(48))
        self._leader_reads = LeaderReads(timings.election_min_s * LEASE_SHARE)
        self._on_readable = on_readable
        self._sessions: dict[Node, int] = {}  # leader: grows whenever what is under way to a follower no longer counts
        self._sendings: dict[Node, _Sending] = {}
        self._receiving: tuple[Node, int, int, int] | None = None  # follower: (leader, term, session, next chunk)
        self._receiving_checksum = 0
        self._heartbeat_at = clock()
        self.adoptions = 0  # snapshots of other nodes that have become the state
        first = Membership() if joining else Membership(tuple(sorted({me, *others})))
        self._memberships = [(0, first)]  # ascending: what is applied, then what the log has behind it
        self._peer_list: list[Node] = []
        conf = SyncObjConf(autoTick=False, appendEntriesUseBatch=True, pollerType="select", dynamicMembershipChange=False)
        super().__init__(Node(me), [Node(other) for other in others], conf, nodeClass=Node, transport=transport)
        journal = DiskJournal(disk)
        self.__raftLog = journal
        self._memberships = self._load_memberships(first)
        self._reconfigure()
        self.__raftCurrentTerm = max(journal.getCurrentTerm(), self.__getCurrentLogTerm())
        self.__votedForNodeId = journal.getVotedForNodeId() if self.__raftCurrentTerm == journal.getCurrentTerm() else None
        self.__raftCommitIndex = self.__raftLastApplied = disk.applied()[0]
        self.__needLoadDumpFile = False
        # A node alone has nobody to wait for.
        self.__raftElectionDeadline = clock() + (0.0 if self.membership.voters == (me,) else self.__generateRaftTimeout())
        disk.commit()

    def _load_memberships(self, first: Membership) -> list[tuple[int, Membership]]:
        """The one that is in force at what is applied, then those in the log behind it."""
        known = self._disk.members()
        if known is None:
            known = (self._disk.applied()[0], first)
            if first.voters:
                self._disk.set_members(*known)
        found = [known]
        later = self._rows_from(known[0] + 1)
        found += [(index, decode_membership(data[1:])) for data, index, _ in later if data[:1] == MEMBERSHIP]
        return found

    def _rows_from(self, index: int) -> list[Row]:
        rows: list[Row] = self.__raftLog[max(0, index - self.__raftLog[0][1]) :]
        return rows

    # -- driven from outside -------------------------------------------------------------------------------------------

    def propose(self, data: bytes) -> None:
        """Queue a command for the next tick. Whether and when it is applied only ``on_applied`` tells: ask again by its number.

        Errors: ``Unavailable`` (too many wait for a leader), ``Halted`` (the node has stopped).
        """
        self._check_running()
        if len(self._queue) >= self._timings.queue_commands:
            raise Unavailable("the registry has no leader and too many commands wait", waiting=len(self._queue))
        self._queue.append(data)

    def read(self, token: Hashable) -> None:
        """Have ``on_readable(token)`` called when this node has applied everything that was committed before this call.

        Errors: ``Unavailable`` (too many wait), ``Halted``.
        """
        self._check_running()
        if self._reads.count >= WAITING_MAX:
            raise Unavailable("too many readers wait for the registry", waiting=self._reads.count)
        self._reads.wait(token)

    def change_membership(self, wanted: Membership) -> Membership | None:
        """Take the next step towards a membership, if this node leads and may; the step that was taken.

        To be called again and again (it is cheap) until ``membership`` is what is wanted.
        Errors: ``Halted`` (the node has stopped).
        """
        self._check_running()
        if self.__raftState != _RAFT_STATE.LEADER or wanted == self.membership:
            return None
        # Of the term before, a membership might still be on its way that this one would not overlap with.
        if self._term_at(self.__raftCommitIndex) != self.__raftCurrentTerm or self._memberships[-1][0] > self.__raftCommitIndex:
            return None
        alive = self._alive()
        caught_up = {
            str(node.id)
            for node in self._peers()
            if str(node.id) in alive
            and self.__raftMatchIndex[node] + self._timings.caught_up_entries >= self.__raftCommitIndex
            and self.__raftMatchIndex[node] > 0
        }
        step = next_step(self.membership, wanted, alive, caught_up, self.__selfNode.id)
        if step is None:
            return None
        if not is_one_step(self.membership, step):
            raise Internal("a membership that does not follow", before=self.membership, after=step)
        self._append(MEMBERSHIP + encode_membership(step), self.__getCurrentLogIndex() + 1, self.__raftCurrentTerm)
        self._heartbeat_at = self._clock()
        return step

    def hand_on(self) -> str | None:
        """Let another voter lead, if this node does and one has the whole log: who is asked to (Ongaro 2014, 3.10).

        It stands at once, without asking first. Nothing is promised: call again, while this node leads. Commands that come
        meanwhile are proposed as ever. Errors: ``Halted``.
        """
        self._check_running()
        if self.__raftState != _RAFT_STATE.LEADER:
            return None
        alive, last = self._alive(), self.__getCurrentLogIndex()
        for node in self._peers():
            if node.id in self.membership.voters and node.id in alive and self.__raftMatchIndex[node] == last:
                self._leader_reads.give_up_lease()
                self._say(node, {"type": "timeout_now", "term": self.__raftCurrentTerm})
                return str(node.id)
        return None

    def doTick(self, timeToWait: float = 0.0) -> None:
        """Do what is due, make it durable, then say it. Errors: ``Halted`` (stopped before), and whatever stops the node now."""
        self._check_running()
        try:
            self._onTick(timeToWait)
            self._flush()
        except BaseException as error:
            self._stop(error)
            raise

    def due(self) -> float:
        """When the clock says this, ``doTick`` has something to do even if nothing arrives; -inf: now."""
        if (self._queue and self.__raftLeader is not None) or self.__raftLastApplied < self.__raftCommitIndex:
            return float("-inf")
        reads = self._reads.due() if self.__raftLeader is not None else float("inf")
        if self.__raftState == _RAFT_STATE.LEADER:
            return min(reads, self._heartbeat_at if self._peer_list else float("inf"))
        return min(reads, float(self.__raftElectionDeadline) if self._may_lead() else float("inf"))

    def _check_running(self) -> None:
        if self._stopped is not None:
            raise Halted("the registry node has stopped", why=repr(self._stopped))

    def _stop(self, error: BaseException) -> None:
        self._stopped = error
        self._outbox.clear()
        self._early.clear()
        self._outcomes.clear()
        self._drop_sendings()

    def _flush(self) -> None:
        if self._early:
            early, self._early = self._early, []
            for node, message in early:
                self.__transport.send(node, message)
            self.__transport.flush()
        self._disk.commit()
        outbox, self._outbox = self._outbox, []
        outcomes, self._outcomes = self._outcomes, []
        for node, message in outbox:
            self.__transport.send(node, message)
        for outcome in outcomes:
            self._on_applied(outcome)
        for token in self._reads.readable(self.__raftLastApplied):
            self._on_readable(token)

    def _say(self, node: Node, message: Message) -> None:
        early = message["type"] == "append_entries" and len(self.membership.voters) > 1
        (self._early if early else self._outbox).append((node, message))

    # -- one tick ----------------------------------------------------------------------------------------------------------

    def _onTick(self, timeToWait: float = 0.0) -> None:
        if self.__raftState != _RAFT_STATE.LEADER and self._clock() >= self.__raftElectionDeadline and self._may_lead():
            self._ask_for_an_election()
        appended = self._checkCommandsToApply()
        committed = False
        if self.__raftState == _RAFT_STATE.LEADER:
            committed = self._advance_commit_index()
            self._step_down_without_majority()
        self.__applyLogEntries()
        self._ask_for_reads()
        if self.__raftState == _RAFT_STATE.LEADER and (
            appended or committed or self._leader_reads.wants_heartbeats or self._clock() >= self._heartbeat_at
        ):
            self.__sendAppendEntries()
            self._answer_reads()
        self.__tryLogCompaction()

    def _ask_for_an_election(self) -> None:
        """Ask first whether it would succeed (Ongaro 2014, 9.6): who comes back from a partition must not depose a leader."""
        self.__raftElectionDeadline = self._clock() + self.__generateRaftTimeout()
        self.__raftLeader = None
        if self.__raftState == _RAFT_STATE.CANDIDATE:
            self.__setState(_RAFT_STATE.FOLLOWER)
        self._pre_votes = {self.__selfNode.id}
        self._say_to_voters("pre_vote", self.__raftCurrentTerm + 1)
        self._begin_election_if_wanted()

    def _begin_election_if_wanted(self) -> None:
        if self._pre_votes is not None and self.membership.is_majority(self._pre_votes):
            self._begin_election()

    def _begin_election(self, *, by_leader: bool = False) -> None:
        self._pre_votes = None
        self.__raftElectionDeadline = self._clock() + self.__generateRaftTimeout()
        self.__raftLeader = None
        self.__setState(_RAFT_STATE.CANDIDATE)
        self.__setCurrentTerm(self.__raftCurrentTerm + 1, self.__selfNode.id)
        self._votes = {self.__selfNode.id}
        self._say_to_voters("request_vote", self.__raftCurrentTerm, by_leader=by_leader)
        self._become_leader_if_elected()

    def _say_to_voters(self, kind: str, term: int, **more: bool) -> None:
        for node in self._peers():
            if node.id in self.membership.voters:
                self._say(
                    node,
                    {
                        "type": kind,
                        "term": term,
                        "last_log_index": self.__getCurrentLogIndex(),
                        "last_log_term": self.__getCurrentLogTerm(),
                        **more,
                    },
                )

    def _become_leader_if_elected(self) -> None:
        if self.membership.is_majority(self._votes):
            self.__onBecomeLeader()

    def __onBecomeLeader(self) -> None:
        self.__raftLeader = self.__selfNode
        self.__setState(_RAFT_STATE.LEADER)
        self._drop_sendings()
        self._sessions.clear()
        self._leader_reads = LeaderReads(self._timings.election_min_s * LEASE_SHARE)
        self._reads.hurry()
        for node in self._peers():
            self._begin_following(node)
        self._append(NO_OP, self.__getCurrentLogIndex() + 1, self.__raftCurrentTerm)
        self._heartbeat_at = self._clock()

    def _begin_following(self, node: Node) -> None:
        self.__raftNextIndex[node] = self.__getCurrentLogIndex() + 1
        self.__raftMatchIndex[node] = 0
        self.__lastResponseTime[node] = self._clock()
        self._sessions[node] = 1

    def _checkCommandsToApply(self) -> bool:
        """Queued commands into the log, or to the leader. True if the log has grown."""
        appended = False
        while self._queue and self.__raftLeader is not None:
            data = self._queue.popleft()
            if self.__raftState == _RAFT_STATE.LEADER:
                self._append(REGULAR + data, self.__getCurrentLogIndex() + 1, self.__raftCurrentTerm)
                appended = True
            else:
                self._say(self.__raftLeader, {"type": "apply_command", "command": data})
        return appended

    def _advance_commit_index(self) -> bool:
        """A majority has it on disk, and it is of this term (Raft, 5.4.2)."""
        matched = [self.__raftMatchIndex[node] for node in self._peers() if node.id in self.membership.voters]
        if self._is_voter():
            matched.append(self.__getCurrentLogIndex())
        index = sorted(matched, reverse=True)[len(matched) // 2]
        if index <= self.__raftCommitIndex or self._term_at(index) != self.__raftCurrentTerm:
            return False
        self.__raftCommitIndex = index
        return True

    def _step_down_without_majority(self) -> None:
        if not self.membership.is_majority(self._alive()):
            self._become_follower(None)
        elif not self._is_voter() and self._memberships[-1][0] <= self.__raftCommitIndex:
            self._become_follower(None)  # it has led the others to a membership without it

    def _alive(self) -> set[str]:
        """Nodes that have answered lately, this one among them."""
        since = self._clock() - self._timings.fallback_s
        return {self.__selfNode.id} | {str(node.id) for node in self._peers() if self.__lastResponseTime[node] >= since}

    def __applyLogEntries(self) -> bool:
        """Apply in the disk's transaction; an exception leaves, and stops the node before anything is committed."""
        last = min(self.__raftCommitIndex, self.__raftLastApplied + self._timings.apply_entries)
        if last <= self.__raftLastApplied:
            return False
        until, least = self._clock() + self._timings.apply_s, self.__raftLastApplied + self._timings.apply_entries_min
        for data, index, term in self.__getEntries(self.__raftLastApplied + 1, last - self.__raftLastApplied):
            if data[:1] == REGULAR:
                self._outcomes.append(self._apply(self._disk.state, data[1:]))
            elif data[:1] == MEMBERSHIP:
                self._on_membership_committed(index, decode_membership(data[1:]))
            elif data != NO_OP:
                raise Internal("an entry of the log is neither a command nor empty", index=index)
            self.__raftLastApplied = index
            self._disk.set_applied(index, term)
            if self._clock() >= until and index >= least:
                break
        return True

    def __tryLogCompaction(self) -> None:
        """What is applied is in the state, in the same transaction; the log keeps ``keep_entries`` for followers that lag."""
        anchor = self.__raftLog[0][1]
        excess = self.__raftLastApplied - self._timings.keep_entries - anchor
        if excess >= min(CUT_ENTRIES, self._timings.keep_entries + 16):
            self.__deleteEntriesTo(anchor + min(excess, 2 * CUT_ENTRIES))

    # -- membership --------------------------------------------------------------------------------------------------------

    def _append(self, data: bytes, index: int, term: int) -> None:
        """Every entry that comes into the log comes by here."""
        self.__raftLog.add(data, index, term)
        if data[:1] == MEMBERSHIP:
            self._memberships.append((index, decode_membership(data[1:])))
            self._reconfigure()

    def _truncate(self, index: int) -> None:
        """Entries at and behind an index go, with the memberships among them."""
        self.__deleteEntriesFrom(index)
        if self._memberships[-1][0] >= index:
            self._memberships = [found for found in self._memberships if found[0] < index]
            self._reconfigure()

    def _on_membership_committed(self, index: int, membership: Membership) -> None:
        self._disk.set_members(index, membership)
        self._memberships = [(index, membership), *[found for found in self._memberships if found[0] > index]]

    def _reconfigure(self) -> None:
        """The newest membership in the log takes effect."""
        me = self.__selfNode
        self.__otherNodes = {Node(node) for node in self.membership.everybody if node != me.id}
        self._peer_list = sorted(self.__otherNodes, key=lambda node: str(node.id))
        if self.__raftState != _RAFT_STATE.LEADER:
            return
        for node in self._peer_list:
            if node not in self._sessions:
                self._begin_following(node)
        for node in [node for node in self._sessions if node not in self.__otherNodes]:
            self._drop_sending(node)
            del self._sessions[node]

    def _is_voter(self) -> bool:
        return self.__selfNode.id in self.membership.voters

    def _may_lead(self) -> bool:
        """A voter; or one that the newest membership removes, while it may be the only one that has it (Ongaro 2014, 4.2.2)."""
        return any(self.__selfNode.id in membership.voters for _, membership in self._memberships)

    # -- reads -------------------------------------------------------------------------------------------------------------

    def _ask_for_reads(self) -> None:
        leader = self.__raftLeader
        number = None if leader is None else self._reads.question_due(self._clock())
        if number is None:
            return
        if leader == self.__selfNode:
            self._take_question(None, number)
        else:
            self._say(leader, {"type": "read_index", "number": number})

    def _take_question(self, asker: Node | None, number: int) -> None:
        """Whoever is not answered asks again: nobody leads, or what earlier terms have committed is not known yet."""
        if self.__raftState != _RAFT_STATE.LEADER or self._term_at(self.__raftCommitIndex) != self.__raftCurrentTerm:
            return
        if self._leader_reads.holds_lease(self._clock()):
            self._answer_read(Question(0, self.__raftCommitIndex, asker, number))
        else:
            self._leader_reads.ask(self.__raftCommitIndex, asker, number)

    def _answer_reads(self) -> None:
        for question in self._leader_reads.answered(self.membership.is_majority, self.__selfNode.id):
            self._answer_read(question)

    def _answer_read(self, question: Question) -> None:
        if question.asker is None:
            self._reads.answer(question.number, question.index)
        else:
            self._say(question.asker, {"type": "read_index_reply", "number": question.number, "index": question.index})

    # -- sending -----------------------------------------------------------------------------------------------------------

    def __sendAppendEntries(self) -> None:
        self._heartbeat_at = self._clock() + self._timings.heartbeat_s
        self._leader_reads.leaving(self._clock())
        for node in self._peers():
            if node in self.__connectedNodes:
                self._send_to(node, even_if_nothing=True)

    def _send_to(self, node: Node, *, even_if_nothing: bool) -> None:
        """As much as the follower's window allows."""
        nothing_sent = True
        while True:
            next_index = self.__raftNextIndex[node]
            if next_index <= self.__raftLog[0][1]:
                sending = self._sendings.get(node)
                if sending is None or self._clock() >= sending.say_again_at:
                    self._send_chunk(node)
                return
            room = self.__raftMatchIndex[node] + self._timings.window_entries - next_index
            rows: list[Row] = []
            if next_index <= self.__getCurrentLogIndex() and room > 0:
                rows = self.__getEntries(next_index, room, self._timings.batch_bytes)
            if not rows and not (even_if_nothing and nothing_sent):
                return
            self._say(
                node,
                {
                    "type": "append_entries",
                    "term": self.__raftCurrentTerm,
                    "session": self._sessions[node],
                    "round": self._leader_reads.round,
                    "commit_index": self.__raftCommitIndex,
                    "prevLogIdx": next_index - 1,
                    "prevLogTerm": self._term_at(next_index - 1),
                    "entries": [list(row) for row in rows],
                },
            )
            nothing_sent = False
            if not rows:
                return
            self.__raftNextIndex[node] = rows[-1][1] + 1

    def _send_chunk(self, node: Node) -> None:
        """The chunk that is due; said again after a heartbeat's time until it is confirmed, however much else there is to say."""
        sending = self._sendings.get(node)
        if sending is None:
            sending = self._sendings[node] = _Sending(self._disk.snapshot())
            self._sessions[node] += 1  # a late chunk of an earlier snapshot must not pass for one of this
        sending.say_again_at = self._clock() + self._timings.heartbeat_s
        membership = sending.snapshot.membership
        if membership is None:
            raise Internal("a leader that does not know who was a member when it took a snapshot")
        self._say(
            node,
            {
                "type": "install_snapshot",
                "term": self.__raftCurrentTerm,
                "session": self._sessions[node],
                "round": self._leader_reads.round,
                "voters": list(membership.voters),
                "learners": list(membership.learners),
                "index": sending.snapshot.index,
                "index_term": sending.snapshot.term,
                "number": sending.number,
                "items": [list(item) for item in sending.items],
                "done": sending.done,
                "checksum": sending.checksum,
            },
        )

    def _restart_session(self, node: Node, next_index: int) -> None:
        """What is under way to this follower no longer counts, nor what it answers to it."""
        self._sessions[node] += 1
        self.__raftNextIndex[node] = min(max(next_index, self.__raftMatchIndex[node] + 1), self.__getCurrentLogIndex() + 1)
        self._drop_sending(node)

    def _drop_sending(self, node: Node) -> None:
        sending = self._sendings.pop(node, None)
        if sending is not None:
            sending.snapshot.close()

    def _drop_sendings(self) -> None:
        for node in list(self._sendings):
            self._drop_sending(node)

    # -- receiving ---------------------------------------------------------------------------------------------------------

    def __onNodeConnected(self, node: Node) -> None:
        self.__connectedNodes.add(node)
        if self.__raftState == _RAFT_STATE.LEADER and node in self._sessions:
            self._restart_session(
                node, self.__raftMatchIndex[node] + 1 if self.__raftMatchIndex[node] else self.__raftNextIndex[node]
            )
            self._heartbeat_at = self._clock()

    def __onMessageReceived(self, node: Node, message: Message) -> None:
        """Take one message of a peer; its consequences leave with the next ``doTick``, which the caller owes.

        Also of one that the membership here does not have: it may be newer there. Whoever was removed is kept out by the links.
        """
        self._check_running()
        try:
            self._receive(node, message)
        except BaseException as error:
            self._stop(error)
            raise

    def _receive(self, node: Node, message: Message) -> None:
        kind = message["type"]
        if kind == "apply_command":
            self._take_forwarded(message["command"])
            return
        if kind == "read_index":
            self._take_question(node, message["number"])
            return
        if kind == "read_index_reply":
            self._reads.answer(message["number"], message["index"])
            return
        if kind == "pre_vote":
            self._on_pre_vote(node, message)
            return
        if kind == "pre_vote_reply":
            self._on_pre_vote_reply(node, message)
            return
        if message["term"] > self.__raftCurrentTerm:
            self.__setCurrentTerm(message["term"], None)
            self._become_follower(None)
        if kind == "request_vote":
            self._on_request_vote(node, message)
        elif kind == "timeout_now":
            if message["term"] == self.__raftCurrentTerm and self.__raftLeader == node and self._is_voter():
                self._begin_election(by_leader=True)
        elif kind == "response_vote":
            if self.__raftState == _RAFT_STATE.CANDIDATE and message["term"] == self.__raftCurrentTerm and message["granted"]:
                self._votes.add(str(node.id))
                self._become_leader_if_elected()
        elif kind in ("append_entries", "install_snapshot"):
            self._on_leader(node, message)
        elif self.__raftState == _RAFT_STATE.LEADER and message["term"] == self.__raftCurrentTerm:
            self._on_reply(node, message)

    def _take_forwarded(self, command: bytes) -> None:
        if self.__raftState == _RAFT_STATE.LEADER and len(self._queue) < self._timings.queue_commands:
            try:
                self._validate(command)
            except (Malformed, VPoolError):
                return  # whoever sent it hears nothing, and no node stumbles over it
            self._queue.append(command)

    def _on_pre_vote(self, node: Node, message: Message) -> None:
        """A promise of nothing: whether a vote would be given, as far as can be seen now."""
        mine = (self.__getCurrentLogTerm(), self.__getCurrentLogIndex())
        granted = (
            message["term"] > self.__raftCurrentTerm
            and self.__raftState != _RAFT_STATE.LEADER
            and self._clock() - self._leader_heard_at >= self._timings.election_min_s
            and (message["last_log_term"], message["last_log_index"]) >= mine
        )
        self._say(
            node, {"type": "pre_vote_reply", "term": message["term"], "current": self.__raftCurrentTerm, "granted": granted}
        )

    def _on_pre_vote_reply(self, node: Node, message: Message) -> None:
        if message["current"] > self.__raftCurrentTerm:
            self.__setCurrentTerm(message["current"], None)
            self._become_follower(None)
        elif self._pre_votes is not None and message["granted"] and message["term"] == self.__raftCurrentTerm + 1:
            self._pre_votes.add(str(node.id))
            self._begin_election_if_wanted()

    def _on_request_vote(self, node: Node, message: Message) -> None:
        mine = (self.__getCurrentLogTerm(), self.__getCurrentLogIndex())
        granted = (
            message["term"] == self.__raftCurrentTerm
            and self.__raftState == _RAFT_STATE.FOLLOWER
            and (message["by_leader"] or self._clock() - self._leader_heard_at >= self._timings.election_min_s)
            and self.__votedForNodeId in (None, node.id)
            and (message["last_log_term"], message["last_log_index"]) >= mine
        )
        if granted:
            self.__setCurrentTerm(self.__raftCurrentTerm, node.id)
            self.__raftElectionDeadline = self._clock() + self.__generateRaftTimeout()
        self._say(node, {"type": "response_vote", "term": self.__raftCurrentTerm, "granted": granted})

    def _on_leader(self, node: Node, message: Message) -> None:
        if message["term"] < self.__raftCurrentTerm:
            self.__sendNextNodeIdx(node, message, success=False)
            return
        if self.__raftState == _RAFT_STATE.LEADER:
            raise Internal("two leaders in one term", term=self.__raftCurrentTerm, other=node.id)
        self._become_follower(node)
        self._leader_heard_at = self._clock()
        self.__raftElectionDeadline = self._clock() + self.__generateRaftTimeout()
        if message["type"] == "append_entries":
            self._on_append_entries(node, message)
        else:
            self._on_install_snapshot(node, message)

    def _on_append_entries(self, node: Node, message: Message) -> None:
        previous, rows = message["prevLogIdx"], message["entries"]
        if [row[1] for row in rows] != list(range(previous + 1, previous + 1 + len(rows))):
            raise Internal("entries that are not consecutive", previous=previous)
        if previous > self.__getCurrentLogIndex():
            self.__sendNextNodeIdx(node, message, success=False, nextNodeIdx=self.__getCurrentLogIndex() + 1)
            return
        anchor = self.__raftLog[0][1]
        if previous >= anchor and self._term_at(previous) != message["prevLogTerm"]:
            self._forbid_conflict(previous)
            self.__sendNextNodeIdx(node, message, success=False, nextNodeIdx=self._first_of_term_at(previous))
            return
        for data, index, term in rows:
            if index <= anchor:
                continue  # applied long ago, so the same
            if index <= self.__getCurrentLogIndex():
                if self._term_at(index) == term:
                    continue
                self._forbid_conflict(index)
                self._truncate(index)
            self._append(data, index, term)
        # Only up to what this message has shown to be the leader's: what lies behind may be of an older term.
        last = previous + len(rows)
        self.__raftCommitIndex = max(self.__raftCommitIndex, min(message["commit_index"], last))
        self.__sendNextNodeIdx(node, message, success=True, nextNodeIdx=last + 1)

    def _forbid_conflict(self, index: int) -> None:
        if index <= self.__raftCommitIndex:
            raise Internal("a committed entry differs from the leader's", index=index, committed=self.__raftCommitIndex)

    def __sendNextNodeIdx(
        self, node: Node, message: Message, success: bool = False, nextNodeIdx: int = 0, reset: bool = False
    ) -> None:
        self._say(
            node,
            {
                "type": "next_node_idx",
                "term": self.__raftCurrentTerm,
                "session": message["session"],
                "round": message["round"],
                "next_node_idx": nextNodeIdx,
                "success": success,
            },
        )

    def _on_reply(self, node: Node, message: Message) -> None:
        """Of this term; of an older session it is stale, but it confirms that this node leads."""
        if node not in self._sessions:
            return
        self.__lastResponseTime[node] = self._clock()
        self._leader_reads.confirmed(str(node.id), message["round"], self.membership.is_majority, self.__selfNode.id)
        self._answer_reads()
        if message["session"] != self._sessions[node]:
            return
        if message["type"] == "snapshot_reply":
            self._on_snapshot_reply(node, message)
        elif not message["success"]:
            self._restart_session(node, message["next_node_idx"])
            self._send_to(node, even_if_nothing=True)
        else:
            self._matched(node, message["next_node_idx"] - 1)
            self._drop_sending(node)
            self._send_to(node, even_if_nothing=False)

    def _matched(self, node: Node, index: int) -> None:
        if index > self.__getCurrentLogIndex():
            raise Internal("a follower confirms what was never sent", node=node.id, index=index)
        self.__raftMatchIndex[node] = max(self.__raftMatchIndex[node], index)
        self.__raftNextIndex[node] = max(self.__raftNextIndex[node], index + 1)

    # -- snapshots ---------------------------------------------------------------------------------------------------------

    def _on_install_snapshot(self, node: Node, message: Message) -> None:
        index, number = message["index"], message["number"]
        if index <= self.__raftCommitIndex:
            self.__sendNextNodeIdx(node, message, success=True, nextNodeIdx=index + 1)  # we have all that, and it is committed
            return
        stream = (node, message["term"], message["session"])
        if number == 0:
            self._disk.clear_incoming()
            self._receiving, self._receiving_checksum = (*stream, 0), 0
        fits = self._receiving is not None and self._receiving[:3] == stream
        if fits and self._receiving is not None and number == self._receiving[3] - 1:
            self._reply_to_chunk(node, message, success=True)  # said twice
            return
        if not fits or self._receiving is None or number != self._receiving[3]:
            self._reply_to_chunk(node, message, success=False)
            return
        for key, value in message["items"]:
            self._disk.incoming.put(key, value)
            self._receiving_checksum = crc32(value, crc32(key, self._receiving_checksum))
        if self._receiving_checksum != message["checksum"]:
            raise Internal("a snapshot does not match its checksum", index=index)
        self._receiving = (*stream, number + 1)
        if message["done"]:
            self._adopt(index, message["index_term"], membership_of([message["voters"], message["learners"]]))
            self.__sendNextNodeIdx(node, message, success=True, nextNodeIdx=index + 1)
        else:
            self._reply_to_chunk(node, message, success=True)

    def _adopt(self, index: int, term: int, membership: Membership) -> None:
        """The snapshot becomes the state; of the log stays only what goes on from there."""
        self._receiving = None
        self.adoptions += 1
        self._disk.adopt_incoming()
        self._disk.set_applied(index, term)
        self._disk.set_members(index, membership)
        if index <= self.__getCurrentLogIndex() and self._term_at(index) == term:
            self.__deleteEntriesTo(index)
        else:
            self.__raftLog.clear()
            self.__raftLog.add(NO_OP, index, term)
        self._memberships = self._load_memberships(membership)
        self._reconfigure()
        self.__raftCommitIndex = self.__raftLastApplied = index

    def _reply_to_chunk(self, node: Node, message: Message, *, success: bool) -> None:
        self._say(
            node,
            {
                "type": "snapshot_reply",
                "term": self.__raftCurrentTerm,
                "session": message["session"],
                "round": message["round"],
                "number": message["number"],
                "success": success,
            },
        )

    def _on_snapshot_reply(self, node: Node, message: Message) -> None:
        sending = self._sendings.get(node)
        if sending is None or message["number"] != sending.number:
            return
        if not message["success"]:
            self._restart_session(node, self.__raftNextIndex[node])
        elif not sending.done:
            sending.next_chunk(self._timings.batch_bytes)
        self._send_chunk(node)

    def __loadDumpFile(self, clearJournal: bool) -> None:
        raise Internal("there are no dump files")

    # -- small parts -------------------------------------------------------------------------------------------------------

    def _peers(self) -> list[Node]:
        return self._peer_list

    def _become_follower(self, leader: Node | None) -> None:
        if self.__raftState == _RAFT_STATE.LEADER:
            self.__raftElectionDeadline = self._clock() + self.__generateRaftTimeout()
        self._pre_votes = None
        if leader is not None and leader != self.__raftLeader:
            self._reads.hurry()
        self.__raftLeader = leader
        self.__setState(_RAFT_STATE.FOLLOWER)
        self._drop_sendings()

    def _term_at(self, index: int) -> int:
        return int(self.__raftLog[index - self.__raftLog[0][1]][2])

    def _first_of_term_at(self, index: int) -> int:
        """Where the leader should try next: the first entry of the conflicting term, but nothing committed."""
        term = self._term_at(index)
        while index - 1 > self.__raftCommitIndex and self._term_at(index - 1) == term:
            index -= 1
        return index

    def __generateRaftTimeout(self) -> float:
        return self._random.uniform(self._timings.election_min_s, self._timings.election_max_s)


class RaftNode(_SyncObj):
    """One voter.

    The caller feeds frames to the transport, commands to ``propose``, and calls ``doTick`` after either and when ``due``.

    Args of the constructor: ``me`` and ``others`` are node ids, the voters that a new disk begins with (``joining``: it does
    not know any, and waits for a leader); ``apply(view, command) -> outcome`` is the state machine; ``on_applied(outcome)`` is
    called once for each command applied *here*, after it is durable; ``validate`` raises on commands that must not enter the log;
    ``on_readable(token)`` ends a ``read``.
    """

    @property
    def membership(self) -> Membership:
        """The one in force: the newest in the log, committed or not."""
        return self._memberships[-1][1]

    @property
    def is_leader(self) -> bool:
        return bool(self._isLeader())

    @property
    def leader(self) -> str | None:
        node = self._getLeader()
        return None if node is None else str(node.id)

    @property
    def progress(self) -> Progress:
        """How far this node is; for those who watch."""
        facts = vars(self)
        return Progress(
            term=facts["_SyncObj__raftCurrentTerm"],
            committed=facts["_SyncObj__raftCommitIndex"],
            applied=facts["_SyncObj__raftLastApplied"],
            matched={str(node.id): index for node, index in facts["_SyncObj__raftMatchIndex"].items() if node in self._sessions}
            if self.is_leader
            else {},
            alive=tuple(sorted(self._alive())) if self.is_leader else (),
        )
