"""What is in one log's part of the backend, by its names; only repair lists. Pure but for ``list_log``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from backend import ObjectStore
from volumedriver import Place
from vpool.errors import NotFound

_NAME = re.compile(r"(sco|tlog|map)/([0-9a-f]{16})/([0-9a-f]{16})")

Numbered = tuple[int, int]  # epoch, number


@dataclass(slots=True)
class LogListing:
    """The objects of one volume or log of files. Listings may lag: what is here is there, what is not may be."""

    born: bool = False
    scos: dict[Numbered, int] = field(default_factory=dict)  # bytes; combined objects are among them
    tlogs: set[Numbered] = field(default_factory=set)
    maps: dict[Numbered, int] = field(default_factory=dict)  # bytes
    strange: int = 0

    @property
    def epoch_max(self) -> int:
        """The highest epoch that any name has; 0 without one."""
        return max((epoch for epoch, _ in [*self.scos, *self.tlogs, *self.maps]), default=0)

    @property
    def objects(self) -> int:
        """How many there are."""
        return self.born + len(self.scos) + len(self.tlogs) + len(self.maps) + self.strange

    def add(self, name: str, size_bytes: int) -> None:
        """Take up one name, without the log's prefix."""
        match = _NAME.fullmatch(name)
        if match is None:
            self.born |= name == "volume.json"
            self.strange += name != "volume.json"
            return
        key = int(match[2], 16), int(match[3], 16)
        if match[1] == "sco":
            self.scos[key] = size_bytes
        elif match[1] == "tlog":
            self.tlogs.add(key)
        else:
            self.maps[key] = size_bytes


async def list_log(store: ObjectStore, place: Place) -> LogListing:
    """All objects of a log; an empty listing if its bucket is not there. Unavailable, Denied."""
    listing = LogListing()
    try:
        async for info in store.list(place.bucket, place.prefix):
            listing.add(info.name[len(place.prefix) :], info.size_bytes)
    except NotFound:
        return LogListing()
    return listing
