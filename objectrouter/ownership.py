"""All objects of which this node has, gives or takes the ownership: where messages, the registry's word and time come in.

Every message to a node goes over the link that this node has dialled to it, in either direction of a protocol; what the other
says comes over the link that it has dialled. Messages may be lost with a link: the machines say again what matters.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
import trio

from objectrouter.handing_over import HandingOver
from objectrouter.handover_source import HandoverTimings
from objectrouter.mirror_owner import Mirror, MirrorOwner
from objectrouter.mirror_peer import MirrorPeer
from objectrouter.mirror_policy import MirrorPolicy
from objectrouter.movements import Movements
from objectrouter.moves import Moves
from objectrouter.partings import Partings
from objectrouter.place import Place
from objectrouter.serving import Serving
from objectrouter.taking_over import TakingOver
from objectrouter.thresholds import Threshold, UseCounter
from objectrouter.wire_ownership import OwnershipMessage
from objectrouter.wishes import Bid, Wish
from registry import Abort, ObjectKind, ObjectRecord, ProposeDtl, RegistryClient, Steal, Transfer
from volumedriver import Keep, LogNotes, Volume, VolumeDriver
from vpool.errors import VPoolError

log = structlog.get_logger()


class Departures(Protocol):
    """What is known to the router alone of what is in a log, and the registry has to know before another node has the log."""

    async def may_leave(self, log_id: str) -> None:
        """It is about to be handed over. Conflict: not now."""

    async def leaves(self, log_id: str) -> None:
        """It is held: nothing changes any more."""

    def stays(self, log_id: str) -> None:
        """Nothing is under way any more."""

    async def part(self, object_id: str, tell: Callable[[int, int], None]) -> None:
        """Give a file a log of its own. ``tell``: bytes that are there, that are to be. Errors: as ``Parting.run``."""


TIMINGS = HandoverTimings(resend_s=5.0)  # links lose nothing as long as they hold


class Ownership:
    """See above; what its places need is public.

    Attributes:
        notes: what is kept beside the logs here.
        now: seconds of the clock of all leases.
        open_it: opens what the registry has given to this node; ``left`` is called when it has given it to another.
        counters: for metrics.
        moves: what administrators want.
        is_away: the cache directory is being exchanged; nothing can be kept for other nodes.
    """

    def __init__(
        self,
        registry: RegistryClient,
        volumes: VolumeDriver,
        serving: Serving,
        notes: LogNotes,
        policy: MirrorPolicy,
        send: Callable[[str, OwnershipMessage], None],
        now: Callable[[], float],
        open_it: Callable[[ObjectRecord], Awaitable[None]],
        left: Callable[[str], Awaitable[None]],
        departures: Departures,
        nursery: trio.Nursery,
        timings: HandoverTimings = TIMINGS,
        threshold: Threshold | None = None,
    ) -> None:
        self.registry, self.volumes, self.serving, self.notes = registry, volumes, serving, notes
        self.send, self.now, self.nursery = send, now, nursery
        self.open_it, self._left, self._departures = open_it, left, departures
        self._partings = Partings(departures.part, self.answer, nursery)
        self.counters = Movements()
        self.moves = Moves(self, registry)
        self._timings, self._threshold = timings, threshold or Threshold()
        self.is_away = False  # the cache directory is being exchanged
        self._policy = policy
        self._places: dict[str, Place] = {}
        self._uses: dict[str, UseCounter] = {}

    def place(self, object_id: str) -> Place:
        """Of one object; made if it is the first time."""
        found = self._places.get(object_id)
        if found is None:
            found = self._places[object_id] = Place(self, object_id)
            found.add(MirrorOwner(found, self._policy))
            found.add(MirrorPeer(found, self._policy.timings))
            found.add(HandingOver(found, self._timings))
            found.add(TakingOver(found))
        return found

    def want(self, record: ObjectRecord, use: float) -> None:
        """This node uses a volume of another so much that it asks for it. Conflict: that cannot be."""
        self.place(record.id).role(TakingOver).want(record, use=use)

    def use(self, object_id: str) -> UseCounter:
        """How much this node uses an object."""
        found = self._uses.get(object_id)
        if found is None:
            found = self._uses[object_id] = UseCounter(self._threshold)
        return found

    async def may_leave(self, object_id: str) -> None:
        """See ``Departures``."""
        await self._departures.may_leave(object_id)

    async def leaves(self, object_id: str) -> None:
        """See ``Departures``."""
        await self._departures.leaves(object_id)

    def stays(self, object_id: str) -> None:
        """See ``Departures``."""
        self._departures.stays(object_id)

    async def leave(self, object_id: str) -> None:
        """Another node owns it: whoever waits for it here is sent there."""
        await self.volumes.move_away(object_id)
        await self._left(object_id)

    def mirror(self, object_id: str) -> Mirror | None:
        """The DTL of an object that this node serves."""
        place = self._places.get(object_id)
        return None if place is None else place.role(MirrorOwner).mirror

    def vouches(self, object_id: str, now: float) -> bool:
        """Whether the word of an object's peer allows an answer at this very moment."""
        mirror = self.mirror(object_id)
        return mirror is not None and mirror.sender.vouches(now)

    def kept_for_others(self) -> list[str]:
        """Objects of which this node keeps a tail."""
        return [object_id for object_id, place in self._places.items() if not place.role(MirrorPeer).is_idle]

    async def stage(self, record: ObjectRecord, effect: Keep) -> None:
        """Make what this node keeps of an object its own log, if it gets the next epoch: durable on return."""
        await self.place(record.id).role(MirrorPeer).stage(record, effect)

    async def release_kept(self, object_id: str) -> None:
        """The registry has given an object to this node: what is kept of it here is not open any more, and stays so."""
        await self.place(object_id).role(MirrorPeer).release()

    async def wake(self) -> None:
        """After a start: what is kept for other nodes is known again."""
        for object_id in await trio.to_thread.run_sync(self.notes.stored):
            if self.registry.view.object(object_id) is not None:
                self.place(object_id).role(MirrorPeer).wake()

    def known(self, object_id: str) -> Place | None:
        """Of one object, if this node has any part in it."""
        return self._places.get(object_id)

    def in_use(self, object_id: str) -> bool:
        """A machine works on the object's log here."""
        place = self._places.get(object_id)
        return place is not None and not place.is_idle

    def bid(self, sender: str, bid: Bid) -> None:
        """An administrator wants an object here, or a file of this node in a log of its own; ``sender`` carries that out."""
        record = self.registry.view.object(bid.object)
        if record is not None and record.kind is ObjectKind.FILE:
            self._partings.bid(sender, bid)
        else:
            self.place(bid.object).receive(sender, bid)

    def answer(self, node: str, wish: Wish) -> None:
        """To who carries out an administrator's wish."""
        if node == self.registry.node:
            self.nursery.start_soon(self._hear, wish)
        else:
            self.send(node, wish)

    async def _hear(self, wish: Wish) -> None:
        self.moves.received(wish)

    def received(self, sender: str, message: OwnershipMessage) -> None:
        """A message of another node; of an object that is not known it says nothing."""
        if isinstance(message, Wish):
            self.moves.received(message)
        elif isinstance(message, Bid) and self.registry.view.object(message.object) is not None:
            self.bid(sender, message)
        elif message.object in self._places or self.registry.view.object(message.object) is not None:
            self.place(message.object).receive(sender, message)

    def began(self, record: ObjectRecord, first_lsn: int, volume: Volume) -> None:
        """The driver has opened a log into a new epoch."""
        for role in self.place(record.id).roles:
            role.began(record, first_lsn, volume)

    def ended(self, object_id: str) -> None:
        """The driver has closed a log."""
        for role in self.place(object_id).roles:
            role.ended()

    async def stop(self) -> None:
        """The node stops, nobody is answered any more: what it keeps is let go of, what it owns is mirrored no longer."""
        await self.leaving()
        for place in list(self._places.values()):
            place.role(MirrorOwner).ended()

    async def leaving(self) -> None:
        """The cache directory is about to be exchanged: what is kept in it for other nodes is let go of."""
        self.is_away = True
        for place in list(self._places.values()):
            await place.role(MirrorPeer).release()

    def entered(self) -> None:
        """There is a cache directory again."""
        self.is_away = False

    def tick(self) -> None:
        """Time passes, and the registry may say something new."""
        now = self.now()
        self._partings.tick()
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
