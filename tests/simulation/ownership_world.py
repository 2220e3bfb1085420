"""Some hosts with one registry on a virtual clock: the shipped machines, simulated links, disks, clocks and misfortune.

Everything that happens is an event on one heap, drawn from one seed. Messages are lost, late, doubled and overtaken; links are
cut in one direction or both; hosts pause between any two of their events, are killed, lose power, come back or never do; their
clocks run at different rates; their disks fill; the registry is away. What must hold is in ``ownership_truth``.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any
from zlib import crc32

from objectrouter.forwarder import Forwarder
from objectrouter.handover_source import HandoverSource
from objectrouter.handover_target import HandoverTarget
from objectrouter.owned import OwnedObject
from registry import DtlState, Head, LeaseTimings, ObjectRecord
from tests.simulation.ownership_node import Host
from tests.simulation.ownership_registry import LinearRegistry
from tests.simulation.ownership_truth import Truth
from tests.simulation.ownership_weather import ALL, KINDS, Weather
from volumedriver import Consent, DtlSender, DtlStore, DtlTimings, Lineage, TailRecord, Thief

LEASE = LeaseTimings(lease_s=2.4, margin_s=0.6, renew_s=0.8, sighting_s=1.7)
DTL = DtlTimings(
    ping_s=0.4, patience_s=1.0, resend_s=0.3, retry_s=0.5, word_s=1.2, margin_s=0.3, window_records=12,
    lag_bytes=6, lag_s=0.6,  # a record is a byte
)  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """What is simulated: the shipped classes, or mutants of them."""

    owned: type[OwnedObject] = OwnedObject
    forwarder: type[Forwarder] = Forwarder
    source: type[HandoverSource] = HandoverSource
    target: type[HandoverTarget] = HandoverTarget
    sender: type[DtlSender] = DtlSender
    store: type[DtlStore] = DtlStore
    thief: type[Thief] = Thief
    restart_takes_epoch: bool = True
    cut_at_head: bool = True


@dataclass(frozen=True, slots=True)
class Tlog:
    """An object of the backend."""

    first_lsn: int
    last_lsn: int
    records: tuple[TailRecord, ...]
    previous: tuple[str, int, int] | None


@dataclass(slots=True)
class Faults:
    """Rates, and what is wrong at the moment."""

    loss: float = 0.01
    double: float = 0.03
    slow: float = 0.05
    slow_disk: float = 0.05
    slow_registry: float = 0.1
    calm: bool = False  # no misfortune
    stalled: dict[tuple[str, str], float] = field(default_factory=dict)  # links on which nothing arrives before a time
    away: set[tuple[str, str]] = field(default_factory=set)  # links that are cut; "registry" is an end, too


class World:
    def __init__(
        self,
        seed: int,
        parts: Parts | None = None,
        weather: Weather | None = None,
        *,
        registry: type[LinearRegistry] = LinearRegistry,
    ) -> None:
        self.random = Random(seed)
        self.parts = parts or Parts()
        self.weather = weather or self.random.choice(ALL)
        self.now = 0.0
        self.trace = 0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self.backend: dict[tuple[str, int, int], Tlog] = {}
        self._contents: dict[tuple[str, int, int], dict[int, int]] = {}
        self.faults = Faults(
            double=self.weather.double, slow_disk=self.weather.slow_disk, slow_registry=self.weather.slow_registry
        )
        self.value = 0
        size = self.random.choice((3, 3, 3, 4, 5))
        objects = [f"{number:032x}" for number in range(1, self.random.choice((1, 1, 2)) + 1)]
        self.dtl = self.random.random() < self.weather.protected
        modes = Random(f"modes of {seed}")  # of its own: the rest of a world does not depend on it
        self.asynchronous = modes.random() < self.weather.asynchronous
        self.switches = modes if modes.random() < self.weather.switching else None
        self.truths: dict[str, Truth] = {}
        self.registry = registry(self, objects)
        self.truths |= {object_id: Truth(self, object_id) for object_id in objects}
        self.registry_away = False
        self.by_threshold = True
        self.hosts = {name: Host(self, name) for name in [f"n{number}" for number in range(size)]}
        for host in self.hosts.values():
            self.at(self.random.random() * 0.1, host.start)
        self.at(1.0, self._misfortune)
        self.at(2.0, self._administrator)
        if self.switches is not None:
            self.at(1.0, self._switch)

    @property
    def lag_records(self) -> int:
        """How far an asynchronous peer may be behind."""
        return DTL.lag_bytes

    # -- time ------------------------------------------------------------------------------------------------------------

    def at(self, delay: float, what: Callable[..., None], *args: Any) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay, self._number, what, args))

    def run_until(self, end: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= end:
            self.now, _, what, args = heapq.heappop(heap)
            self.events += 1
            what(*args)
        self.now = end

    def note(self, text: str) -> None:
        """Into the trace, whose checksum tells two runs apart."""
        self.trace = crc32(f"{self.now:.9f} {text}".encode(), self.trace)

    # -- links -----------------------------------------------------------------------------------------------------------

    def cut(self, one: str, two: str) -> bool:
        return (one, two) in self.faults.away

    def delay(self) -> float:
        slow = self.random.random() < self.faults.slow
        return 0.0005 + self.random.random() * (0.5 if slow else 0.004)

    def registry_delay(self) -> float:
        slow = self.random.random() < self.faults.slow_registry
        return 0.0005 + self.random.random() * (0.8 if slow else 0.01)

    def disk_delay(self) -> float:
        slow = self.random.random() < self.faults.slow_disk
        return 0.0003 + self.random.random() * (0.4 if slow else 0.006)

    def send(self, sender: str, receiver: str, message: object) -> None:
        target = self.hosts[receiver]
        if sender == receiver:
            target.later(0.00001, target.receive, sender, message)
            return
        faults, random = self.faults, self.random
        if self.cut(sender, receiver) or random.random() < faults.loss:
            return
        stalled_s = max(0.0, faults.stalled.get((sender, receiver), 0.0) - self.now)
        self.at(self.delay() + stalled_s, self._arrive, sender, target, message)
        if random.random() < faults.double:
            late_s = 3.0 if random.random() < 0.2 else 0.4
            self.at(self.delay() + random.random() * late_s, self._arrive, sender, target, message)

    def _arrive(self, sender: str, target: Host, message: object) -> None:
        if not self.cut(sender, target.name):
            target.step(target.life, target.receive, sender, message, shuffle=True)

    # -- backend ---------------------------------------------------------------------------------------------------------

    def put(self, name: tuple[str, int, int], tlog: Tlog) -> None:
        there = self.backend.setdefault(name, tlog)
        if there != tlog:
            self.truths[name[0]].fail(f"the name {name[1:]} is written twice with different content")

    def content(self, object_id: str, head: Head | None) -> dict[int, int]:
        """Block → value as of a head."""
        if head is None:
            return {}
        name: tuple[str, int, int] | None = (object_id, head.tlog.epoch, head.tlog.number)
        chain = []
        while name is not None and name not in self._contents:
            chain.append(name)
            name = self.backend[name].previous
        content = self._contents[name] if name is not None else {}
        for name in reversed(chain):
            content = content | {record.payload[0]: record.payload[1] for record in self.backend[name].records}  # type: ignore[index]
            self._contents[name] = content
        return dict(content)

    def head_lsn(self, object_id: str, head: Head | None) -> int:
        if head is None:
            return 0
        tlog = self.backend.get((object_id, head.tlog.epoch, head.tlog.number))
        return tlog.last_lsn if tlog is not None else 0

    # -- registry --------------------------------------------------------------------------------------------------------

    def registry_moved(self) -> None:
        state = self.registry.now
        self.note(f"commit {state.index}")
        for host in self.hosts.values():
            if not self.cut("registry", host.name):
                self.at(self.registry_delay(), host.step, host.life, host.see, state.index)

    def durable_at_peer(self, peer: str, object_id: str) -> tuple[Lineage, int] | None:
        return self.hosts[peer].durable(object_id) if peer in self.hosts else (Lineage(), 0)

    # -- misfortune ------------------------------------------------------------------------------------------------------

    def _misfortune(self) -> None:
        if self.faults.calm:
            return
        random = self.random
        host = random.choice(list(self.hosts.values()))
        if random.random() < self.weather.at_owners:
            host = self.hosts.get(self.registry.now.objects[random.choice(list(self.truths))].owner, host)
        what = random.choices(KINDS, self.weather.weights)[0]
        for_s = random.random() ** 2 * 5.0
        self.note(f"{what} {host.name}")
        if what == "pause":
            host.pause(for_s)
        elif what in ("link", "oneway"):
            other = random.choice([name for name in self.hosts if name != host.name])
            self._cut([(host.name, other)] + ([(other, host.name)] if what == "link" else []), for_s)
        elif what == "echo":
            self._echo(host)
        elif what == "deaf":
            self._deaf(host.name)
        elif what == "mess":
            self._mess(host.name)
        elif what == "island":  # everybody but the registry, or that too
            ends = [name for name in self.hosts if name != host.name] + (["registry"] if random.random() < 0.6 else [])
            self._cut([pair for end in ends for pair in ((end, host.name), (host.name, end))], for_s)
        elif what == "registry":
            self._cut([("registry", host.name), (host.name, "registry")], for_s)
        elif what == "outage":
            self.registry_away = True
            self.at(for_s, self._registry_back)
        elif what == "slow":
            host.slow_until = self.now + for_s
        elif what in ("kill", "power"):
            host.crash(power=what == "power")
            self.at(random.random() * (6.0 if random.random() < 0.5 else 0.3), host.start)
        elif what == "full":
            host.full_until = self.now + for_s
        elif what == "destroy":
            if sum(not other.destroyed for other in self.hosts.values()) > 2:
                host.destroy()
        else:
            host.want(random.choice(list(self.truths)))
        self.at(random.expovariate(1 / self.weather.period_s), self._misfortune)

    def _cut(self, pairs: list[tuple[str, str]], for_s: float) -> None:
        fresh = [pair for pair in pairs if pair not in self.faults.away]
        self.faults.away.update(fresh)
        self.at(for_s, self.faults.away.difference_update, fresh)

    def _mess(self, name: str) -> None:
        """Each direction of each link of a host is cut, stalls or works, for a time of its own."""
        for other in self.hosts:
            for pair in ((name, other), (other, name)):
                for_s = self.random.random() * 5.0
                how = self.random.random()
                if other != name and how < 0.15:
                    self._cut([pair], for_s)
                elif other != name and how < 0.7:
                    self.faults.stalled[pair] = self.now + for_s

    def _echo(self, owner: Host) -> None:
        for other in self.hosts:
            if other != owner.name:
                self.faults.stalled[owner.name, other] = self.now + 0.8 + self.random.random()
                self.at(0.05, self.faults.stalled.update, {(other, owner.name): self.now + 1.0 + self.random.random()})
        power_at = 0.05 + self.random.random() * 0.1
        self.at(power_at, lambda: owner.crash(power=True))
        self.at(power_at + self.random.random() * 0.3, owner.start)

    def _deaf(self, name: str) -> None:
        self._cut([("registry", name), (name, "registry")], 5.0)
        peers = {record.dtl.peer for record in self.registry.now.objects.values() if record.owner == name}
        for peer in sorted(peers - {""}):
            begins_s = 1.8 + self.random.random() * 1.6
            self.at(begins_s, self.faults.stalled.update, {(peer, name): self.now + begins_s + 1.5})

    def _registry_back(self) -> None:
        self.registry_away = False

    def _administrator(self) -> None:
        """Gives consent where nobody else can help."""
        for object_id in self.truths:
            record = self.registry.now.objects[object_id]
            owner = self.hosts.get(record.owner)
            if owner is None or not self._needs_consent(record, owner):
                continue
            able = [host for host in self.hosts.values() if host.can_steal(object_id) and host is not owner]
            if able:
                self.note(f"consent {object_id[-2:]}")
                self.random.choice(able).steal(object_id, Consent(True, owner.destroyed))
        self.at(1.0, self._administrator)

    def _switch(self) -> None:
        """The way in which objects are mirrored is changed, at any moment."""
        assert self.switches is not None
        self.asynchronous = not self.asynchronous
        self.at(0.2 + self.switches.random() * 2.0, self._switch)

    def _needs_consent(self, record: ObjectRecord, owner: Host) -> bool:
        expired = self.registry.now.nodes[record.owner].expired
        if record.dtl.state is DtlState.IN_SYNC:
            return expired and owner.destroyed and self.hosts[record.dtl.peer].destroyed
        return expired and (owner.destroyed or self.random.random() < self.weather.consent)

    # -- the whole -------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        self.faults = Faults(loss=0.0, double=0.0, slow=0.0, slow_disk=0.0, slow_registry=0.0, calm=True)
        self.registry_away = False
        self.registry.heal()
        for host in self.hosts.values():
            host.full_until = host.slow_until = 0.0
            if not host.destroyed:
                self.at(0.0, host.start)

    def run(self, trouble_s: float = 8.0, heal_s: float = 14.0) -> World:
        self.run_until(trouble_s)
        self.heal()
        goal = self.now + heal_s
        marks = {host.name: host.completions() for host in self.hosts.values() if not host.destroyed}
        while self.now < goal:
            self.run_until(self.now + 0.5)
            if all(self._goes_on(name, mark) for name, mark in marks.items()):
                return self
        stuck = [name for name, mark in marks.items() if not self._goes_on(name, mark)]
        raise AssertionError(f"clients on {stuck} are stuck: {[self.registry.now.objects[key] for key in self.truths]}")

    def _goes_on(self, name: str, mark: dict[str, int]) -> bool:
        now = self.hosts[name].completions()
        return all(now[object_id] >= mark[object_id] + 3 for object_id in mark)
