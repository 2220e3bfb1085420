"""The registry's disk: one LMDB environment for log, term, vote and state. Format: docs/formats/registry.md.

One environment, because one transaction then holds everything that must be true together: truncate and append; entries and
what they did to the state; the applied index. Every commit is LMDB's default, fully synchronous one: pages are written and
``fdatasync``ed, then the meta page is written through ``O_DSYNC``. The faster modes are not used, because each gives up a
promise: ``metasync=False`` may undo the last acknowledged transaction at a power cut, ``sync=False`` and ``writemap`` may damage
the file. What makes it fast instead: one commit carries everything that is waiting (group commit), and the file is written
with zeroes ahead of what LMDB uses (``registry.room_ahead``), so that a sync is a bare device flush and not a commit of the file
system's journal.

LMDB has no checksums, so every value carries the CRC-32 of its key and itself, checked at every read; opening checks all of them
once, and that the file is as long as its meta page says. A map page that is damaged in a way that kills the process kills it
there, in the registry's own process, and whoever started it reports that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import lmdb

from registry import changes
from registry.codec import Malformed, pack, unpack
from registry.disk import Entry, chunk_of
from registry.kv import View
from registry.membership import Membership, membership_of
from registry.room_ahead import RoomAhead
from vpool.durable import sync_directory
from vpool.errors import Corrupt, Halted

MAP_BYTES_MAX = 64 << 30  # address space, not disk; a registry that grows beyond is refused further changes by LMDB
READERS_MAX = 126
MAGIC = b"vPoolREG"
VERSION = 1
VERSION_SWAPPED = 2  # ``state`` and ``incoming`` have changed places, which a program that knows version 1 only must not overlook
DATABASES = (b"raft", b"log", b"state", b"incoming", b"changes")

_KEY_FORMAT = b"format"
_KEY_HARD = b"hard"
_KEY_APPLIED = b"applied"
_KEY_MEMBERS = b"members"
_KEY_STATE_IN = b"state-in"  # the database that the state is in; absent: ``state``
_u64 = struct.Struct(">Q")
_crc = struct.Struct("<I")
_ADVICE = "stop the node, keep a copy of the directory, and restore it from another node or a backup"

DAMAGE = (lmdb.PageNotFoundError, lmdb.CorruptedError, lmdb.InvalidError, lmdb.PanicError, Corrupt)  # what a bad database raises


def damaged(error: Exception) -> Halted:
    """What to say of an error that is in ``DAMAGE``, whenever it shows."""
    return Halted(f"the registry's database is damaged: {error}; {_ADVICE}")


def seal(key: bytes, value: bytes) -> bytes:
    """A value with its checksum."""
    return value + _crc.pack(crc32(value, crc32(key)))


def unseal(key: bytes, sealed: bytes) -> bytes:
    """The value of a sealed one. Errors: ``Corrupt``."""
    value = sealed[:-4]
    if len(sealed) < 4 or _crc.unpack(sealed[-4:])[0] != crc32(value, crc32(key)):
        raise Corrupt("a record of the registry does not match its checksum", key=key[:80].hex())
    return value


def open_environment(path: Path, *, readonly: bool) -> Any:
    """The LMDB environment of a registry directory. Errors: ``Halted`` (damaged, cut short, of another make)."""
    try:
        env = lmdb.open(
            str(path),
            map_size=MAP_BYTES_MAX,
            max_dbs=8,
            max_readers=READERS_MAX,
            readonly=readonly,
            create=not readonly,
            mode=0o600,
        )
        pages = env.info()["last_pgno"] + 1
        size = env.stat()["psize"] * pages
    except lmdb.Error as error:
        raise Halted(f"the registry's database cannot be opened: {error}; {_ADVICE}", directory=path) from error
    have = (path / "data.mdb").stat().st_size
    if have < size:
        env.close()
        raise Halted(f"the registry's database has been cut short; {_ADVICE}", directory=path, bytes=have, expected=size)
    return env


def check_format(sealed: bytes | None, path: Path) -> None:
    """Refuse what another program has written. Errors: ``Halted``."""
    try:
        value = unseal(_KEY_FORMAT, sealed) if sealed is not None else b""
    except Corrupt as error:
        raise Halted(f"the registry's database has a damaged format record; {_ADVICE}", directory=path) from error
    if len(value) != 12 or value[:8] != MAGIC:
        raise Halted("this is not a registry's database; nothing has been changed", directory=path)
    version = int.from_bytes(value[8:], "little")
    if version not in (VERSION, VERSION_SWAPPED):
        raise Halted(
            "the registry's database has another version; run the program that wrote it",
            directory=path,
            version=version,
            known=VERSION_SWAPPED,
        )


def state_of(txn: Any, databases: Mapping[bytes, Any]) -> Any:
    """The database that the state is in, as a transaction sees it. Errors: ``Corrupt``."""
    sealed = txn.get(_KEY_STATE_IN, db=databases[b"raft"])
    return databases[b"state" if sealed is None else unseal(_KEY_STATE_IN, sealed)]


class LmdbView:
    """One sub-database within a transaction, values sealed."""

    def __init__(self, txn: Any, db: Any) -> None:
        self._txn = txn
        self._db = db

    def get(self, key: bytes) -> bytes | None:
        sealed = self._txn.get(key, db=self._db)
        return None if sealed is None else unseal(key, sealed)

    def put(self, key: bytes, value: bytes) -> None:
        self._txn.put(key, seal(key, value), db=self._db)

    def delete(self, key: bytes) -> None:
        self._txn.delete(key, db=self._db)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(self._db) as cursor:
            more = cursor.set_range(start) if start else cursor.first()
            while more:
                key, sealed = cursor.item()
                if key >= end:
                    return
                yield key, unseal(key, sealed)
                more = cursor.next()

    def count(self) -> int:
        return int(self._txn.stat(self._db)["entries"])


class LmdbSnapshot:
    """A read transaction."""

    def __init__(self, env: Any, databases: Mapping[bytes, Any]) -> None:
        self._txn = env.begin()
        self._view = LmdbView(self._txn, state_of(self._txn, databases))
        raft = LmdbView(self._txn, databases[b"raft"])
        self.index, self.term = unpack(raft.get(_KEY_APPLIED) or pack([0, 0]))
        members = _members_of(raft.get(_KEY_MEMBERS))
        self.membership = None if members is None else members[1]

    def chunk(self, after_key: bytes, limit_bytes: int) -> tuple[list[tuple[bytes, bytes]], bool]:
        return chunk_of(self._view.scan(after_key + b"\0" if after_key else b"", b"\xff" * 8), limit_bytes)

    def close(self) -> None:
        self._txn.abort()


class LmdbDisk:
    """See :class:`registry.disk.Disk`. One process has it open for writing: the caller holds the lock of the directory."""

    def __init__(self, path: Path) -> None:
        """Open or create. Errors: ``Halted``."""
        self._path = path
        self._txn: Any = None
        self._changed: set[bytes] = set()  # keys of the state, in the open transaction
        self._applied_moved = self._state_replaced = False
        fresh = not (path / "data.mdb").exists()
        self._env = open_environment(path, readonly=False)
        try:
            self._open_databases()
            self._check_everything()
        except (lmdb.Error, Corrupt, Malformed) as error:
            self._env.close()
            raise Halted(f"the registry's database is damaged: {error}; {_ADVICE}", directory=path) from error
        except Halted:
            self._env.close()
            raise
        self._page_bytes = self._env.stat()["psize"]
        self._room = RoomAhead(path / "data.mdb")
        with suppress(OSError):  # a full disk: LMDB says so when it needs room, and the zeroes are for speed only
            self._room.fill(self._used_bytes())
        self._begin_changes()
        if fresh:
            for directory in (path, path.parent):
                sync_directory(directory)

    def _open_databases(self) -> None:
        if self._env.stat()["entries"] == 0:
            with self._env.begin(write=True) as txn:
                for name in DATABASES:
                    self._env.open_db(name, txn=txn)
                _put_version(LmdbView(txn, self._env.open_db(b"raft", txn=txn)), VERSION)
        try:
            later = {b"changes"}  # came after the first version; without it the database is complete, and it can begin anew
            self._db = {name: self._env.open_db(name, create=name in later) for name in DATABASES}
        except lmdb.NotFoundError as error:
            raise Halted("this is not a registry's database; nothing has been changed", directory=self._path) from error
        with self._env.begin() as txn:
            check_format(txn.get(_KEY_FORMAT, db=self._db[b"raft"]), self._path)
            self._swapped = state_of(txn, self._db) is self._db[b"incoming"]

    def _check_everything(self) -> None:
        with self._env.begin() as txn:
            for name in DATABASES:
                db = self._db[name]
                counted = sum(1 for _ in LmdbView(txn, db).scan(b"", b"\xff" * 8))
                if counted != txn.stat(db)["entries"]:
                    raise Corrupt("the database has lost records", database=name.decode(), found=counted)

    def _begin_changes(self) -> None:
        """The log of changes reaches up to the state, or is begun anew."""
        index = self.applied()[0]
        if changes.changes_range(self._view(b"raft").get(changes.KEY_RANGE))[1] != index:
            self._write().drop(self._db[b"changes"], delete=False)
            changes.begin(self._view(b"raft"), index)
            self.commit()
        else:
            self._abort()

    def _write(self) -> Any:
        if self._txn is None:
            self._txn = self._env.begin(write=True)
        return self._txn

    def _view(self, name: bytes) -> LmdbView:
        return LmdbView(self._write(), self._db[name])

    @property
    def state(self) -> View:
        return changes.TrackingView(self._view(self._place_of_state), self._changed)

    @property
    def incoming(self) -> LmdbView:
        return self._view(self._place_of_incoming)

    @property
    def _place_of_state(self) -> bytes:
        return b"incoming" if self._swapped else b"state"

    @property
    def _place_of_incoming(self) -> bytes:
        return b"state" if self._swapped else b"incoming"

    def entries(self) -> list[Entry]:
        found = []
        with self._env.begin() as txn:
            for key, value in LmdbView(txn, self._db[b"log"]).scan(b"", b"\xff" * 9):
                found.append(Entry(_u64.unpack(key)[0], _u64.unpack_from(value)[0], value[8:]))
        return found

    def put_entry(self, entry: Entry) -> None:
        self._view(b"log").put(_u64.pack(entry.index), _u64.pack(entry.term) + entry.data)

    def delete_entries(self, first: int, last: int) -> None:
        view = self._view(b"log")
        for index in range(first, last + 1):
            view.delete(_u64.pack(index))

    def _pair(self, key: bytes, default: tuple[Any, Any]) -> tuple[Any, Any]:
        value = self._view(b"raft").get(key)
        if value is None:
            return default
        one, two = unpack(value)
        return one, two

    def hard_state(self) -> tuple[int, str]:
        return self._pair(_KEY_HARD, (0, ""))

    def set_hard_state(self, term: int, vote: str) -> None:
        self._view(b"raft").put(_KEY_HARD, pack([term, vote]))

    def applied(self) -> tuple[int, int]:
        return self._pair(_KEY_APPLIED, (0, 0))

    def set_applied(self, index: int, term: int) -> None:
        self._view(b"raft").put(_KEY_APPLIED, pack([index, term]))
        self._applied_moved = True

    def members(self) -> tuple[int, Membership] | None:
        return _members_of(self._view(b"raft").get(_KEY_MEMBERS))

    def set_members(self, index: int, membership: Membership) -> None:
        self._view(b"raft").put(_KEY_MEMBERS, pack([index, list(membership.voters), list(membership.learners)]))

    def clear_incoming(self) -> None:
        self._write().drop(self._db[self._place_of_incoming], delete=False)

    def adopt_incoming(self) -> None:
        """Both change places: copying would take half a second per 100,000 objects, in which this node answers nobody."""
        self._swapped = not self._swapped
        raft = self._view(b"raft")
        if self._swapped:
            raft.put(_KEY_STATE_IN, self._place_of_state)
        else:
            raft.delete(_KEY_STATE_IN)
        _put_version(raft, VERSION_SWAPPED if self._swapped else VERSION)
        self.clear_incoming()
        self._write().drop(self._db[b"changes"], delete=False)
        self._changed.clear()
        self._state_replaced = True

    def snapshot(self) -> LmdbSnapshot:
        return LmdbSnapshot(self._env, self._db)

    def commit(self) -> None:
        if self._txn is not None:
            self._note_changes()
            txn, self._txn = self._txn, None
            txn.commit()
            self._room.keep(self._used_bytes())

    def _note_changes(self) -> None:
        if self._state_replaced:
            changes.begin(self._view(b"raft"), self.applied()[0])
        elif self._applied_moved or self._changed:
            changes.note(self._view(b"changes"), self._view(b"raft"), self.applied()[0], self._changed)
        self._changed.clear()
        self._applied_moved = self._state_replaced = False

    def _abort(self) -> None:
        if self._txn is not None:
            self._txn.abort()
            self._txn = None

    def _used_bytes(self) -> int:
        return (int(self._env.info()["last_pgno"]) + 1) * int(self._page_bytes)

    def close(self, *, abort: bool = False) -> None:
        if self._txn is not None and not abort:
            self.commit()
        self._abort()
        self._room.close()
        self._env.close()


def _put_version(raft: View, version: int) -> None:
    raft.put(_KEY_FORMAT, MAGIC + version.to_bytes(4, "little"))


def _members_of(value: bytes | None) -> tuple[int, Membership] | None:
    if value is None:
        return None
    index, voters, learners = unpack(value)
    return int(index), membership_of([voters, learners])
