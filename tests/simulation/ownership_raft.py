"""The registry of the simulated world as three voters of the shipped Raft, with misfortune of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from registry import Envelope
from registry.codec import decode_outcome, encode_envelope
from registry.tables import Tables
from tests.simulation.ownership_registry import LinearRegistry, birth
from tests.simulation.raft_cluster import Cluster

if TYPE_CHECKING:
    from tests.simulation.ownership_world import World

Key = tuple[str, int, int]


class Voters(Cluster):
    """Applies what the hosts ask, besides what its own clients do."""

    def __init__(self, seed: int, objects: list[str]) -> None:
        self.outcomes: list[tuple[Key, bytes]] = []
        super().__init__(seed, 3)
        self.crashes, self.blackouts = 0.002, 0.0002
        self.setup = [encode_envelope(envelope) for envelope in birth(objects)]

    def on_applied(self, applied: tuple[Envelope, bytes]) -> None:
        envelope, outcome = applied
        if envelope.node.startswith("n"):
            self.outcomes.append(((envelope.node, envelope.incarnation, envelope.sequence), outcome))
        else:
            super().on_applied(applied)

    def furthest(self) -> str:
        return max(self.disks, key=lambda me: (self.disks[me].applied(), me))


class RaftRegistry(LinearRegistry):
    def __init__(self, world: World, objects: list[str]) -> None:
        super().__init__(world, objects)
        self._objects = objects
        self.voters = Voters(world.random.randrange(1 << 30), objects)
        self._begun_at = self.voters.now
        self._waiting: dict[Key, list[Callable[[Any, int], None]]] = {}
        self._applied = 0
        world.at(0.0, self._step)

    def submit(self, envelope: Envelope, answer: Callable[[Any, int], None]) -> None:
        self._waiting.setdefault((envelope.node, envelope.incarnation, envelope.sequence), []).append(answer)
        if self.voters.alive():
            self.voters.propose(encode_envelope(envelope))

    def heal(self) -> None:
        self.voters.heal()

    def _step(self) -> None:
        self.voters.step()
        self._look()
        outcomes, self.voters.outcomes = self.voters.outcomes, []
        for key, outcome in outcomes:
            for answer in self._waiting.pop(key, ()):
                answer(decode_outcome(outcome), self.now.index)
        self.world.at(self.voters.now - self._begun_at - self.world.now, self._step)

    def _look(self) -> None:
        """What has been committed since the last step."""
        disk = self.voters.disks[self.voters.furthest()]
        index = disk.applied()[0]
        if index <= self._applied:
            return
        self._applied = index
        tables = Tables(disk.state)
        for object_id in self._objects:
            record = tables.object(object_id)
            before = self.now.objects[object_id]
            if record is not None and record != before:
                if record.epoch > before.epoch and any(remains.lost for remains in record.remains):
                    self.world.truths[object_id].consented(before, "", self.world.head_lsn(object_id, record.head))
                self._commit(("raft", 0, index), None, record, None)
        for node in list(tables.nodes()):
            if node.id.startswith("n"):
                self._commit(("raft", 0, index), None, None, node)
