"""The registry in the simulated world: the shipped state machine behind links that delay, lose and repeat.

``LinearRegistry`` applies commands in one order, as a Raft group of any size does. What a node sees of it lags.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry import (
    AdvanceHeads,
    Command,
    Create,
    Envelope,
    Initialise,
    InodeKind,
    NodeRecord,
    ObjectRecord,
    Refusal,
    RegisterNode,
    Steal,
)
from registry.kv import RamView
from registry.state import apply
from registry.tables import WritableTables

if TYPE_CHECKING:
    from tests.simulation.ownership_world import World


@dataclass(slots=True)
class State:
    """As of one commit."""

    index: int
    objects: dict[str, ObjectRecord]
    nodes: dict[str, NodeRecord]


def birth(objects: list[str]) -> list[Envelope]:
    """What there is before any host."""
    commands: list[Command] = [
        Initialise("f" * 32, "sim", 1, (), 0),
        RegisterNode("setup", "", 1),
        *[Create(1, f"v{object_id}", InodeKind.VOLUME, 0o600, 0, 0, 0, object=object_id) for object_id in objects],
    ]
    return [Envelope("setup", 1, number, command) for number, command in enumerate(commands, 1)]


class LinearRegistry:
    def __init__(self, world: World, objects: list[str]) -> None:
        self.world = world
        self.view = RamView()
        self.tables = WritableTables(self.view)
        self.states = [State(0, {}, {})]
        self.applied: list[tuple[str, int, int]] = []  # committed commands, in order
        for envelope in birth(objects):
            assert not isinstance(apply(self.view, envelope), Refusal)
        for object_id in objects:
            record = self.tables.object(object_id)
            assert record is not None
            self.now.objects[object_id] = record

    @property
    def now(self) -> State:
        return self.states[-1]

    def submit(self, envelope: Envelope, answer: Callable[[Any, int], None]) -> None:
        """Apply, or answer as before; checks what the command has changed."""
        key = (envelope.node, envelope.incarnation, envelope.sequence)
        outcome = apply(self.view, envelope)
        self._note(envelope.command, outcome, key)
        answer(outcome, self.now.index)

    def heal(self) -> None:
        """No more misfortune."""

    def _note(self, command: Command, outcome: Any, key: tuple[str, int, int]) -> None:
        now = self.now
        if isinstance(outcome, ObjectRecord):
            # an answer given before is not news: the state machine's own record is
            known = self.tables.object(outcome.id) if now.objects.get(outcome.id) != outcome else outcome
            assert known is not None
            self._commit(key, command, known, None)
        elif isinstance(outcome, NodeRecord):
            node = self.tables.node(outcome.id)
            assert node is not None
            self._commit(key, command, None, node)
        elif isinstance(command, AdvanceHeads):
            for advance in command.advances:
                known = self.tables.object(advance.object)
                assert known is not None
                self._commit(key, command, known, None)

    def _commit(
        self, key: tuple[str, int, int], command: Command | None, changed: ObjectRecord | None, node: NodeRecord | None
    ) -> None:
        before = self.now
        if changed is not None and before.objects.get(changed.id) == changed:
            return
        if node is not None and before.nodes.get(node.id) == node:
            return
        objects = before.objects if changed is None else before.objects | {changed.id: changed}
        nodes = before.nodes if node is None else before.nodes | {node.id: node}
        self.states.append(State(before.index + 1, objects, nodes))
        self.applied.append(key)
        if changed is not None:
            truth = self.world.truths[changed.id]
            if isinstance(command, Steal) and changed.remains[-1].lost:
                if not command.accept_loss:
                    truth.fail(f"{command.thief} takes what may lose something, and nobody has agreed")
                head_lsn = self.world.head_lsn(changed.id, changed.head)
                truth.consented(before.objects[changed.id], command.fenced_peer, head_lsn)
            truth.committed(before.objects.get(changed.id), changed)
        self.world.registry_moved()
