"""The registry's own state machine without its process: what the Volume Driver needs of a client, for tests that start it often.

State is a ``RamView``; ``items`` of one life may be handed to the next, as a database would.
"""

from __future__ import annotations

import time
from typing import Any

from registry import Command, Envelope, Initialise, ObjectRecord, Refusal, RegisterNode
from registry.client import error_of
from registry.kv import RamView
from registry.state import apply
from registry.tables import Tables


class MemoryView:
    """The reads that the Volume Driver uses."""

    def __init__(self, view: RamView) -> None:
        self._tables = Tables(view)

    def object(self, object_id: str) -> ObjectRecord | None:
        return self._tables.object(object_id)

    def objects(self) -> list[ObjectRecord]:
        return list(self._tables.objects())

    def orphans(self) -> list[ObjectRecord]:
        found = [self._tables.object(object_id) for object_id in self._tables.nameless()]
        return [record for record in found if record is not None]

    def path_of(self, inode: int) -> str | None:
        """None: these tests make objects without names."""
        return None


class MemoryRegistry:
    """Applies commands at once. Each instance is a new incarnation of the one node."""

    def __init__(self, node: str, vpool: str, items: dict[bytes, bytes] | None = None, incarnation: int = 1) -> None:
        self.node = node
        self.incarnation = incarnation
        self._ram = RamView(items)
        self.view = MemoryView(self._ram)
        self._sequence = 0
        self._apply(RegisterNode(node, "", incarnation))
        if not items:
            self._apply(Initialise(vpool, "test", 1, ("*.raw",), time.time_ns()))

    @property
    def items(self) -> dict[bytes, bytes]:
        """All of the state."""
        return dict(self._ram.items)

    async def submit(self, command: Command) -> Any:
        """As ``RegistryClient.submit``."""
        return self._apply(command)

    def _apply(self, command: Command) -> Any:
        self._sequence += 1
        result = apply(self._ram, Envelope(self.node, self.incarnation, self._sequence, command))
        if isinstance(result, Refusal):
            raise error_of(result)
        return result
