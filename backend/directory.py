"""A directory as an object store: for tests, for a single host, for a file system that is durable by itself."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from backend.directory_files import StoreFiles
from backend.settings import BackendSettings
from backend.store import ObjectInfo
from backend.threaded import ThreadedStore
from backend.url import DirectoryUrl
from vpool.errors import Denied, Internal, Unavailable, VPoolError

_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(slots=True)
class _Cursor:
    """Where a listing stands. The try that goes on with ``walk`` takes it; a repeated try starts anew, above ``after``."""

    after: str
    walk: Iterator[ObjectInfo] | None


class DirectoryRequests:
    """Objects as files. Strongly consistent; what ``put`` and ``delete`` have done survives power loss."""

    def __init__(self, root: Path, page_objects: int) -> None:
        """Take hold of the directory; makes the store where the directory is empty or absent."""
        files = StoreFiles(root)
        self._files = files
        self._page_objects = page_objects
        self.check, self.create_bucket, self.delete_bucket = files.check, files.create_bucket, files.delete_bucket
        self.put, self.get, self.size, self.delete, self.close = files.put, files.get, files.size, files.delete, files.close
        self.put_if_absent = files.put_if_absent

    def buckets(self, prefix: str) -> list[str]:
        """All buckets with the prefix, ascending."""
        return [name for name in self._files.buckets() if name.startswith(prefix)]

    def page(self, bucket: str, prefix: str, cursor: _Cursor | None) -> tuple[list[ObjectInfo], _Cursor | None]:
        """One page of a listing; goes on with the walk of the page before, so that no directory is read twice."""
        walk, after = None, ""
        if cursor is not None:
            (walk, cursor.walk), after = (cursor.walk, None), cursor.after
        walk = walk or self._files.walk(bucket, prefix, after)
        page = list(islice(walk, self._page_objects))
        return page, _Cursor(page[-1].name, walk) if len(page) == self._page_objects else None

    def translate(self, error: Exception) -> VPoolError:
        """Words and kinds for what a file system answers."""
        return translate(error)


def translate(error: Exception) -> VPoolError:
    """Turn an error of the file system into ours; total."""
    if not isinstance(error, OSError):
        return Internal("unexpected error of the directory store", error=repr(error))
    details = {"path": error.filename, "errno": errno.errorcode.get(error.errno or 0, str(error.errno))}
    if error.errno in _DENIED:
        return Denied("the file system refuses; check owner, permissions and whether it is mounted read-only", **details)
    if error.errno in _FULL:
        return Unavailable("the file system of the store is full; make room or enlarge it", **details)
    return Unavailable(f"the file system fails: {error.strerror}", **details)


def open_directory(url: DirectoryUrl, settings: BackendSettings) -> ThreadedStore:
    """Take hold of the directory of a store; blocks, needs a trio loop for the store it returns.

    Raises:
        Invalid: the directory belongs to something else.
        Denied: permissions or a read-only file system.
        Unavailable: the file system fails.
    """
    try:
        requests = DirectoryRequests(Path(url.path), settings.list_page_objects)
    except OSError as error:
        raise translate(error) from error
    return ThreadedStore(f"dir:{url.path}", requests, settings)
