"""DIR: where a vPool lives on this host, whose it is, and who may use it now.

``vpool.json`` marks it (see docs/formats/directory.md); a lock on the directory itself is held while a daemon runs. Nothing is
changed here before ``Place.settle``.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import uuid
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import structlog

from vpool.durable import sync_directory
from vpool.errors import Conflict, Denied, Invalid, NoSpace, Unavailable
from vpool.sizes import show_size

log = structlog.get_logger()

FORMAT = 2  # what this release writes; see docs/formats/directory.md for what came with each
FORMAT_CLUSTER = 3  # what it writes where the vPool has several nodes: older releases would go on alone
FORMAT_NEWEST = FORMAT_CLUSTER
FORMAT_OLDEST = 1  # what it still reads
MARKER = "vpool.json"
SIZES_KNOWN = "sizes-known"  # in the cache
CACHE_MARKER = "vpool-cache"  # in a cache that DIR/cache is a link to: whose it is
_UNFINISHED = {"backend", "lost+found", f"{MARKER}.new"}  # what an interrupted first start may leave


@dataclass(frozen=True, slots=True)
class Identity:
    """The content of ``vpool.json``."""

    format: int
    vpool: str  # UUID, 32 hexadecimal digits
    node: str  # UUID of this node
    backend: str  # address of the object store, without credentials; "" for the embedded default

    @classmethod
    def new(cls, backend: str) -> Identity:
        """A vPool that has not been before."""
        return cls(FORMAT, uuid.uuid4().hex, uuid.uuid4().hex, backend)


class Place:
    """A DIR that has been looked at. ``identity`` is None for one that is not a vPool yet."""

    def __init__(self, directory: Path) -> None:
        """Look at ``directory``, which need not exist.

        Raises:
            Invalid: it is not a vPool and cannot become one, or one of a newer release.
            Denied: it may not be read.
        """
        self.directory = directory
        self._lock: int | None = None
        try:
            self.identity = _look(directory)
        except PermissionError as error:
            raise Denied(f"{directory} cannot be read; run as its owner or as root", path=error.filename) from None

    @classmethod
    def empty(cls, directory: Path) -> Place:
        """A DIR whose maker knows that it is to become a vPool, whatever is in it."""
        place = cls.__new__(cls)
        place.directory, place._lock, place.identity = directory, None, None
        return place

    @property
    def marker(self) -> Path:
        return self.directory / MARKER

    @property
    def registry(self) -> Path:
        return self.directory / "registry"

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    @property
    def backend(self) -> Path:
        return self.directory / "backend"

    @property
    def cluster(self) -> Path:
        return self.directory / "cluster"

    @property
    def socket(self) -> Path:
        return self.directory / "admin.sock"

    @property
    def events(self) -> Path:
        return self.directory / "events"

    @property
    def health_mutes(self) -> Path:
        return self.directory / "health-mutes.json"

    def backend_url(self, given: str | None) -> str:
        """The address of the store: what is given, else what the DIR knows, else the embedded default.

        Raises:
            Invalid: another one is given than the DIR was made with.
        """
        known = self.identity.backend if self.identity is not None else None
        if known is None:
            return given or self._embedded()
        if given is not None and given != (known or self._embedded()):
            raise Invalid(
                f"{self.directory} belongs to the backend {known or self._embedded()}, not {given}; "
                "leave --backend out or name another DIR"
            )
        return known or self._embedded()

    def is_embedded(self, url: str) -> bool:
        """Whether the store is the one inside DIR."""
        return url == self._embedded()

    @property
    def cache_mark(self) -> str:
        """What stands in the marker of a cache elsewhere."""
        return f"{self.identity.vpool} {self.identity.node}" if self.identity is not None else ""

    def check_cache(self) -> None:
        """See that a cache elsewhere is there: an empty directory in its place would be taken for one that was lost.

        Raises:
            Invalid: says what to do.
        """
        if not self.cache.is_symlink():
            return
        marker = self.cache / CACHE_MARKER
        if not marker.is_file() or marker.read_text(encoding="utf-8", errors="replace").strip() != self.cache_mark:
            raise Invalid(
                f"{self.cache} is a link to {self.cache.readlink()}, where this node's cache is not; mount its disk, or, if "
                "it is lost with what only it had, go on with another one: "
                f"vpool cache replace NEWDIR --accept-loss --dir {self.directory}"
            )

    def check_store(self, url: str) -> None:
        """A vPool that has been there before has a store; it is not made anew where only a mount point is left of it.

        Raises:
            Unavailable: there is nothing.
        """
        from backend import would_be_new

        if self.identity is not None and not self.is_embedded(url) and would_be_new(url):
            raise Unavailable(f"there is nothing at {url}, where the store of this vPool is; is its file system mounted?")

    def check_room(self, needed_bytes: int) -> None:
        """See that the disk can hold the cache that the settings promise.

        A cache that has been in use must come up also when somebody else has filled its disk: that is told, and writers may
        have to wait.

        Raises:
            NoSpace: says how much is missing and which setting to change.
        """
        there = self.cache if self.cache.exists() else self.directory
        while not there.exists():
            there = there.parent
        free, held = shutil.disk_usage(there).free, _held_bytes(self.cache)
        if free + held >= needed_bytes:
            return
        missing = (
            f"the disk below {self.cache} has {show_size(free + held)} for the cache, but cache.size_bytes is "
            f"{show_size(needed_bytes)}; make room or lower cache.size_bytes"
        )
        if not held:
            raise NoSpace(missing)
        log.warning("cache_disk_short", reason=missing)

    def lock(self) -> None:
        """Take the DIR, if it exists, for the life of this process.

        Raises:
            Conflict: a running daemon has it.
        """
        if self._lock is not None or not self.directory.exists():
            return
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise Conflict(
                f"{self.directory} is in use by a running daemon; stop it first, or use `vpool status --dir {self.directory}`"
            ) from None
        self._lock = descriptor

    def unlock(self) -> None:
        """Let go of the DIR; the end of the process does it too."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def settle(self, backend: str) -> Identity:
        """Make the DIR, where it is new, and take it; one of an older format becomes one of this. Durable on return.

        Raises:
            Conflict: a running daemon has it.
            Denied: it may not be written.
            NoSpace: its disk is full.
        """
        try:
            return self._settle(backend)
        except OSError as error:
            kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else Denied
            raise kind(f"{self.directory} cannot be written: {error.strerror}", path=error.filename) from None

    def _settle(self, backend: str) -> Identity:
        if not self.directory.exists():
            self.directory.mkdir(mode=0o700)
        self.lock()
        self.identity = _look(self.directory)  # another may have been quicker
        if self.identity is None:
            self.identity = Identity.new("" if self.is_embedded(backend) else backend)
            self._write_marker(self.identity)
        elif self.identity.format < FORMAT:
            # Before anything else is written: from the first record of the new format on, older releases must stay out.
            log.info("directory_upgraded", directory=str(self.directory), format_before=self.identity.format, format=FORMAT)
            self.identity = replace(self.identity, format=FORMAT)
            self._write_marker(self.identity)
        self.registry.mkdir(mode=0o700, exist_ok=True)
        self.cache.mkdir(mode=0o700, exist_ok=True)
        return self.identity

    @property
    def sizes_known(self) -> bool:
        """Whether the sizes in the registry are those of the contents; it is in the cache, so it is lost with it."""
        return (self.cache / SIZES_KNOWN).exists()

    def note_sizes_known(self) -> None:
        """Durable on return; where the disk refuses, the next start looks the sizes up once more."""
        if self.sizes_known:
            return
        try:
            (self.cache / SIZES_KNOWN).write_text("the sizes in the registry are those of the contents\n", encoding="ascii")
            sync_directory(self.cache)
        except OSError as error:
            log.warning("sizes_not_noted", path=str(self.cache), reason=str(error))

    def adopt(self, identity: Identity) -> None:
        """Make the DIR, which has all else that belongs to it, one of a vPool that has been before. Durable on return."""
        self.identity = identity
        self._write_marker(identity)

    def forget_sizes_known(self) -> None:
        """Durable on return."""
        if self.sizes_known:
            (self.cache / SIZES_KNOWN).unlink()
            sync_directory(self.cache)

    def _embedded(self) -> str:
        return embedded_url(self.directory)

    def _write_marker(self, identity: Identity) -> None:
        new = self.marker.with_name(f"{MARKER}.new")
        with new.open("w", encoding="utf-8") as file:
            json.dump(asdict(identity), file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.marker)
        for path in (self.directory, self.directory.parent):
            sync_directory(path)


def embedded_url(directory: Path) -> str:
    """The address of the store inside a DIR."""
    # '?', '#', '%' and blanks mean something in an address
    escaped = "".join(f"%{ord(c):02X}" if c in "%?# " else c for c in str(directory / "backend"))
    return f"dir:{escaped}"


def _look(directory: Path) -> Identity | None:
    if not directory.exists():
        if not directory.parent.is_dir():
            raise Invalid(f"{directory} cannot be made: {directory.parent} is not a directory")
        return None
    if not directory.is_dir():
        raise Invalid(f"{directory} is not a directory")
    marker = directory / MARKER
    if marker.exists():
        return _read_marker(marker)
    foreign = sorted(entry.name for entry in directory.iterdir() if entry.name not in _UNFINISHED and not _is_bare_cache(entry))
    if foreign:
        raise Invalid(
            f"{directory} is not a vPool and not empty (it has {foreign[0]!r}); name a DIR that is empty or not there yet"
        )
    return None


def _is_bare_cache(entry: Path) -> bool:
    """Whether somebody has mounted a disk of its own for the cache."""
    return entry.name == "cache" and entry.is_dir() and all(each.name == "lost+found" for each in entry.iterdir())


def _read_marker(marker: Path) -> Identity:
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
        version = content["format"]
    except (ValueError, KeyError, TypeError):
        raise Invalid(f"{marker} cannot be read as a vPool's marker; restore it from a backup, do not make a new one") from None
    if not isinstance(version, int) or version < FORMAT_OLDEST:
        raise Invalid(f"{marker} has the format {version!r}; this release knows {FORMAT_OLDEST} to {FORMAT_NEWEST}")
    if version > FORMAT_NEWEST:
        raise Invalid(
            f"{marker.parent} has format {version}, made by a newer release; this one knows formats up to {FORMAT_NEWEST}: "
            "use the newer release"
        )
    known = {field.name for field in fields(Identity)}
    try:
        return Identity(**{key: value for key, value in content.items() if key in known})
    except TypeError:
        raise Invalid(f"{marker} lacks a part of what a vPool's marker has; restore it from a backup") from None


def _held_bytes(directory: Path) -> int:
    """Bytes that files below a directory take on the disk."""
    total = 0
    for path, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
