"""Another directory, or an emptied one, in the place of DIR/cache. Blocks; only while no engine has the directory."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vpool.durable import sync_directory
from vpool.errors import Denied, Invalid, NoSpace, Unavailable
from vpool.place import CACHE_MARKER, SIZES_KNOWN, Place
from vpool.sizes import show_size

REPLACED = "replaced"  # begins the names of what was there before
TRIAL = "vpool-trial"
BARE = {"lost+found", TRIAL, CACHE_MARKER}  # what an empty one may have


class CacheDirectory:
    """The cache of one DIR, and how it is changed."""

    def __init__(self, place: Place, needed_bytes: int, *, mountpoint: Path | None = None) -> None:
        """``mountpoint``: of this vPool, if it is mounted."""
        self._place = place
        self._cache = place.cache
        self._forbidden = [each for each in (place.registry, place.backend, place.events, mountpoint) if each is not None]
        self._needed_bytes = needed_bytes

    @property
    def real(self) -> Path:
        """Where the cache is."""
        return self._cache.resolve()

    def check(self, new: Path | None) -> None:
        """See that ``new`` can be the cache (None: the directory that is); nothing has changed on return.

        Raises:
            Invalid: it is no place for one; says why.
            Denied, NoSpace, Unavailable: the disk refuses.
        """
        if new is None:
            return
        if os.path.ismount(self._cache):
            raise Invalid(
                f"{self._cache} is a mount point; stop the node and mount the new disk there, "
                "or leave the path out to begin with an empty one on the same disk"
            )
        if not new.is_absolute():
            raise Invalid(f"{new} must be an absolute path: it is kept for later starts")
        if not new.parent.is_dir():
            raise Invalid(f"{new} cannot be made: {new.parent} is not a directory")
        if new.resolve() == self.real or self.real in new.resolve().parents:
            raise Invalid(f"{new} is the cache, or in it; leave the path out to begin there with an empty one")
        within = {new.resolve(), *new.resolve().parents}
        for each in self._forbidden:
            if each.resolve() in within:
                raise Invalid(f"{new} is in {each}, which is this vPool's own; name a directory outside of it")
        with _said(new):
            if new.exists() and (not new.is_dir() or any(each.name not in BARE for each in new.iterdir())):
                raise Invalid(f"{new} is not an empty directory")
        with _said(new):
            made = not new.exists()
            new.mkdir(exist_ok=True)
            free = shutil.disk_usage(new).free
            (new / TRIAL).write_bytes(b"x")
            sync_directory(new)
            (new / TRIAL).unlink()
            if made:
                new.rmdir()
        if free < self._needed_bytes:
            raise NoSpace(
                f"the disk of {new} has {show_size(free)} free, but cache.size_bytes is {show_size(self._needed_bytes)}; "
                "make room or lower cache.size_bytes"
            )

    def change(self, new: Path | None, *, complete: bool) -> Path | None:
        """Put an empty directory in the place of the cache, durably. ``complete``: the backend has all that the old one had.

        Returns where the old one is; None if it is gone. As ``check``, and then the old one is in its place.
        """
        self.check(new)  # again: somebody may have been quicker
        with _said(self._cache if new is None else new):
            sizes_known = complete and os.access(self._cache / SIZES_KNOWN, os.F_OK)  # False, too, where the disk fails
            old = self._emptied(complete) if new is None else self._linked(new)
            if sizes_known:
                (self._cache / SIZES_KNOWN).write_text("carried over: everything was in the backend\n", encoding="ascii")
            sync_directory(self._cache)
        return old

    def _emptied(self, complete: bool) -> Path | None:
        aside = _free_name(self._cache, REPLACED)
        aside.mkdir()
        moved = []
        try:
            for entry in sorted(self._cache.iterdir()):
                if entry.name not in BARE and not entry.name.startswith(REPLACED):
                    moved.append(entry)
                    entry.rename(aside / entry.name)
        except OSError:
            for entry in moved:
                if (aside / entry.name).exists():
                    (aside / entry.name).rename(entry)
            raise
        if complete:
            shutil.rmtree(aside, ignore_errors=True)
        return aside if aside.exists() else None

    def _linked(self, new: Path) -> Path:
        new.mkdir(mode=0o700, exist_ok=True)
        with (new / CACHE_MARKER).open("w", encoding="ascii") as file:
            file.write(f"{self._place.cache_mark}\n")
            file.flush()
            os.fsync(file.fileno())
        for path in (new, new.parent):
            sync_directory(path)  # before anything points there
        link = self._cache.with_name(f"{self._cache.name}.new")
        link.unlink(missing_ok=True)
        link.symlink_to(new, target_is_directory=True)
        if self._cache.is_symlink():
            old = self.real
        else:
            old = _free_name(self._cache.parent, f"{self._cache.name}.{REPLACED}")
            if self._cache.exists():
                self._cache.rename(old)
        try:
            link.replace(self._cache)
        except OSError:
            if not self._cache.exists() and old.exists():
                old.rename(self._cache)
            raise
        sync_directory(self._cache.parent)
        return old


def _free_name(directory: Path, beginning: str) -> Path:
    number = 1
    while (name := directory / f"{beginning}-{number}").exists():
        number += 1
    return name


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """What the disk answers, in our words."""
    try:
        yield
    except OSError as error:
        details = {"path": error.filename or str(path), "errno": errno.errorcode.get(error.errno or 0, str(error.errno))}
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"the disk of {path} is full", **details) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Denied(f"{path} refuses; check owner, permissions and whether it is mounted read-only", **details) from None
        raise Unavailable(f"the disk of {path} fails: {os.strerror(error.errno or 0)}", **details) from None
