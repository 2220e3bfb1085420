"""One object with a log on this node, and the parts that the node has in its ownership: the frame around the pure machines.

A *role* is one machine with its shell: the source of a hand-over, its target, and so on. A place hands each message to the roles
that take it, tells all of them what the registry says and that time passes, and carries out the effects they come to, each by the
role that knows how. ``Send`` is the place's own.

Concurrency: one loop; nothing here awaits, so a machine is never called between its answer and the carrying out of its effects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from objectrouter.wire_ownership import OwnershipMessage
from registry import ObjectRecord
from volumedriver import Send, Volume

if TYPE_CHECKING:
    from objectrouter.ownership import Ownership


Kind = TypeVar("Kind")


class Role(Protocol):
    """One side of one protocol, for one object."""

    @property
    def takes(self) -> tuple[type, ...]:
        """Messages that are for it."""

    @property
    def effects(self) -> Mapping[type, Callable[[Any], None]]:
        """How to carry out what its machine wants."""

    def receive(self, sender: str, message: Any) -> None:
        """A message has come."""

    def began(self, record: ObjectRecord, first_lsn: int, volume: Volume) -> None:
        """This node has opened the object: its epoch writes from ``first_lsn`` on."""

    def ended(self) -> None:
        """Its log was closed here."""

    def see(self, record: ObjectRecord) -> None:
        """What the registry says; perhaps nothing new."""

    def tick(self, now: float) -> None:
        """Time passes."""

    @property
    def is_idle(self) -> bool:
        """Nothing would be forgotten with it."""


class Place:
    """See above."""

    def __init__(self, ownership: Ownership, object_id: str) -> None:
        self.ownership, self.object = ownership, object_id
        self.roles: list[Role] = []
        self._effects: dict[type, Callable[[Any], None]] = {Send: self._send}

    def add(self, role: Role) -> None:
        """A part that the node may have."""
        self.roles.append(role)
        self._effects |= role.effects

    def role(self, kind: type[Kind]) -> Kind:
        """The part of this kind; there is one."""
        return next(role for role in self.roles if isinstance(role, kind))

    def receive(self, sender: str, message: Any) -> None:
        """A message about the object."""
        for role in self.roles:
            if isinstance(message, role.takes):
                role.receive(sender, message)

    def run(self, effects: Iterable[Any]) -> None:
        """Carry out what a machine wants."""
        for effect in effects:
            self._effects[type(effect)](effect)

    @property
    def is_idle(self) -> bool:
        """Nothing would be forgotten with it."""
        return all(role.is_idle for role in self.roles)

    def _send(self, effect: Send) -> None:
        assert isinstance(effect.message, OwnershipMessage)
        self.ownership.send(effect.node, effect.message)
