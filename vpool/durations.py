"""Times as people write them: ``90s``, ``10m``, ``1h``, ``7d``, or a moment like ``2026-03-01T12:00``. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from vpool.errors import Invalid

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.IGNORECASE)


def parse_duration(text: str) -> float:
    """Seconds of a written duration.

    Raises:
        Invalid: it is not one.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise Invalid(f"{text!r} is not a duration; write a number with s, m, h, d or w, as in 90s, 10m or 7d")
    return float(match[1]) * _SECONDS[match[2].lower()]


def parse_moment(text: str, *, now: float) -> float:
    """Unix time of a moment: so long before ``now``, or a date and time (of this host's zone unless it names another).

    Raises:
        Invalid: it is neither.
    """
    if _DURATION.fullmatch(text.strip()):
        return max(0.0, now - parse_duration(text))
    try:
        moment = datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise Invalid(
            f"{text!r} is no moment; write how long ago, as in 90s, 10m or 7d, or a date and time, as in 2026-03-01T12:00"
        ) from None
    return max(0.0, moment)


def show_moment(at: float) -> str:
    """A unix time as text, in this host's zone."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def show_duration(seconds: float) -> str:
    """A duration for people, rounded: ``350 ms``, ``12 s``, ``3 min``, ``5 h``, ``4 d``."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    for unit, most, size in (("s", 120, 1), ("min", 7200, 60), ("h", 172_800, 3600)):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400:.3g} d"
