"""What was found. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Verdict(str, Enum):
    """How a finding is meant."""

    GOOD = "good"
    NOTE = "note"  # worth knowing
    WARNING = "warning"  # it works, slower or with less safety than it could
    PROBLEM = "problem"  # vPool will not work, or not keep its promises


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    area: str  # disk, clock, fuse, machine, backend, advice
    name: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass
class Report:
    """All findings, and the figures behind them by name with their unit last."""

    checks: list[Check] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def add(self, area: str, name: str, verdict: Verdict, found: str, advice: str = "") -> None:
        """A finding."""
        self.checks.append(Check(area, name, verdict, found, advice))

    @property
    def problems(self) -> list[Check]:
        return [check for check in self.checks if check.verdict is Verdict.PROBLEM]


def quantile(values: list[float], part: float) -> float:
    """The value that ``part`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
