"""A host of the simulated world: what the daemon's shell does with the machines, on a simulated disk, and clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from objectrouter.thresholds import Threshold
from registry import Command, Envelope, Expire, Lease, NodeRecord, ObjectRecord, Refusal, RegisterNode, RenewLease, Watcher
from tests.simulation.ownership_disk import Disk
from tests.simulation.ownership_place import Place
from volumedriver import Consent, Lineage, may_be_stolen

if TYPE_CHECKING:
    from tests.simulation.ownership_world import World

TICK_S = 0.1
THRESHOLD = Threshold(forwards=30, half_life_s=2.0, again_s=1.0, ratio=1.3)


class Host:
    def __init__(self, world: World, name: str) -> None:
        self.world, self.name, self.random = world, name, world.random
        self.rate = 1.0 + (world.random.random() - 0.5) * 0.06
        self.offset = world.random.random() * 1000.0
        self.disk = Disk()
        self.life = 0
        self.up = self.destroyed = False
        self.paused_until = self.slow_until = self.full_until = 0.0
        self.incarnation = 0
        self.done: dict[str, int] = dict.fromkeys(world.truths, 0)
        self._clear()

    def _clear(self) -> None:
        from tests.simulation.ownership_world import LEASE

        self.registered = False
        self.sequence = 0
        self.seen = 0
        self.lease = Lease(LEASE)
        self.watcher = Watcher(LEASE)
        self.renewal = 0
        self.places: dict[str, Place] = {}
        self._expiring: set[tuple[str, int, int]] = set()

    # -- time ------------------------------------------------------------------------------------------------------------

    @property
    def clock(self) -> float:
        """CLOCK_BOOTTIME of this host."""
        return self.offset + self.world.now * self.rate

    @property
    def full(self) -> bool:
        return self.world.now < self.full_until

    def later(self, delay: float, what: Callable[..., None], *args: Any) -> None:
        """An event of this life."""
        self.world.at(delay / self.rate, self.step, self.life, what, *args)

    def step(self, life: int, what: Callable[..., None], *args: Any, shuffle: bool = False) -> None:
        """``shuffle``: what comes from several links is read in any order after a pause."""
        if life != self.life or not self.up:
            return
        pause = self.paused_until - self.world.now
        if pause > 0:
            self.world.at(pause + 0.0001 + (self.random.random() * 0.005 if shuffle else 0.0), self.step, life, what, *args)
        else:
            what(*args)

    def pause(self, for_s: float) -> None:
        self.paused_until = max(self.paused_until, self.world.now + for_s)

    # -- life ------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self.up or self.destroyed:
            return
        self.up = True
        self.life += 1
        self.paused_until = 0.0
        self._clear()
        self.incarnation += 1
        self.places = {object_id: Place(self, object_id) for object_id in self.world.truths}
        self.world.note(f"start {self.name} {self.incarnation}")
        self.submit(RegisterNode(self.name, "", self.incarnation), self._registered)

    def crash(self, *, power: bool) -> None:
        if self.up:
            self.up = False
            self.life += 1
            if power:
                self.disk.power_cut(self.random)

    def destroy(self) -> None:
        self.crash(power=True)
        self.destroyed = True

    def begin_anew(self) -> None:
        """The registry has ended this incarnation: whatever it was serving it serves no more, and a new one begins."""
        for place in self.places.values():
            place.fence()
        self.crash(power=False)
        self.world.at(0.01, self.start)

    def _registered(self, outcome: Any) -> None:
        if isinstance(outcome, Refusal):
            return self.begin_anew()
        self.registered = True
        self._renew()
        self.tick()
        for place in self.places.values():
            place.begin()
        return None

    def _renew(self) -> None:
        if self.lease.due(self.clock):
            self.renewal += 1
            number = self.renewal
            self.lease.sent(number, self.clock)

            def renewed(outcome: Any) -> None:
                if not isinstance(outcome, Refusal):
                    self.lease.committed(number)
                    for place in self.places.values():
                        place.changed()

            self.submit(RenewLease(number), renewed, once=True)
        self.later(0.2, self._renew)

    def tick(self) -> None:
        for place in self.places.values():
            place.tick()
        for node, number in self.watcher.expirable(self.clock):
            record = self.nodes()[node]
            key = (node, record.incarnation, number)
            if not record.expired and record.lease_number == number and key not in self._expiring:
                self._expiring.add(key)
                self.submit(Expire(node, record.incarnation, number), lambda outcome: None)
        self.later(TICK_S, self.tick)

    # -- registry --------------------------------------------------------------------------------------------------------

    def objects(self) -> dict[str, ObjectRecord]:
        return self.world.registry.states[self.seen].objects

    def nodes(self) -> dict[str, NodeRecord]:
        return self.world.registry.states[self.seen].nodes

    def see(self, index: int) -> None:
        """The local replica has come to this commit."""
        if index <= self.seen:
            return
        self.seen = index
        now = self.clock
        self.watcher.saw_commit(now)
        for node in self.nodes().values():
            if node.id == self.name:
                continue
            if node.expired:
                self.watcher.forget(node.id)
            else:
                self.watcher.renewed(node.id, node.lease_number, now, node.incarnation)
        for place in self.places.values():
            place.see()

    def refresh(self) -> None:
        """A barrier: what has been committed by now shows."""
        if not self.world.cut("registry", self.name) and not self.world.cut(self.name, "registry"):
            self.later(self.world.registry_delay(), self.see, self.world.registry.now.index)

    def submit(self, command: Command, done: Callable[[Any], None], *, once: bool = False) -> None:
        """Until the outcome is known, under one number. ``once``: it is not worth being repeated."""
        self.sequence += 1
        envelope = Envelope(self.name, self.incarnation, self.sequence, command)
        answered: list[bool] = []
        self._ask(envelope, done, answered, once)

    def _ask(self, envelope: Envelope, done: Callable[[Any], None], answered: list[bool], once: bool) -> None:
        if answered:
            return
        world = self.world
        if not world.cut(self.name, "registry") and self.random.random() >= world.faults.loss:
            slow = self.random.random() * 4.0 if world.now < self.slow_until else 0.0
            world.at(world.registry_delay() + slow, self._apply, self.life, envelope, done, answered)
        if not once:
            self.later(0.6 + self.random.random() * 0.6, self._ask, envelope, done, answered, False)

    def _apply(self, life: int, envelope: Envelope, done: Callable[[Any], None], answered: list[bool]) -> None:
        """In the registry; the host that asked may be gone."""
        world = self.world
        if world.registry_away:
            return

        def answer(outcome: Any, index: int) -> None:
            if not world.cut("registry", self.name) and self.random.random() >= world.faults.loss:
                world.at(world.registry_delay(), self.step, life, self._outcome, outcome, index, done, answered)

        world.registry.submit(envelope, answer)

    def _outcome(self, outcome: Any, index: int, done: Callable[[Any], None], answered: list[bool]) -> None:
        if answered:
            return
        answered.append(True)
        if isinstance(outcome, Refusal) and outcome.kind == "Fenced" and "new owner" not in outcome.message:
            self.begin_anew()
            return
        self.see(index)
        done(outcome)

    # -- messages and wishes ----------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Any) -> None:
        if self.registered:
            self.places[message.object].receive(sender, message)

    def want(self, object_id: str) -> None:
        """An administrator wants the object here."""
        if self.up and self.registered:
            self.places[object_id].want(by_command=True)

    def can_steal(self, object_id: str) -> bool:
        if not (self.up and self.registered and self.world.now >= self.paused_until):
            return False
        record = self.objects()[object_id]
        thief = self.places[object_id].thief
        return (thief is None or not thief.is_submitted) and may_be_stolen(record, self.nodes().get(record.owner), self.name)

    def steal(self, object_id: str, consent: Consent) -> None:
        self.places[object_id].steal(consent)

    # -- checks ----------------------------------------------------------------------------------------------------------

    def durable(self, object_id: str) -> tuple[Lineage, int] | None:
        return None if self.destroyed else self.disk.durable(object_id)

    def completions(self) -> dict[str, int]:
        return dict(self.done)
