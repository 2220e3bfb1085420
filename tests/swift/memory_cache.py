"""WSGI filter for the test's Swift: gives the one proxy process a cache in memory, where tempauth keeps its tokens.

Runs in Swift's own environment, one process without workers, so a plain dictionary will do. It has the methods of Swift's
``MemcacheRing`` that tempauth and s3api call.
"""

import time as clock


class MemoryCache:
    """Keys to (value, time of expiry); expiry None: for ever."""

    def __init__(self):
        self._entries = {}

    def get(self, key, raise_on_error=False):
        value, expires = self._entries.get(key, (None, None))
        if expires is not None and expires <= clock.time():
            del self._entries[key]
            return None
        return value

    def set(self, key, value, serialize=True, time=0, min_compress_len=0, raise_on_error=False):
        self._entries[key] = (value, clock.time() + time if time else None)

    def delete(self, key, server_key=None):
        self._entries.pop(key, None)

    def incr(self, key, delta=1, time=0):
        value = max(0, int(self.get(key) or 0) + int(delta))
        self.set(key, value, time=time)
        return value

    def decr(self, key, delta=1, time=0):
        return self.incr(key, -delta, time)

    def get_multi(self, keys, server_key):
        return [self.get(key) for key in keys]

    def set_multi(self, mapping, server_key, serialize=True, time=0, min_compress_len=0):
        for key, value in mapping.items():
            self.set(key, value, time=time)


def filter_factory(global_conf, **local_conf):
    """Entry point of paste.deploy."""
    cache = MemoryCache()

    def with_cache(application):
        def answer(environ, start_response):
            environ["swift.cache"] = cache
            return application(environ, start_response)

        return answer

    return with_cache
