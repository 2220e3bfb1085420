"""Kinds of trouble: every seed draws one. Each makes some rare meetings of events frequent."""

from __future__ import annotations

from dataclasses import dataclass

# echo: answers of an owner that loses power come late, while what is sent to it is later still.
# deaf: an owner without a registry stops hearing its peer when its lease is about to run out.
KINDS = (
    "pause",
    "link",
    "oneway",
    "mess",
    "island",
    "registry",
    "outage",
    "slow",
    "kill",
    "power",
    "full",
    "destroy",
    "move",
    "echo",
    "deaf",
)


@dataclass(frozen=True)
class Weather:
    name: str
    weights: tuple[int, ...]  # of KINDS
    period_s: float = 0.45  # mean time between misfortunes
    at_owners: float = 0.4  # how often an owner is hit on purpose
    protected: float = 0.9  # worlds with a DTL
    consent: float = 0.3  # an administrator's, per second, where it is needed
    slow_disk: float = 0.05
    slow_registry: float = 0.1
    double: float = 0.03  # messages that come twice
    clients: int = 2  # per host and object
    asynchronous: float = 0.15  # worlds whose mirrors begin so
    switching: float = 0.1  # worlds in which that is changed


#                            pause link oneway mess island registry outage slow kill power full destroy move echo deaf
MIXED = Weather("mixed", (12, 8, 8, 6, 8, 8, 3, 8, 8, 6, 4, 3, 16, 1, 1))
MOVES = Weather("moves", (6, 4, 4, 4, 2, 6, 3, 12, 6, 4, 4, 1, 40, 1, 1), slow_registry=0.4)
PAUSES = Weather("pauses", (50, 2, 2, 2, 4, 8, 2, 4, 2, 2, 2, 1, 10, 1, 1), at_owners=0.8, slow_disk=0.3, period_s=0.6)
DEATHS = Weather("deaths", (6, 6, 6, 10, 10, 6, 2, 2, 10, 14, 2, 5, 8, 1, 1), at_owners=0.7)
LOOSE = Weather(
    "loose", (6, 4, 6, 40, 6, 20, 1, 2, 6, 6, 1, 3, 6, 1, 1), at_owners=0.5, protected=0.3, consent=0.9, period_s=0.35
)  # fmt: skip
CUT_OFF = Weather("cut off", (4, 6, 6, 4, 4, 30, 20, 2, 4, 4, 2, 2, 6, 1, 1), at_owners=0.7, period_s=0.7)
LATE = Weather("late", (4, 20, 20, 20, 2, 2, 1, 1, 2, 2, 1, 1, 2, 1, 1), at_owners=0.8, period_s=0.3, double=0.5)
STALE = Weather("stale", (2, 0, 2, 20, 0, 5, 0, 0, 4, 4, 0, 0, 0, 60, 0), at_owners=0.9, period_s=0.7, clients=4)
DEAF = Weather("deaf", (2, 0, 2, 4, 0, 4, 0, 0, 2, 2, 0, 0, 2, 0, 60), at_owners=0.9, period_s=1.5, clients=4)
BEHIND = Weather("behind", (4, 6, 6, 10, 10, 10, 1, 2, 10, 10, 2, 5, 8, 1, 1), at_owners=0.7, consent=0.9, asynchronous=1.0)
ALL = (MIXED, MIXED, MOVES, PAUSES, DEATHS, LOOSE, CUT_OFF, LATE, STALE, DEAF)
