"""All objects of which this node has, gives or takes the ownership: where messages, the registry's word and time come in.

Every message to a node goes over the link that this node has dialled to it, in either direction of a protocol; what the other
says comes over the link that it has dialled. Messages may be lost with a link: the machines say again what matters.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from objectrouter.place import Place
from objectrouter.serving import Serving
from objectrouter.wire_ownership import OwnershipMessage
from registry import Abort, ObjectRecord, ProposeDtl, RegistryClient, Steal, Transfer
from volumedriver import LogNotes, Volume, VolumeDriver
from vpool.errors import VPoolError

log = structlog.get_logger()


class Ownership:
    """See above; what its places need is public.

    Attributes:
        notes: what is kept beside the logs here.
        now: seconds of the clock of all leases.
    """

    def __init__(
        self,
        registry: RegistryClient,
        volumes: VolumeDriver,
        serving: Serving,
        notes: LogNotes,
        send: Callable[[str, OwnershipMessage], None],
        now: Callable[[], float],
        nursery: trio.Nursery,
    ) -> None:
        self.registry, self.volumes, self.serving, self.notes = registry, volumes, serving, notes
        self.send, self.now, self.nursery = send, now, nursery
        self._places: dict[str, Place] = {}

    def place(self, object_id: str) -> Place:
        """Of one object; made if it is the first time."""
        found = self._places.get(object_id)
        if found is None:
            found = self._places[object_id] = Place(self, object_id)
        return found

    def known(self, object_id: str) -> Place | None:
        """Of one object, if this node has any part in it."""
        return self._places.get(object_id)

    def received(self, sender: str, message: OwnershipMessage) -> None:
        """A message of another node; of an object that is not known it says nothing."""
        if message.object in self._places or self.registry.view.object(message.object) is not None:
            self.place(message.object).receive(sender, message)

    def began(self, record: ObjectRecord, first_lsn: int, volume: Volume) -> None:
        """The driver has opened a log into a new epoch."""
        for role in self.place(record.id).roles:
            role.began(record, first_lsn, volume)

    def ended(self, object_id: str) -> None:
        """The driver has closed a log."""
        for role in self.place(object_id).roles:
            role.ended()

    def tick(self) -> None:
        """Time passes, and the registry may say something new."""
        now = self.now()
        for object_id, place in list(self._places.items()):
            record = self.registry.view.object(object_id)
            for role in place.roles:
                if record is not None:
                    role.see(record)
                role.tick(now)
            if place.is_idle:
                del self._places[object_id]

    def submit(self, command: Transfer | Abort | ProposeDtl | Steal, done: Callable[[ObjectRecord | VPoolError], None]) -> None:
        """Have a command decided; ``done`` gets the record, or why it is refused, when that is known, and nothing before."""
        self.nursery.start_soon(self._submit, command, done)

    async def _submit(
        self, command: Transfer | Abort | ProposeDtl | Steal, done: Callable[[ObjectRecord | VPoolError], None]
    ) -> None:
        outcome: ObjectRecord | VPoolError
        try:
            outcome = await self.registry.submit(command)
        except VPoolError as error:
            if self.registry.has_ended:  # it may have been applied all the same: nobody here learns that any more
                log.warning("outcome_unknown", command=type(command).__name__, object=command.object, reason=str(error))
                return
            outcome = error
        done(outcome)
