"""Health codes that an operator has muted, and until when; kept in ``DIR/health-mutes.json``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from admin.watching.health_codes import HEALTH_CODES
from vpool.errors import Invalid, NotFound, Unavailable

log = structlog.get_logger()


class Mutes:
    """A muted code is still shown, but does not count. Used on the trio loop; the file is small."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Read what is there. A file that cannot be read mutes nothing: a problem too many is better than one too few."""
        self._path = path
        self._clock = clock
        self._until = _read(path)

    def current(self) -> dict[str, float | None]:
        """Muted codes, and the unix time at which each ends by itself (None: never)."""
        now = self._clock()
        return {code: until for code, until in sorted(self._until.items()) if until is None or until > now}

    def mute(self, code: str, seconds: float | None) -> None:
        """Mute a code for so long, or for good; durable on return.

        Raises:
            Invalid: there is no such code, or the time is not positive.
            Unavailable: it cannot be written down; nothing has changed.
        """
        if code not in HEALTH_CODES:
            raise Invalid(f"there is no health code {code}; there are: {', '.join(HEALTH_CODES)}")
        if seconds is not None and not 0 < seconds < 1e10:
            raise Invalid("a code is muted for a time above 0 s, as in 30m, 12h or 7d")
        self._write({**self.current(), code: None if seconds is None else self._clock() + seconds})
        log.info("health_muted", code=code, seconds=seconds)

    def unmute(self, code: str) -> None:
        """Let a code count again. NotFound: it is not muted; Unavailable."""
        current = self.current()
        if code not in current:
            raise NotFound(f"{code} is not muted")
        del current[code]
        self._write(current)
        log.info("health_unmuted", code=code)

    def _write(self, until: dict[str, float | None]) -> None:
        fresh = self._path.with_name(f"{self._path.name}.new")
        try:
            with fresh.open("w", encoding="ascii") as file:
                json.dump(until, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise Unavailable(f"{self._path} cannot be written", reason=error.strerror) from None
        self._until = until


def _read(path: Path) -> dict[str, float | None]:
    try:
        found = json.loads(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.info("health_mutes_unreadable", path=str(path), reason=str(error))
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        code: until
        for code, until in found.items()
        if code in HEALTH_CODES and (until is None or (isinstance(until, int | float) and not isinstance(until, bool)))
    }
