"""Raft under the registry: seeded random faults on a virtual clock, the history that breaks stock PySyncObj, and mutations.

``VPOOL_SEEDS=n`` runs n seeds of each size; ``VPOOL_SEED=s`` runs that one. A failure names its seed.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from random import Random
from typing import Any

import pysyncobj.syncobj
import pytest
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from registry.disk import RamDisk
from registry.membership import Membership, encode_membership, next_step
from registry.raft import RaftNode, Timings
from registry.transport import FrameTransport
from tests.simulation.raft_cluster import TIMINGS, Cluster
from vpool.errors import Halted, Internal

SEEDS = [int(os.environ["VPOOL_SEED"])] if "VPOOL_SEED" in os.environ else list(range(int(os.environ.get("VPOOL_SEEDS", "40"))))


@pytest.mark.parametrize("size", [3, 5])
def test_nothing_is_lost_and_nothing_counts_twice(size: int) -> None:
    for seed in SEEDS:
        try:
            Cluster(seed, size).run()
        except BaseException as error:
            raise AssertionError(f"VPOOL_SEED={seed} with {size} nodes: {error!r}") from error


@pytest.mark.parametrize(("size", "spare"), [(1, 5), (3, 4)])
def test_members_come_and_go_and_readers_see_what_was_answered(size: int, spare: int) -> None:
    for seed in SEEDS:
        try:
            Cluster(seed, size, spare=spare).run()
        except BaseException as error:
            raise AssertionError(f"VPOOL_SEED={seed} with {size} nodes and {spare} spare: {error!r}") from error


def test_who_comes_back_from_a_partition_does_not_depose_the_leader() -> None:
    cluster = Cluster(1, 3)
    cluster.faults, cluster.hand_ons = False, 0.0
    for _ in range(300):
        cluster.step()
    leader = next(me for me in cluster.ids if (node := cluster.nodes[me]) is not None and node.is_leader)
    term = max(cluster.leaders)
    away = next(me for me in cluster.ids if me != leader)
    for other in cluster.ids:
        if other != away:
            cluster.disconnect(away, other)
    for _ in range(600):
        cluster.step()
    for other in cluster.ids:
        if other != away:
            cluster.connect(away, other)
    for _ in range(300):
        cluster.step()
    node = cluster.nodes[leader]
    assert node is not None
    assert node.is_leader
    assert max(cluster.leaders) == term, "an election was forced"


def test_a_leader_that_hands_on_is_followed_at_once() -> None:
    cluster = Cluster(1, 3)
    cluster.faults, cluster.hand_ons = False, 0.0
    for _ in range(300):
        cluster.step()
    leader = next(node for node in cluster.nodes.values() if node is not None and node.is_leader)
    asked = leader.hand_on()
    began = cluster.now
    while not (cluster.nodes[str(asked)] or leader).is_leader:
        cluster.step()
    assert cluster.now - began < TIMINGS.election_min_s, "nobody had to wait until it was missed"
    assert not leader.is_leader
    assert leader.hand_on() is None


def test_who_hears_a_leader_elects_no_other_but_by_its_word() -> None:
    """The leader counts on that when it answers readers without asking: a vote asked for before may arrive late."""
    cluster = Cluster(1, 3)
    cluster.faults, cluster.hand_ons = False, 0.0
    for _ in range(300):
        cluster.step()
    leader = next(me for me in cluster.ids if (node := cluster.nodes[me]) is not None and node.is_leader)
    voter, candidate = [me for me in cluster.ids if me != leader]
    for by_leader in (False, True):
        node = cluster.nodes[voter]
        assert node is not None
        asked = {"type": "request_vote", "term": node._getTerm() + 1, "last_log_index": 1 << 40, "last_log_term": 1 << 40}
        node._SyncObj__onMessageReceived(Node(candidate), {**asked, "by_leader": by_leader})
        told = [message for _, message in node._outbox if message["type"] == "response_vote"]
        assert [message["granted"] for message in told] == [by_leader]
        node._outbox.clear()


def test_the_simulation_is_deterministic() -> None:
    runs = [Cluster(7, 3) for _ in range(2)]
    for run in runs:
        run.run()
    assert runs[0].history == runs[1].history
    assert runs[0].now == runs[1].now


# -- mutations: what the simulation must catch, or it proves nothing ----------------------------------------------------


class SaysBeforeItIsDurable(RaftNode):
    def _flush(self) -> None:
        """Commits at every eighth tick only: a log without sync."""
        self.flushes = getattr(self, "flushes", 0) + 1
        commit = self._disk.commit
        if self.flushes % 8:
            self._disk.commit = lambda: None  # type: ignore[method-assign]
        try:
            super()._flush()
        finally:
            self._disk.commit = commit  # type: ignore[method-assign]


class TruncatesWithoutConflict(RaftNode):
    def _on_append_entries(self, node: Node, message: dict[str, Any]) -> None:
        previous = message["prevLogIdx"]
        anchor = self._SyncObj__raftLog[0][1]
        if anchor <= previous < self._SyncObj__raftLog[-1][1] and self._term_at(previous) == message["prevLogTerm"]:
            self._SyncObj__raftLog.deleteEntriesFrom(previous + 1 - anchor)
        super()._on_append_entries(node, message)


class ForgetsItsVote(RaftNode):
    def _on_request_vote(self, node: Node, message: dict[str, Any]) -> None:
        self._SyncObj__votedForNodeId = None
        super()._on_request_vote(node, message)


class CountsUnverifiedTail(RaftNode):
    def _on_append_entries(self, node: Node, message: dict[str, Any]) -> None:
        super()._on_append_entries(node, message)
        end = self._SyncObj__raftLog[-1][1]
        committed: int = vars(self)["_SyncObj__raftCommitIndex"]
        self._SyncObj__raftCommitIndex = max(committed, min(message["commit_index"], end))


class ReadsWithoutConfirmation(RaftNode):
    def _answer_reads(self) -> None:
        self._leader_reads._confirmed = dict.fromkeys(self.membership.everybody, 1 << 60)
        super()._answer_reads()


class KeepsItsLeaseForTooLong(RaftNode):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._leader_reads._lease_s = 5.0

    def _SyncObj__onBecomeLeader(self) -> None:  # noqa: N802
        super()._SyncObj__onBecomeLeader()
        self._leader_reads._lease_s = 5.0


class HandsOnUnderItsLease(RaftNode):
    def hand_on(self) -> str | None:
        reads, kept = self._leader_reads, vars(self._leader_reads).copy()
        asked = super().hand_on()
        vars(reads).update(kept)
        return asked


@pytest.mark.parametrize("mutant", [KeepsItsLeaseForTooLong, HandsOnUnderItsLease])
def test_a_lease_that_does_not_hold_is_caught(mutant: type[RaftNode]) -> None:
    for seed in range(400):
        cluster = Cluster(seed, 3, mutant)
        cluster.crashes = 0.005
        cluster.hand_ons = 0.05 if mutant is HandsOnUnderItsLease else 0.003
        cluster.read_rate = 0.4
        try:
            cluster.run(600)
        except (AssertionError, Internal, Halted):
            return
    pytest.fail(f"{mutant.__name__} survives 400 seeds")


class ReadsWithoutABarrier(RaftNode):
    def read(self, token: Any) -> None:
        super().read(token)
        self._reads._known.append((0, self._reads._waiting))
        self._reads._waiting = []


class ChangesBeforeItHasCommitted(RaftNode):
    """The error in the first edition of Raft's single-server changes, and two changes at a time."""

    def change_membership(self, wanted: Membership) -> Membership | None:
        if not self.is_leader or wanted == self.membership:
            return None
        step = next_step(self.membership, wanted, self._alive(), set(self.membership.learners), self._SyncObj__selfNode.id)
        if step is not None:
            end = self._SyncObj__raftLog[-1][1]
            self._append(b"\x02" + encode_membership(step), end + 1, self._getTerm())
        return step


@pytest.mark.parametrize(
    "mutant",
    [
        ReadsWithoutConfirmation,
        ReadsWithoutABarrier,
        ChangesBeforeItHasCommitted,
    ],
)
def test_a_broken_membership_or_read_is_caught(mutant: type[RaftNode]) -> None:
    for seed in range(400):
        cluster = Cluster(seed, 3 if seed % 2 else 1, mutant, spare=4)
        cluster.crashes = 0.02
        cluster.wish_rate = 0.1
        try:
            cluster.run(900)
        except (AssertionError, Internal, Halted):
            return
    pytest.fail(f"{mutant.__name__} survives 400 seeds")


@pytest.mark.parametrize("mutant", [SaysBeforeItIsDurable, TruncatesWithoutConflict, ForgetsItsVote, CountsUnverifiedTail])
def test_a_broken_protocol_is_caught(mutant: type[RaftNode]) -> None:
    for seed in range(100):
        cluster = Cluster(seed, 3 if seed % 2 else 5, mutant)
        cluster.repeats, cluster.crashes, cluster.blackouts = 0.3, 0.03, 0.005
        try:
            cluster.run(800)
        except (AssertionError, Internal, Halted):  # Halted: what is on the disk contradicts itself
            return
    pytest.fail(f"{mutant.__name__} survives 100 seeds")


# -- the history that makes stock PySyncObj lose what it has acknowledged -----------------------------------------------

IDS = ["A", "B", "C"]
TIMEOUTS = {"A": (1.0, 1.1), "B": (20.0, 21.0), "C": (40.0, 41.0)}


class Wires:
    """Links by hand: what is sent waits until the script delivers, loses or repeats it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waiting: dict[tuple[str, str], deque[Any]] = defaultdict(deque)
        self.cut: set[tuple[str, str]] = set()
        self.ends: dict[str, Any] = {}
        self.nodes: dict[str, Any] = {}

    def put(self, sender: str, receiver: str, message: Any) -> bool:
        if (sender, receiver) in self.cut:
            return False
        self.waiting[sender, receiver].append(message)
        return True

    def isolate(self, name: str) -> None:
        for other in IDS:
            self.cut |= {(name, other), (other, name)}

    def deliver(self, sender: str, receiver: str, count: int = 1 << 30) -> None:
        queue = self.waiting[sender, receiver]
        while queue and count:
            self.ends[receiver].take(sender, queue.popleft())
            count -= 1

    def tick(self, name: str, dt: float) -> None:
        self.now += dt
        self.nodes[name].doTick(0)

    def settle(self, live: list[str], rounds: int) -> None:
        for _ in range(rounds):
            self.now += 0.06
            for name in live:
                self.nodes[name].doTick(0)
            for sender in live:
                for receiver in live:
                    if (sender, receiver) not in self.cut:
                        self.deliver(sender, receiver)


def lose_repeat_and_crash(wires: Wires, propose: Any, acknowledged: list[Any]) -> None:
    """A leads with B, C is away; a batch is lost, two refusals make A send it twice; the repeat arrives late, A dies."""
    wires.settle(IDS, 60)
    assert wires.nodes["A"]._isLeader()
    wires.isolate("C")
    wires.settle(["A", "B"], 20)
    wires.tick("B", 0.0)
    wires.deliver("B", "A")
    for number in range(6):
        propose(number)
    wires.tick("A", 0.001)
    wires.waiting["A", "B"].clear()  # a reconnect
    wires.tick("A", 0.06)
    wires.tick("A", 0.06)  # two heartbeats, which B must refuse
    wires.deliver("A", "B")
    wires.tick("B", 0.0)
    wires.deliver("B", "A", 1)
    wires.tick("A", 0.06)
    batch = list(wires.waiting["A", "B"])
    refusals = len(wires.waiting["B", "A"])
    wires.deliver("A", "B")
    wires.tick("B", 0.0)
    wires.deliver("B", "A", refusals)  # the second refusal
    wires.tick("A", 0.06)
    wires.deliver("B", "A")
    wires.tick("A", 0.0)
    wires.tick("A", 0.0)
    assert acknowledged, "the leader has acknowledged"
    repeated = wires.waiting["A", "B"] or deque(batch)  # a node that does not send it twice gets it repeated all the same
    wires.ends["B"].take("A", repeated.popleft())
    wires.tick("B", 0.0)
    wires.cut.clear()
    wires.isolate("A")
    wires.waiting.clear()
    wires.now += 45  # C too has not heard of a leader for longer than its least election time-out
    wires.settle(["B", "C"], 60)


def test_stock_pysyncobj_loses_acknowledged_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails PySyncObj has been repaired, and the ADR is to be looked at again."""
    wires = Wires()
    monkeypatch.setattr(pysyncobj.syncobj, "monotonicTime", lambda: wires.now)

    class End(Transport):  # type: ignore[misc]
        def __init__(self, sync_obj: Any, me: Node, others: Any) -> None:
            super().__init__(sync_obj, me, others)
            self.me = me
            wires.ends[me.id] = self

        def send(self, node: Node, message: Any) -> bool:
            return wires.put(self.me.id, node.id, dict(message))

        def take(self, sender: str, message: Any) -> None:
            self._onMessageReceived(Node(sender), message)

    class Listing(SyncObj):  # type: ignore[misc]
        def __init__(self, me: str) -> None:
            low, high = TIMEOUTS[me]
            conf = SyncObjConf(
                autoTick=False,
                raftMinTimeout=low,
                raftMaxTimeout=high,
                appendEntriesUseBatch=False,
                appendEntriesPeriod=0.05,
                appendEntriesBatchSizeBytes=150,
                leaderFallbackTimeout=300,
                connectionTimeout=500,
            )
            super().__init__(Node(me), [Node(other) for other in IDS if other != me], conf, nodeClass=Node, transportClass=End)
            self.seen: list[str] = []

        @replicated  # type: ignore[untyped-decorator]
        def add(self, text: str) -> None:
            self.seen.append(text)

    for me in IDS:
        wires.nodes[me] = Listing(me)
    for me in IDS:
        for other in IDS:
            if me != other:
                wires.ends[me]._onNodeConnected(Node(other))
    acknowledged: list[Any] = []

    def propose(number: int) -> None:
        text = f"{number}" + "." * 60
        wires.nodes["A"].add(text, callback=lambda _, error, text=text: acknowledged.append(text) if not error else None)

    lose_repeat_and_crash(wires, propose, acknowledged)
    survivors = wires.nodes["B"].seen
    assert len(acknowledged) >= 4
    assert not set(acknowledged) <= set(survivors), "stock PySyncObj kept them this time"
    for node in wires.nodes.values():
        node.destroy()


def test_ours_keeps_what_it_has_acknowledged() -> None:
    wires = Wires()

    class End(FrameTransport):
        def __init__(self, me: str) -> None:
            super().__init__()
            self.me = me
            wires.ends[me] = self

        def send_frame(self, peer: str, frame: bytes) -> bool:
            return wires.put(self.me, peer, frame)

        def take(self, sender: str, frame: bytes) -> None:
            self.receive(sender, frame)

    applied: dict[str, list[Any]] = {me: [] for me in IDS}
    for me in IDS:
        low, high = TIMEOUTS[me]
        wires.nodes[me] = RaftNode(
            me,
            [other for other in IDS if other != me],
            RamDisk(),
            End(me),
            lambda view, data: data,
            clock=lambda: wires.now,
            random=Random(1),
            timings=Timings(election_min_s=low, election_max_s=high, fallback_s=300, batch_bytes=150),
            on_applied=applied[me].append,
            validate=lambda data: None,
        )
    for me in IDS:
        for other in IDS:
            if me != other:
                wires.ends[me].connected(other)
    wires.now += TIMEOUTS["C"][0]  # who has just begun gives no vote: a leader of its life before may still count on it
    lose_repeat_and_crash(wires, lambda number: wires.nodes["A"].propose(b"%d" % number + b"." * 60), applied["A"])
    assert len(applied["A"]) >= 4
    assert wires.nodes["B"].is_leader
    for survivor in ("B", "C"):
        assert applied[survivor][: len(applied["A"])] == applied["A"], "an acknowledged command is gone"
