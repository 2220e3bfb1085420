"""The interface of an object store: the little that vPool needs of one, and what it may not expect.

What a caller may rely on: an object that ``put`` has acknowledged is durable, and is returned whole and unchanged *if* it is
returned. What it may not: that ``get`` finds it at once (Swift), that listings are complete, that two writers of one name see
each other. vPool therefore never writes a name twice with different content, and never learns from a listing or
a 404 what the registry does not know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass

from backend.counters import StoreCounters
from vpool.errors import Invalid


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One line of a listing."""

    name: str
    size_bytes: int


class ObjectStore(ABC):
    """One account at one object store. All methods may run concurrently on one trio loop.

    Errors: ``NotFound`` (bucket or object), ``Denied`` (credentials, permission), ``Unavailable`` (time-out, 5xx, reset: after
    the store's own retries; for a put or delete the outcome is then unknown), ``Invalid`` (a name that the store cannot have),
    ``Conflict`` (bucket not empty), ``Corrupt`` (the store's own checksum differs from what was received or sent).
    """

    url: str  # without credentials; for people
    counters: StoreCounters  # requests, bytes, retries, latency since the start; read on the trio loop

    @abstractmethod
    async def check(self) -> None:
        """Try endpoint, credentials and permission to list buckets; raises what is wrong, in words an operator can use."""

    @abstractmethod
    async def create_bucket(self, bucket: str) -> None:
        """Make a bucket; one that is there and ours is fine."""

    @abstractmethod
    async def delete_bucket(self, bucket: str) -> None:
        """Remove an empty bucket; one that is not there is fine. Conflict if it is not empty."""

    @abstractmethod
    def list_buckets(self) -> AsyncIterator[str]:
        """Names of our buckets (those with the prefix of the URL), ascending; may lag."""

    @abstractmethod
    async def put(self, bucket: str, name: str, data: bytes) -> None:
        """Store a whole object; durable and whole, or an error. The content is checked on its way (MD5/ETag, CRC)."""

    async def put_if_absent(self, bucket: str, name: str, data: bytes) -> bool:
        """Try a conditional put; False: the store says that the object is there.

        For finding out what a store does: nothing in vPool depends on it, since some stores ignore the condition and in others
        several writers win.

        Errors: also Invalid (the store knows no such condition).
        """
        raise Invalid("this store has no conditional put")

    @abstractmethod
    async def get(self, bucket: str, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Bytes [start, start + length) of an object (fewer only where it ends). A short body is retried, then Unavailable."""

    @abstractmethod
    async def size(self, bucket: str, name: str) -> int:
        """Bytes of an object."""

    @abstractmethod
    async def delete(self, bucket: str, name: str) -> None:
        """Remove an object; one that is not there is fine."""

    @abstractmethod
    def list(self, bucket: str, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Objects whose names begin with ``prefix``, ascending; may lag behind puts and deletes."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of connections; nothing is under way any more."""
