"""Files under a directory that is a store: durable puts, temporary files of dead processes, walks in order. Synchronous, no trio.

Layout, written down in docs/backends.md: ``.vpool-store`` (marker), ``.tmp/<id>`` (unfinished files of one process) beside
``.tmp/<id>.lock`` (held while that process lives), ``<bucket>/<name>``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from backend.store import ObjectInfo
from vpool.durable import sync_directory
from vpool.errors import Conflict, Invalid, NotFound, Unavailable

MARKER = ".vpool-store"
MARKER_CONTENT = b"vpool directory store, format 1\n"
TEMPORARY = ".tmp"
_FOREIGN_OK = {MARKER, TEMPORARY, "lost+found"}


class StoreFiles:
    """One process's hold on the directory. All methods may be called from several threads at once."""

    def __init__(self, root: Path) -> None:
        """Take hold of ``root``: make it a store if it is empty or absent, clean up after dead processes.

        Raises:
            Invalid: the directory belongs to something else, or its parent does not exist.
            OSError: the file system refuses.
        """
        self.root = root
        self._durable: set[Path] = set()  # directories whose own entry is known to be durable; grows with the epochs in use
        self._lock = threading.Lock()
        self._adopt()
        self._session, self._held = self._open_session()
        self._sweep()

    def close(self) -> None:
        """Give up the hold; unfinished files go."""
        shutil.rmtree(self._session, ignore_errors=True)
        with contextlib.suppress(OSError):  # its file system may be away or read-only by now
            os.unlink(f"{self._session}.lock")
        os.close(self._held)

    def check(self) -> None:
        """Raise Unavailable if the directory is not the store any more, as when its file system is not mounted."""
        try:
            content = (self.root / MARKER).read_bytes()
        except FileNotFoundError:
            raise Unavailable(
                "the directory is no vPool store any more; is its file system mounted?", path=str(self.root)
            ) from None
        if content != MARKER_CONTENT:
            raise Invalid("the directory is a vPool store of another format; use the release that made it", path=str(self.root))

    def create_bucket(self, bucket: str) -> None:
        """Make a bucket, durable when it returns."""
        self.check()
        with contextlib.suppress(FileExistsError):
            (self.root / bucket).mkdir()
        sync_directory(self.root)

    def delete_bucket(self, bucket: str) -> None:
        """Remove a bucket and the empty directories in it; a file that appears meanwhile keeps it."""
        for path, _, files in os.walk(self.root / bucket, topdown=False, onerror=_raise_unless_absent):
            if files:
                raise Conflict("the bucket is not empty", bucket=bucket)
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno == errno.ENOTEMPTY:
                    raise Conflict("the bucket is not empty", bucket=bucket) from None
                raise
            with self._lock:
                self._durable.discard(Path(path))
        sync_directory(self.root)

    def buckets(self) -> list[str]:
        """Names of all buckets, ascending."""
        self.check()
        with os.scandir(self.root) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """Write a whole file, then give it its name; both are durable when it returns."""
        target = self.root / bucket / name
        unfinished = self._session / secrets.token_hex(8)
        try:
            with open(unfinished, "xb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                os.fsync(file.fileno())
            for again in (True, True, False):  # a directory may go, empty, between its making and the rename
                self._make_directories(bucket, target.parent)
                try:
                    os.rename(unfinished, target)
                    break
                except IsADirectoryError:
                    raise Invalid(
                        "the object's name is the beginning of other objects' names", bucket=bucket, name=name
                    ) from None
                except FileNotFoundError:
                    with self._lock:
                        self._durable.clear()
                    if not again:
                        raise
            sync_directory(target.parent)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)

    def put_if_absent(self, bucket: str, name: str, data: bytes) -> bool:
        """The same unless the name is taken; whether it was free. One of several writers gets it."""
        target = self.root / bucket / name
        self._make_directories(bucket, target.parent)
        unfinished = self._session / secrets.token_hex(8)
        try:
            unfinished.write_bytes(data)
            os.link(unfinished, target)
        except FileExistsError:
            return False
        finally:
            unfinished.unlink(missing_ok=True)
        sync_directory(target.parent)
        return True

    def get(self, bucket: str, name: str, start: int, length: int | None) -> bytes:
        """Read a part of a file."""
        with self._open(bucket, name) as file:
            size = os.fstat(file.fileno()).st_size
            wanted = max(0, size - start if length is None else min(length, size - start))
            file.seek(start)
            data = file.read(wanted)
        if len(data) != wanted:
            raise Unavailable("short read", bucket=bucket, name=name, wanted=wanted, got=len(data))
        return data

    def size(self, bucket: str, name: str) -> int:
        """Bytes of a file."""
        with self._open(bucket, name) as file:
            return os.fstat(file.fileno()).st_size

    def delete(self, bucket: str, name: str) -> None:
        """Remove a file; its absence is durable when it returns."""
        path = self.root / bucket / name
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self.check()
            return
        sync_directory(path.parent)

    def walk(self, bucket: str, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """Objects with the prefix and above ``after``, ascending by name; holds the names of one directory per level."""
        self._require_bucket(bucket)
        yield from self._walk(self.root / bucket, "", prefix, after)

    def _walk(self, directory: Path, path: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        try:
            with os.scandir(directory) as entries:
                names = sorted(path + entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "") for entry in entries)
        except FileNotFoundError:
            return
        for name in names:
            if name.endswith("/"):
                wanted = name.startswith(prefix) or prefix.startswith(name)
                if wanted and (name > after or after.startswith(name)):
                    yield from self._walk(directory / name[len(path) : -1], name, prefix, after)
            elif name.startswith(prefix) and name > after:
                with contextlib.suppress(FileNotFoundError):
                    yield ObjectInfo(name, os.stat(directory / name[len(path) :]).st_size)

    def _open(self, bucket: str, name: str) -> FileIO:
        try:
            return open(self.root / bucket / name, "rb", buffering=0)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._require_bucket(bucket)
            raise NotFound("no such object", bucket=bucket, name=name) from None

    def _require_bucket(self, bucket: str) -> None:
        if not (self.root / bucket).is_dir():
            self.check()
            raise NotFound("no such bucket", bucket=bucket)

    def _make_directories(self, bucket: str, directory: Path) -> None:
        """Make the directories of an object, each durable in its parent, whoever made it."""
        with self._lock:
            if directory in self._durable:
                return
        self._require_bucket(bucket)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise Invalid("a part of the object's name is an object itself", bucket=bucket, directory=directory.name) from None
        bucket_path = self.root / bucket
        step = directory
        while step != bucket_path:
            sync_directory(step.parent)
            step = step.parent
        with self._lock:
            self._durable.add(directory)

    def _adopt(self) -> None:
        """Mark an empty directory as a store; refuse one that is something else's."""
        if not self.root.parent.is_dir():
            raise Invalid(
                "the parent of the store's directory does not exist; make it, or mount what belongs there", path=str(self.root)
            )
        with contextlib.suppress(FileExistsError):
            self.root.mkdir()
            sync_directory(self.root.parent)
        if not self.root.is_dir():
            raise Invalid("the path of the store is not a directory", path=str(self.root))
        if not (self.root / MARKER).exists():
            foreign = [name for name in os.listdir(self.root) if name not in _FOREIGN_OK and not name.startswith(MARKER)]
            if foreign:
                raise Invalid(
                    "the directory is not empty and no vPool store; name an empty or a new one",
                    path=str(self.root),
                    found=foreign[0],
                )
            unfinished = self.root / f"{MARKER}.{secrets.token_hex(8)}"
            with open(unfinished, "xb") as file:
                file.write(MARKER_CONTENT)
                file.flush()
                os.fsync(file.fileno())
            os.rename(unfinished, self.root / MARKER)
            sync_directory(self.root)
        self.check()

    def _open_session(self) -> tuple[Path, int]:
        """Make this process's place for unfinished files, and hold its lock."""
        temporary = self.root / TEMPORARY
        temporary.mkdir(exist_ok=True)
        while True:
            session = temporary / secrets.token_hex(8)
            lock = os.open(f"{session}.lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:  # else a sweep took it between making and locking
                session.mkdir()
                return session, lock
            os.close(lock)

    def _sweep(self) -> None:
        """Remove what dead processes have left unfinished."""
        for lock_path in sorted((self.root / TEMPORARY).glob("*.lock")):
            try:
                lock = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its process lives
            else:
                shutil.rmtree(lock_path.with_suffix(""), ignore_errors=True)
                with contextlib.suppress(FileNotFoundError):
                    lock_path.unlink()
            finally:
                os.close(lock)


def _raise_unless_absent(error: OSError) -> None:
    if error.errno != errno.ENOENT:
        raise error
