"""What would be gone with a node: told to the registry with each renewal, so that others can say how much it was. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from registry import DtlState, Unsaved


@dataclass(frozen=True, slots=True)
class OpenLog:
    """A log that is open here."""

    dirty_bytes: int  # acknowledged, not safe in the backend
    oldest_dirty_age_s: float
    dtl: DtlState


def unsaved(logs: Iterable[OpenLog], not_open: int, now_ms: int) -> Unsaved:
    """The sum. ``not_open``: logs of objects of this node that are not open, of which nothing is known here."""
    total = unprotected = 0
    age_s = 0.0
    for log in logs:
        if not log.dirty_bytes:
            continue
        total += log.dirty_bytes
        age_s = max(age_s, log.oldest_dirty_age_s)
        if log.dtl is not DtlState.IN_SYNC:
            unprotected += log.dirty_bytes
    return Unsaved(now_ms, total, unprotected, round(age_s * 1000), not_open)
