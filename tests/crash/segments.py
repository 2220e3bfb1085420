"""Whether files of the log are used again: a test of recycled segments in which none is recycled would show nothing."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

NONCE_OFFSET = 48  # docs/formats/segment.md: new for each use of the file; zero while it is free
NONCE = struct.Struct("<Q")


@dataclass(slots=True)
class Uses:
    """Uses of each file of a log that were seen so far; ``look`` while no daemon runs."""

    again: int = 0
    _last: dict[Path, int] = field(default_factory=dict)

    def look(self, cache: Path) -> None:
        """Count the files that had another use the last time; a cache that was deleted begins anew."""
        now: dict[Path, int] = {}
        for path in cache.rglob("*.seg"):
            with path.open("rb") as file:
                file.seek(NONCE_OFFSET)
                (nonce,) = NONCE.unpack(file.read(NONCE.size))
            now[path] = nonce or self._last.get(path, 0)
        self.again += sum(before not in (0, now[path]) for path, before in self._last.items() if path in now)
        self._last = now
