"""How much Raft does at once: what is ready is applied in portions, and a chunk of a snapshot is not said all the time."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any

from registry.codec import unpack
from registry.disk import RamDisk
from registry.raft import RaftNode, Timings
from registry.transport import FrameTransport, NoPeers

TIMINGS = Timings(keep_entries=4, batch_bytes=100, apply_entries_min=3)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Pipe(FrameTransport):
    def __init__(self, me: str, frames: deque[tuple[str, str, bytes]]) -> None:
        super().__init__()
        self.me, self.frames = me, frames

    def send_frame(self, peer: str, frame: bytes) -> bool:
        self.frames.append((self.me, peer, frame))
        return True


def raft(me: str, others: list[str], transport: FrameTransport, clock: Clock, apply: Any) -> RaftNode:
    return RaftNode(
        me,
        others,
        RamDisk(),
        transport,
        apply,
        clock=clock,
        random=Random(me),
        timings=TIMINGS,
        on_applied=lambda outcome: None,
        validate=lambda data: None,
    )


def test_a_tick_applies_for_so_long_and_no_longer() -> None:
    clock, applied = Clock(), []

    def apply(view: Any, data: bytes) -> bytes:
        clock.now += TIMINGS.apply_s / 4
        applied.append(data)
        return data

    node = raft("A", [], NoPeers(), clock, apply)
    node.doTick()
    for number in range(10):
        node.propose(b"%d" % number)
    ticks = 0
    while len(applied) < 10:
        before = len(applied)
        assert node.due() == float("-inf"), "who has something to apply must not sleep"
        node.doTick()
        ticks += 1
        assert min(3, 10 - before) <= len(applied) - before <= 5
    assert applied == [b"%d" % number for number in range(10)]
    assert ticks >= 2


def test_a_chunk_of_a_snapshot_is_said_again_after_a_heartbeat_and_not_with_every_command() -> None:
    clock = Clock()
    frames: deque[tuple[str, str, bytes]] = deque()

    def apply(view: Any, data: bytes) -> bytes:
        view.put(data, b"x" * 50)
        return data

    ids = ["A", "B", "C"]
    pipes = {me: Pipe(me, frames) for me in ids}
    nodes = {me: raft(me, [other for other in ids if other != me], pipes[me], clock, apply) for me in ids}
    for me in ids:
        for other in ids:
            if other != me:
                pipes[me].connected(other)

    chunks = []

    def turn(seconds: float, live: str) -> None:
        clock.now += seconds
        for me in live:
            nodes[me].doTick()
        while frames:
            sender, receiver, frame = frames.popleft()
            message = unpack(frame)
            if message["type"] == "install_snapshot":
                chunks.append((clock.now, receiver, message["number"]))
            if receiver in live:
                pipes[receiver].receive(sender, frame)

    for _ in range(1000):
        turn(0.06, "AB")  # C is away
        if nodes["A"].is_leader or nodes["B"].is_leader:
            break
    leader = next(node for node in nodes.values() if node.is_leader)
    for number in range(40):
        leader.propose(b"k%d" % number)
        turn(0.01, "AB")
    for _ in range(100):
        if chunks:
            break
        turn(0.06, "ABC")
    chunks.clear()
    began = clock.now
    for number in range(40, 200):  # C has said what it lacks, and is away again: it is told one chunk once per heartbeat
        leader.propose(b"k%d" % number)
        turn(0.002, "AB")
    said = [at for at, receiver, _ in chunks if receiver == "C"]
    assert said, "who is behind the log is sent the state"
    assert len(said) <= (clock.now - began) / TIMINGS.heartbeat_s + 2
    for _ in range(2000):
        turn(0.01, "ABC")
    assert nodes["C"].progress.applied == leader.progress.applied
    assert nodes["C"].adoptions >= 1
