"""This node's router among those of the other nodes.

Requests on what they own go to them, and theirs on what is owned here are served. Only a node of a cluster has it.

Order of construction: the router makes it, then ``serve`` listens; on leaving, other nodes' requests end first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog
import trio

from objectrouter.burial import Burial
from objectrouter.handover_source import HandoverTimings
from objectrouter.loopback import LoopEnd
from objectrouter.mirror_policy import MirrorPolicy, MirrorSettings
from objectrouter.movements import Movements
from objectrouter.operation import Attributes
from objectrouter.ownership import TIMINGS, Ownership
from objectrouter.remote_object import RemoteObject
from objectrouter.remote_region import RemoteRegion
from objectrouter.replies import Replies
from objectrouter.requests import Reply
from objectrouter.router_links import RouterLinks, Way
from objectrouter.serving import LocalObjects, Serving
from objectrouter.takeover import Takeover
from objectrouter.thresholds import Threshold
from objectrouter.uses import Uses
from objectrouter.wire import FRAME_BYTES_MAX, Attached, Look, Message, NotAttached, Seen
from objectrouter.wire_ownership import OwnershipMessage
from peers import Address, Contexts, Hello, Peer, Purpose, serve
from registry import Lease, ObjectRecord, RegistryClient
from volumedriver import Fenced, Fetched, LogNotes, VolumeDriver
from vpool.errors import Denied

log = structlog.get_logger()

TICK_S = 0.25
LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """What a node needs to talk to the others.

    Attributes:
        hello: what this node says first over a link.
        lease: this node's; kept by somebody else.
        notes: what is kept beside the logs here.
        mirror: of the DTL of what this node owns.
        power_off: a command that powers a dead node's host off, before its objects are taken over by themselves; none if empty.
        wait_s: how long a request waits for an owner that does not answer.
        timings: of hand-overs.
        threshold: of use, from which on a volume is asked for; None: never without a command.
    """

    listen: Address
    credentials: Contexts
    hello: Callable[[Purpose], Hello]
    lease: Lease
    notes: LogNotes
    wait_s: float = float("inf")
    timings: HandoverTimings = TIMINGS
    threshold: Threshold | None = None
    mirror: MirrorSettings = MirrorSettings()  # noqa: RUF009  # frozen
    power_off: tuple[str, ...] = ()


class OwnObjects(LocalObjects, Protocol):
    """``ObjectRouter``, as other nodes use it."""

    async def take_up(self, record: ObjectRecord) -> None:
        """Open what the registry has given to this node."""

    async def went_away(self, object_id: str) -> None:
        """Another node owns what was this one's."""

    async def may_leave(self, log_id: str) -> None:
        """See ``Departures``."""

    async def leaves(self, log_id: str) -> None:
        """See ``Departures``."""

    def stays(self, log_id: str) -> None:
        """See ``Departures``."""

    async def part(self, object_id: str, tell: Callable[[int, int], None]) -> None:
        """See ``Departures``."""

    def requests(self, object_id: str) -> int:
        """How many requests were made here of an object with a log."""


def boottime() -> float:
    """Seconds of the clock of all leases."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Neighbours:
    """See above."""

    def __init__(
        self, place: Neighbourhood, registry: RegistryClient, volumes: VolumeDriver, objects: OwnObjects, nursery: trio.Nursery
    ) -> None:
        self._place, self._registry, self._nursery = place, registry, nursery
        self._remote: dict[str, RemoteObject] = {}
        self._looks: dict[int, tuple[trio.Event, list[Attributes | None]]] = {}  # by ticket
        self._ticket = 0
        self.replies = Replies(place.lease, boottime)
        self._asks, self._answers = LoopEnd(registry.node), LoopEnd(registry.node)  # of this node to itself
        self._links = RouterLinks(registry.view, place.credentials, place.hello, self, nursery, self._asks)
        self.serving = self._serving = Serving(
            registry.view, registry.node, objects, place.notes, self.replies.may_reply, boottime, nursery, registry.barrier
        )
        policy = MirrorPolicy(registry.view, registry.node, place.mirror)
        self.ownership = Ownership(
            registry, volumes, self._serving, place.notes, policy, self._links.send, boottime, objects.take_up, objects.went_away,
            objects, nursery, place.timings, place.threshold,
        )  # fmt: skip
        self.takeover = Takeover(self.ownership, objects.take_up, place.power_off)
        self._serving.also_takes(self._about_ownership)
        self.replies.also_by_word(self.ownership.vouches)
        volumes.tell(self.ownership)
        self._uses = Uses(
            registry, volumes, self.ownership, lambda: list(self._remote.values()), objects.requests, self._serving.forwarded
        )
        self._serving.connect_itself(self._answers)

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, place: Neighbourhood, registry: RegistryClient, volumes: VolumeDriver, objects: OwnObjects
    ) -> AsyncIterator[Neighbours]:
        """Listen, and talk. Errors: ``Invalid`` (the address cannot be bound)."""
        async with trio.open_nursery() as nursery:
            neighbours = cls(place, registry, volumes, objects, nursery)
            nursery.start_soon(neighbours._tick)
            nursery.start_soon(neighbours._asks.run, partial(neighbours._serving.received, neighbours._answers))
            nursery.start_soon(neighbours._answers.run, partial(neighbours.received, neighbours._asks))
            nursery.start_soon(neighbours.takeover.run)
            nursery.start_soon(Burial(registry, volumes, place.notes, neighbours.ownership.in_use).run)
            await neighbours.ownership.wake()
            await nursery.start(neighbours._listen)
            try:
                yield neighbours
            finally:
                with trio.CancelScope(shield=True):
                    await neighbours._serving.stop()
                    await neighbours.ownership.stop()
                nursery.cancel_scope.cancel()

    def movements(self) -> Movements:
        """What has moved and what was forwarded, in numbers."""
        counters = self.ownership.counters
        counters.forwarded = sum(remote.requests for remote in self._remote.values())
        counters.executed = self._serving.executed
        return counters

    async def region(self, object_id: str) -> RemoteRegion:
        """The bytes of an object that another node owns. Errors: as ``RemoteObject.request``."""
        remote = self._remote.get(object_id)
        if remote is None:
            remote = self._remote[object_id] = RemoteObject(
                object_id, self._registry, self._links, self._nursery, boottime, wait_s=self._place.wait_s
            )
        return RemoteRegion(remote, await remote.attach())

    async def look(self, owner: str, object_id: str) -> Attributes | None:
        """What an owner knows of an object; None: what is published counts, or it does not answer within ``LOOK_S``."""
        link = await self._links.soon(owner, LOOK_S)
        if link is None:
            return None
        self._ticket += 1
        ticket = self._ticket
        answered, answer = self._looks[ticket] = trio.Event(), []
        try:
            link.send(Look(object_id, ticket))
            with trio.move_on_after(LOOK_S):
                await answered.wait()
        finally:
            del self._looks[ticket]
        return answer[0] if answer else None

    def received(self, link: Way, message: Message) -> None:
        """What an owner says."""
        if isinstance(message, Reply | Attached | NotAttached):
            remote = self._remote.get(message.object)
            if remote is not None:
                remote.received(link, message)
        elif isinstance(message, Seen) and message.ticket in self._looks:
            answered, answer = self._looks[message.ticket]
            answer.append(message.attributes)
            answered.set()

    def lost(self, link: Way) -> None:
        """A link that this node has dialled has ended."""
        for remote in list(self._remote.values()):
            remote.lost(link)

    def _about_ownership(self, sender: str, message: OwnershipMessage) -> None:
        if isinstance(message, Fenced | Fetched):
            self.takeover.receive(sender, message)
        else:
            self.ownership.received(sender, message)

    async def _listen(self, *, task_status: trio.TaskStatus[None]) -> None:
        await serve(
            self._place.listen,
            self._place.credentials,
            lambda: self._place.hello(Purpose.ROUTER),
            self._serving.serve,
            frame_bytes_max=FRAME_BYTES_MAX,
            admit=self._admit,
            task_status=task_status,
        )

    def _admit(self, peer: Peer, hello: Hello) -> None:
        if hello.purpose is not Purpose.ROUTER:
            raise Denied("this port is for routers", purpose=hello.purpose.value)
        self._registry.view.check_welcome(peer, hello)

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            self.replies.tick()
            self._serving.tick()
            self.ownership.tick()
            if self._place.threshold is not None:
                self._uses.tick(boottime())
            for remote in list(self._remote.values()):
                remote.tick()
