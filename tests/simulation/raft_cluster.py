"""A cluster of registry nodes on a virtual clock: the shipped Raft and state machine, simulated links and disks.

Links are FIFO with delay, lose everything under way when they break, and now and then repeat a frame late (more than TCP would
do to
us). A power cut, of one node or of all, forgets what a disk has not committed; it can strike
between ticks, just before a commit, and between a commit and any of the messages that follow it.

With ``spare`` nodes the membership changes all the while: who should vote, receive or be gone is drawn anew now and then, and
whoever leads takes the steps. A node that is removed loses its disk; it may be taken in again later, as a new one. Readers ask
for a barrier at any node and then must see everything that anybody had been answered before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from registry import Envelope, Initialise, InodeKind, OpenHandle, RegisterNode
from registry.codec import decode_envelope, decode_outcome, encode_envelope
from registry.commands import Create, Refusal
from registry.disk import RamDisk
from registry.kv import View
from registry.membership import Membership, decode_membership
from registry.raft import MEMBERSHIP, RaftNode, Timings
from registry.state import apply_bytes
from registry.tables import Tables
from registry.transport import FrameTransport

TIMINGS = Timings(batch_bytes=600, window_entries=8, apply_entries=5, keep_entries=4)


class PowerCut(Exception):
    pass


class SimDisk(RamDisk):
    def __init__(self, strike: Callable[[], bool], history: dict[int, bytes]) -> None:
        self._strike = strike
        self._history = history
        self.applying: dict[int, bytes] = {}  # since the last commit: a voter alone applies what is not durable yet
        super().__init__()

    def commit(self) -> None:
        if self._dirty and self._strike():
            raise PowerCut
        super().commit()
        for index, data in self.applying.items():
            assert self._history.setdefault(index, data) == data, f"entry {index} is another one"
        self.applying.clear()

    def power_cut(self) -> None:
        super().power_cut()
        self.applying.clear()


class SimTransport(FrameTransport):
    def __init__(self, cluster: Cluster, me: str) -> None:
        super().__init__()
        self.cluster, self.me = cluster, me

    def send_frame(self, peer: str, frame: bytes) -> bool:
        if self.cluster.strike():
            raise PowerCut
        return self.cluster.carry(self.me, peer, frame)


class Client:
    """Opens one inode over and over; each command must count once."""

    def __init__(self, name: str, commands: int) -> None:
        self.name = name
        self.todo = deque(range(1, commands + 1))
        self.asked: dict[int, float] = {}
        self.answers: dict[int, bytes] = {}

    def envelope(self, sequence: int) -> bytes:
        command: Any = RegisterNode(self.name, "", 1) if sequence == 1 else OpenHandle(16)
        return encode_envelope(Envelope(self.name, 1, sequence, command))


class Cluster:
    def __init__(self, seed: int, size: int, node_class: type[RaftNode] = RaftNode, commands: int = 25, spare: int = 0) -> None:
        self.random = Random(seed)
        self.node_class = node_class
        self.now = 100.0
        self.first = tuple(chr(ord("A") + number) for number in range(size))
        self.spare = [chr(ord("A") + size + number) for number in range(spare)]  # names for those who come later
        self.ids = list(self.first)  # nodes that have a disk
        self.wanted = Membership(self.first)
        self.wish_rate = 0.03
        self.readers: dict[int, tuple[str, int]] = {}  # token -> (node, answered when it asked)
        self.reads = self.reads_answered = 0
        self.faults = True
        self.strikes = 0.002
        self.repeats = 0.03
        self.crashes = 0.01
        self.blackouts = 0.001
        self.hand_ons = 0.003
        self.read_rate = 0.1
        self.echoes: list[tuple[float, str, str, bytes]] = []
        self.history: dict[int, bytes] = {}
        self.disks = {me: SimDisk(self.strike, self.history) for me in self.ids}
        self.nodes: dict[str, RaftNode | None] = dict.fromkeys(self.ids)
        self.transports: dict[str, SimTransport] = {}
        self.links: dict[tuple[str, str], deque[tuple[float, bytes]]] = {}
        self.broken: set[frozenset[str]] = set()
        self.leaders: dict[int, str] = {}
        self.setup = [
            encode_envelope(Envelope("setup", 1, 1, Initialise("0" * 32, "sim", 1, (), 0))),
            encode_envelope(Envelope("setup", 1, 2, RegisterNode("setup", "", 1))),
            encode_envelope(Envelope("setup", 1, 3, Create(1, "v", InodeKind.VOLUME, 0o600, 0, 0, 0, object="1" * 32))),
        ]
        self.setup_done: set[int] = set()
        self.clients = [Client(f"client{number}", commands) for number in range(3)]
        for me in self.ids:
            self.start(me)

    # -- parts -----------------------------------------------------------------------------------------------------------

    def strike(self) -> bool:
        return self.faults and self.random.random() < self.strikes

    def alive(self) -> list[str]:
        return [me for me in self.ids if self.nodes[me] is not None]

    def start(self, me: str) -> None:
        transport = self.transports[me] = SimTransport(self, me)
        strikes, self.strikes = self.strikes, 0.0

        def apply(view: View, data: bytes) -> Any:
            node = self.nodes[me]
            self.disks[me].applying[node._SyncObj__raftLastApplied + 1] = data  # type: ignore[union-attr]
            return apply_bytes(view, data)

        others = [other for other in self.ids if other != me]
        self.nodes[me] = self.node_class(
            me,
            [other for other in self.first if other != me],
            self.disks[me],
            transport,
            apply,
            clock=lambda: self.now,
            random=Random(self.random.random()),
            timings=TIMINGS,
            on_applied=self.on_applied,
            validate=decode_envelope,
            joining=me not in self.first,
            on_readable=lambda token: self.on_readable(me, token),
        )
        self.strikes = strikes
        for other in others:
            if self.nodes[other] is not None and frozenset((me, other)) not in self.broken:
                self.connect(me, other)

    def connect(self, one: str, two: str) -> None:
        for a, b in ((one, two), (two, one)):
            self.links[a, b] = deque()
        self.transports[one].connected(two)
        self.transports[two].connected(one)

    def disconnect(self, one: str, two: str) -> None:
        for a, b in ((one, two), (two, one)):
            if self.links.pop((a, b), None) is not None and self.nodes[a] is not None:
                self.transports[a].disconnected(b)

    def crash(self, me: str) -> None:
        self.nodes[me] = None
        for token in [token for token, (node, _) in self.readers.items() if node == me]:
            del self.readers[token]  # whoever asked has gone with it
        self.disks[me].power_cut()
        for other in self.ids:
            if other != me:
                self.disconnect(me, other)

    def carry(self, sender: str, receiver: str, frame: bytes) -> bool:
        link = self.links.get((sender, receiver))
        if link is None:
            return False
        slow = 0.3 if self.faults and self.random.random() < 0.05 else 0.01
        arrives = max(self.now + self.random.random() * slow, link[-1][0] if link else 0.0)
        link.append((arrives, frame))
        if self.faults and self.random.random() < self.repeats:
            self.echoes.append((self.now + self.random.random(), sender, receiver, frame))
        return True

    def echo(self) -> None:
        """Frames that arrive once more."""
        late, self.echoes = self.echoes, []
        for when, sender, receiver, frame in late:
            if when > self.now:
                self.echoes.append((when, sender, receiver, frame))
            elif (sender, receiver) in self.links:
                self.links[sender, receiver].appendleft((0.0, frame))

    def answered(self) -> int:
        """Handles that somebody has been told of."""
        return sum(len([sequence for sequence in client.answers if sequence > 1]) for client in self.clients)

    def handles(self, me: str) -> int:
        tables = Tables(self.disks[me].state)
        return sum(tables.handles_of(16, client.name) for client in self.clients)

    def on_readable(self, me: str, token: Any) -> None:
        asked_at, answered = self.readers.pop(token)
        assert asked_at == me
        self.reads_answered += 1
        assert self.handles(me) >= answered, f"a read behind a barrier at {me} does not see what was answered before"

    def read(self) -> None:
        me = self.random.choice(self.alive())
        node = self.nodes[me]
        assert node is not None
        self.reads += 1
        self.readers[self.reads] = (me, self.answered())
        node.read(self.reads)

    # -- membership ------------------------------------------------------------------------------------------------------

    def rewish(self) -> None:
        """Somebody comes, goes, is promoted or demoted; at least one voter of the first ones stays wished for."""
        voters, learners = set(self.wanted.voters), set(self.wanted.learners)
        kind = self.random.choice(["come", "come", "promote", "demote", "go"])
        if kind == "come" and self.spare:
            me = self.spare.pop()
            self.ids.append(me)
            self.disks[me] = SimDisk(self.strike, self.history)
            self.nodes[me] = None
            learners.add(me)
            self.start(me)
        elif kind == "promote" and learners and len(voters) < 5:
            me = self.random.choice(sorted(learners))
            learners.discard(me)
            voters.add(me)
        elif kind == "demote" and len(voters) > 1:
            me = self.random.choice(sorted(voters))
            voters.discard(me)
            learners.add(me)
        elif kind == "go" and len(voters | learners) > 2:
            me = self.random.choice(sorted(voters | learners))
            if voters - {me}:
                voters.discard(me)
                learners.discard(me)
        self.wanted = Membership(tuple(sorted(voters)), tuple(sorted(learners)))

    def members_in_force(self) -> set[str]:
        """Of the newest membership that is committed, and of all that might still be."""
        known = [disk._durable[5] for disk in self.disks.values()]
        assert any(found is not None for found in known), "nobody is left who knows the members"
        newest = max((found for found in known if found is not None), key=lambda found: found[0])
        members = set(newest[1].everybody)
        for disk in self.disks.values():
            for entry in [*disk.entries(), *disk._durable[0].values()]:
                if entry.index > newest[0] and entry.data[:1] == MEMBERSHIP:
                    members |= set(decode_membership(entry.data[1:]).everybody)
        return members

    def settle_membership(self) -> None:
        """Leaders take steps; who has been removed for good is switched off, and its disk is gone."""
        for me in self.alive():
            node = self.nodes[me]
            if node is None or not node.is_leader:
                continue
            node.change_membership(self.wanted)
            if self.random.random() < self.hand_ons:
                node.hand_on()
        members = self.members_in_force()
        for me in list(self.ids):
            if me not in members and me not in self.wanted.everybody:
                self.crash(me)
                self.ids.remove(me)
                del self.disks[me], self.nodes[me]
                for token in [token for token, (node_id, _) in self.readers.items() if node_id == me]:
                    del self.readers[token]

    def on_applied(self, applied: tuple[Envelope, bytes]) -> None:
        envelope, outcome = applied
        if envelope.node == "setup":
            self.setup_done.add(envelope.sequence)
            return
        client = next(client for client in self.clients if client.name == envelope.node)
        before = client.answers.setdefault(envelope.sequence, outcome)
        assert before == outcome, "one command, two answers"
        client.asked.pop(envelope.sequence, None)

    # -- time ------------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        self.now += self.random.random() * 0.02
        if self.faults:
            self.misfortune()
        self.echo()
        self.ask()
        if (self.spare or self.wanted != Membership(self.first)) and self.faults and self.random.random() < self.wish_rate:
            self.rewish()
        self.settle_membership()
        if self.alive() and self.random.random() < self.read_rate:
            self.read()
        for me in self.random.sample(self.ids, len(self.ids)):
            node = self.nodes.get(me)
            if node is None:
                continue
            try:
                self.turn(me, node)
            except PowerCut:
                self.crash(me)

    def turn(self, me: str, node: RaftNode) -> None:
        for other in self.ids:
            link = self.links.get((other, me))
            while link and link[0][0] <= self.now and self.random.random() < 0.9:
                self.transports[me].receive(other, link.popleft()[1])
                if self.random.random() < 0.5:
                    node.doTick()
        node.doTick()
        if node.is_leader:
            term = node._getTerm()
            assert self.leaders.setdefault(term, me) == me, f"two leaders in term {term}"

    def misfortune(self) -> None:
        if self.random.random() < 0.02 and len(self.ids) > 1:
            one, two = self.random.sample(self.ids, 2)
            pair = frozenset((one, two))
            self.disconnect(one, two)
            if pair in self.broken:
                self.broken.discard(pair)
                if self.nodes[one] is not None and self.nodes[two] is not None:
                    self.connect(one, two)
            elif self.random.random() < 0.5:
                self.broken.add(pair)
            elif self.nodes[one] is not None and self.nodes[two] is not None:
                self.connect(one, two)  # a short loss
        if self.random.random() < self.crashes:
            self.crash(self.random.choice(self.ids))
        if self.random.random() < self.blackouts:
            for me in self.ids:
                self.crash(me)
        down = [me for me in self.ids if self.nodes[me] is None]
        if down and self.random.random() < 0.05:
            self.start(self.random.choice(down))

    def ask(self) -> None:
        alive = self.alive()
        if not alive:
            return
        if len(self.setup_done) < len(self.setup):
            if self.random.random() < 0.2:
                self.propose(self.setup[len(self.setup_done)])
            return
        for client in self.clients:
            if client.todo and len(client.asked) < 4 and (1 in client.answers or not client.asked) and self.random.random() < 0.2:
                client.asked[client.todo.popleft()] = 0.0
            for sequence, asked_at in list(client.asked.items()):
                if self.now - asked_at > 0.7:
                    client.asked[sequence] = self.now
                    self.propose(client.envelope(sequence))

    def propose(self, data: bytes) -> None:
        node = self.nodes[self.random.choice(self.alive())]
        assert node is not None
        node.propose(data)

    # -- the whole -------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        self.faults = False
        self.broken.clear()
        for me in self.ids:
            if self.nodes[me] is None:
                self.start(me)
        for one in self.ids:
            for two in self.ids:
                if one < two and (one, two) not in self.links:
                    self.connect(one, two)

    def run(self, steps: int = 1500) -> None:
        for _ in range(steps):
            self.step()
        self.heal()
        for _ in range(6000):
            self.step()
            if (
                all(not client.todo and not client.asked for client in self.clients)
                and self.same_applied()
                and not self.readers
                and all(node is not None and node.membership == self.wanted for node in self.nodes.values())
            ):
                break
        self.check()

    def same_applied(self) -> bool:
        ends = {(disk.applied()[0], disk.entries()[-1].index) for disk in self.disks.values()}
        return len(ends) == 1 and all(applied == last for applied, last in ends)

    def check(self) -> None:
        for client in self.clients:
            assert not client.todo, "a healthy cluster does not answer"
            assert not client.asked, "a healthy cluster does not answer"
        assert not self.readers, "a healthy cluster does not let readers through"
        assert self.reads_answered
        assert all(node is not None and node.membership == self.wanted for node in self.nodes.values()), "not what was wished for"
        states = [self.disks[me].state_items for me in self.ids]
        assert all(state == states[0] for state in states), "nodes differ"
        tables = Tables(self.disks[self.ids[0]].state)
        for client in self.clients:
            last = max(client.answers)
            assert tables.handles_of(16, client.name) == last - 1, "a command was lost or counted twice"
            for sequence, outcome in client.answers.items():
                assert tables.remembered(client.name, sequence) == outcome, "an acknowledged command is gone"
                assert not isinstance(decode_outcome(outcome), Refusal)
