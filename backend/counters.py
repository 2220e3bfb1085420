"""What a store has been asked and how it answered, for the daemon's metrics. Pure: times are handed in.

Not thread-safe: written and read on the trio loop only, without an await.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Operation = Literal["check", "create_bucket", "delete_bucket", "list_buckets", "put", "get", "size", "delete", "list"]

OPERATIONS: tuple[Operation, ...] = (
    "check",
    "create_bucket",
    "delete_bucket",
    "list_buckets",
    "put",
    "get",
    "size",
    "delete",
    "list",
)
LATENCY_BOUNDS_S: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(slots=True)
class OperationCounters:
    """Sums since the start for one kind of request. ``requests`` = ``succeeded`` + the sum of ``errors`` + ``cancelled``."""

    requests: int = 0
    succeeded: int = 0
    cancelled: int = 0
    tries: int = 0
    retries: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    latency_sum_s: float = 0.0
    latency_counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))  # last: above every bound
    errors: dict[str, int] = field(default_factory=dict)  # by class name: Unavailable, NotFound, ...
    problem: str = ""  # why the last try failed of those that were to be repeated


class StoreCounters:
    """All counters of one store."""

    def __init__(self) -> None:
        self._of: dict[Operation, OperationCounters] = {operation: OperationCounters() for operation in OPERATIONS}
        self.failing_since_s: float | None = None  # clock of the trio loop; None while the store answers

    @property
    def operations(self) -> Mapping[Operation, OperationCounters]:
        """The counters by operation, to be read only."""
        return MappingProxyType(self._of)

    def ended(self, operation: Operation, elapsed_s: float, error: BaseException | None) -> None:
        """One request has ended, after all its tries; ``error`` None: it succeeded."""
        of = self._of[operation]
        of.requests += 1
        of.latency_sum_s += elapsed_s
        of.latency_counts[bisect_left(LATENCY_BOUNDS_S, elapsed_s)] += 1
        if error is None:
            of.succeeded += 1
        elif isinstance(error, Exception):
            kind = type(error).__name__
            of.errors[kind] = of.errors.get(kind, 0) + 1
        else:
            of.cancelled += 1

    def tried(self, operation: Operation, *, again: bool) -> None:
        """One try begins; ``again``: it is not the first of its request."""
        self._of[operation].tries += 1
        self._of[operation].retries += again

    def failed(self, operation: Operation, problem: str) -> None:
        """One try has failed, and another may mend it."""
        self._of[operation].problem = problem

    def moved(self, operation: Operation, *, sent_bytes: int = 0, received_bytes: int = 0) -> None:
        """Bytes of objects that a request has moved, retries not counted."""
        self._of[operation].sent_bytes += sent_bytes
        self._of[operation].received_bytes += received_bytes
