"""Rows of the table: what was measured, against what, and whether the target was met. Pure but for ``alternate``, which calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """``at_least`` / ``at_most``: a ratio to the reference if the row has one, else a value in the row's unit."""

    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        """Whether a ratio (or a value) is within the target."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def text(self, *, ratio: bool) -> str:
        """As the table shows it."""
        times = " ×" if ratio else ""
        if self.at_least is not None:
            return f"≥ {self.at_least:,g}{times}"
        if self.at_most is not None:
            return f"≤ {self.at_most:,g}{times}"
        return "–"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    key: str
    what: str
    unit: str
    runs: list[float]
    target: Target
    reference: str = ""  # what it is compared with; "" for a plain value
    reference_runs: list[float] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)  # what a reader needs to judge it: sizes, counts, latencies

    @property
    def value(self) -> float:
        return median(self.runs)

    @property
    def reference_value(self) -> float | None:
        return median(self.reference_runs) if self.reference_runs else None

    @property
    def ratio(self) -> float | None:
        """Median over median of the reference."""
        reference = self.reference_value
        return None if reference is None else self.value / reference

    @property
    def met(self) -> bool:
        return self.target.met(self.ratio if self.ratio is not None else self.value)

    def as_dict(self) -> dict[str, Any]:
        """For the JSON file: all fields, and what follows from them."""
        return {**asdict(self), "value": self.value, "ratio": self.ratio, "met": self.met}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Row:
        """A row read back from the JSON file."""
        known = {key: value for key, value in fields.items() if key not in ("value", "ratio", "met")}
        return cls(**{**known, "target": Target(**fields["target"])})


def alternate(times: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Call the measures in turn, ``times`` rounds; every other round in reverse order. One list of results per measure."""
    results: list[list[float]] = [[] for _ in measures]
    order = list(range(len(measures)))
    for round_number in range(times):
        for index in order if round_number % 2 == 0 else reversed(order):
            results[index].append(measures[index]())
    return results


def shown(value: float, unit: str) -> str:
    """A value with its unit, as people read it."""
    if unit == "B/s":
        return f"{value / (1 << 20):,.0f} MiB/s"
    if unit == "1/s":
        return f"{value:,.0f} /s"
    if unit == "MiB":
        return f"{value:,.0f} MiB"
    return f"{value:,.2f} {unit}".rstrip()
