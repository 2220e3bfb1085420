"""WSGI filter for the test's Swift: gives the one proxy process a cache in memory, where tempauth keeps its tokens.

Runs in Swift's own environment, one process without workers, so a plain dictionary will do. It has the methods of Swift's
``MemcacheRing`` that tempauth and s3api call.
"""

import time as clock
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class MemoryCache:
    """Keys to (value, time of expiry); expiry None: for ever."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Any, float | None]] = {}

    def get(self, key: str, raise_on_error: bool = False) -> Any:
        value, expires = self._entries.get(key, (None, None))
        if expires is not None and expires <= clock.time():
            del self._entries[key]
            return None
        return value

    def set(
        self,
        key: str,
        value: Any,
        serialize: bool = True,
        time: float = 0,
        min_compress_len: int = 0,
        raise_on_error: bool = False,
    ) -> None:
        self._entries[key] = (value, clock.time() + time if time else None)

    def delete(self, key: str, server_key: str | None = None) -> None:
        self._entries.pop(key, None)

    def incr(self, key: str, delta: int = 1, time: float = 0) -> int:
        value = max(0, int(self.get(key) or 0) + int(delta))
        self.set(key, value, time=time)
        return value

    def decr(self, key: str, delta: int = 1, time: float = 0) -> int:
        return self.incr(key, -delta, time)

    def get_multi(self, keys: Iterable[str], server_key: str) -> list[Any]:
        return [self.get(key) for key in keys]

    def set_multi(
        self, mapping: Mapping[str, Any], server_key: str, serialize: bool = True, time: float = 0, min_compress_len: int = 0
    ) -> None:
        for key, value in mapping.items():
            self.set(key, value, time=time)


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[Application], Application]:
    """Entry point of paste.deploy."""
    cache = MemoryCache()

    def with_cache(application: Application) -> Application:
        def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            environ["swift.cache"] = cache
            return application(environ, start_response)

        return answer

    return with_cache
