"""Exit codes of every command: one table, documented in docs/exit-codes.md."""

from __future__ import annotations

from vpool.errors import (
    Conflict,
    Corrupt,
    Denied,
    Exists,
    Fenced,
    Halted,
    Internal,
    Invalid,
    Moved,
    NoSpace,
    NotFound,
    Unavailable,
    VPoolError,
)

OK = 0
INTERRUPTED = 13  # a second signal cut the clean stop short
LEFT_IN_CACHE = 14  # `vpool serve` has stopped cleanly, `vpool cache evacuate` has ended, but the backend has not got everything
STOP_TIMED_OUT = 15  # `vpool serve`: the stop took too long and was ended
HEALTH_WARNING = 16  # `vpool health`: something is wrong that works
HEALTH_CRITICAL = 17  # `vpool health`: something is wrong that hurts

REGISTRY_UNTOLD = 18  # a daemon has stopped cleanly, but its registry had no majority that could be told everything

EXIT_CODES: dict[type[VPoolError], int] = {
    Internal: 1,
    Invalid: 2,
    NotFound: 3,
    Exists: 4,
    Conflict: 5,
    Denied: 6,
    Unavailable: 7,
    NoSpace: 8,
    Corrupt: 9,
    Halted: 10,
    Moved: 11,
    Fenced: 12,
}


def exit_code(error: BaseException) -> int:
    """The exit code for an error; anything that is not ours is internal."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), EXIT_CODES[Internal])
