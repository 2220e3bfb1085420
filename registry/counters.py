"""How long the registry takes for its commands, for the daemon's metrics. Pure: times are handed in.

Not thread-safe: written on the trio loop only, without an await.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

COMMAND_BOUNDS_S: tuple[float, ...] = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(slots=True)
class CommandTimes:
    """Commands of one kind that were answered since the start; a refusal is an answer, too."""

    answered: int = 0
    refused: int = 0
    latency_sum_s: float = 0.0
    latency_counts: list[int] = field(default_factory=lambda: [0] * (len(COMMAND_BOUNDS_S) + 1))  # last: above every bound


class RegistryCounters:
    """All commands of one client."""

    def __init__(self) -> None:
        self._of: dict[str, CommandTimes] = {}

    @property
    def commands(self) -> Mapping[str, CommandTimes]:
        """By the command's name, to be read only."""
        return MappingProxyType(self._of)

    def answered(self, command: str, elapsed_s: float, *, refused: bool) -> None:
        """The registry has answered a command ``elapsed_s`` after it was numbered."""
        times = self._of.get(command)
        if times is None:
            times = self._of[command] = CommandTimes()
        times.answered += 1
        times.refused += refused
        times.latency_sum_s += elapsed_s
        times.latency_counts[bisect_left(COMMAND_BOUNDS_S, elapsed_s)] += 1
