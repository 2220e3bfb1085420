"""Reads of the registry's state from the daemon's process: LMDB read transactions, no message, tens of microseconds.

Each method is one transaction: it sees the state as of one commit. ``snapshot`` gives several reads of the same commit. A method
that begins after ``RegistryClient.submit`` has returned sees what was submitted (one node: the answer leaves after the commit).
At a
power cut a reader may for a moment have seen what was committed but not yet synced; no answer had been given for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self

import lmdb

from peers import Hello, Peer
from registry.admission import check_welcome
from registry.export import StateExport
from registry.lmdbdisk import LmdbView, check_format, open_environment, state_of
from registry.model import (
    ROOT_INODE,
    ClusterRecord,
    DirectoryEntry,
    Inode,
    InodeKind,
    MemberRecord,
    NodeRecord,
    ObjectRecord,
    VPoolRecord,
)
from registry.tables import Tables
from vpool.errors import Halted


class RegistryView:
    """One per process and directory (LMDB's rule). Any task may use it at any time; no method waits.

    All methods may raise ``Corrupt`` (a record does not match its checksum).
    """

    def __init__(self, directory: Path) -> None:
        """Open what the registry's process has created. Errors: ``Halted``."""
        self._env = open_environment(directory, readonly=True)
        try:
            self._databases = {name: self._env.open_db(name, create=False) for name in (b"raft", b"state", b"incoming")}
            self._changes = self._open_changes()
            with self._env.begin() as txn:
                check_format(txn.get(b"format", db=self._databases[b"raft"]), directory)
        except lmdb.NotFoundError as error:
            self._env.close()
            raise Halted("this is not a registry's database", directory=directory) from error
        except Halted:
            self._env.close()
            raise

    def _open_changes(self) -> Any:
        """None: no process of a release that keeps this log has had the registry yet."""
        try:
            return self._env.open_db(b"changes", create=False)
        except lmdb.NotFoundError:
            return None

    def close(self) -> None:
        """Unmap; no method may be called any more."""
        self._env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def snapshot(self) -> Iterator[Tables]:
        """Several reads of one commit. Not to be held across anything that waits: it pins old pages."""
        with self._env.begin() as txn:
            yield self._tables(txn)

    def export(self) -> StateExport:
        """The state as of now, to be exported; the caller closes it. It may be read for some seconds, in any thread."""
        txn = self._env.begin()
        try:
            raft = LmdbView(txn, self._databases[b"raft"])
            changes = None if self._changes is None else LmdbView(txn, self._changes)
            return StateExport(LmdbView(txn, state_of(txn, self._databases)), changes, raft, txn.abort)
        except BaseException:
            txn.abort()
            raise

    def _tables(self, txn: Any) -> Tables:
        return Tables(LmdbView(txn, state_of(txn, self._databases)))

    def lookup(self, parent: int, name: str) -> Inode | None:
        """The inode behind a name."""
        with self._env.begin() as txn:
            tables = self._tables(txn)
            entry = tables.entry(parent, name)
            return None if entry is None else tables.inode(entry.inode)

    def inode(self, number: int) -> Inode | None:
        """An inode, also one without a name that is still open or not forgotten yet (``nlink`` 0)."""
        with self._env.begin() as txn:
            return self._tables(txn).inode(number)

    def entries(self, parent: int, after_cookie: int = 0, limit: int = 1024) -> list[DirectoryEntry]:
        """Entries of a directory behind a cookie, in order of cookies; begin with 0. ``.`` and ``..`` are not among them."""
        with self._env.begin() as txn:
            return self._tables(txn).entries(parent, after_cookie, limit)

    def object(self, object_id: str) -> ObjectRecord | None:
        """An object's record."""
        with self._env.begin() as txn:
            return self._tables(txn).object(object_id)

    def objects(self) -> list[ObjectRecord]:
        """All of them, by id: of the order of 10 µs each, and there may be millions of files; for tests and repair."""
        with self._env.begin() as txn:
            return list(self._tables(txn).objects())

    def objects_with_log(self) -> list[ObjectRecord]:
        """Volumes and file logs: all objects but files."""
        with self._env.begin() as txn:
            return list(self._tables(txn).objects_with_log())

    def orphans(self) -> list[ObjectRecord]:
        """Volumes and file logs without a name that are not forgotten: orphans (perhaps open), condemned, halted ones."""
        with self._env.begin() as txn:
            tables = self._tables(txn)
            found = [tables.object(object_id) for object_id in tables.nameless()]
            return [record for record in found if record is not None]

    def orphan_files(self, log: str, after_address: int = 0, limit: int = 1024) -> list[ObjectRecord]:
        """Files of a log without a name that are not forgotten, by address, from behind one on."""
        with self._env.begin() as txn:
            tables = self._tables(txn)
            found = [tables.object(object_id) for _, object_id in islice(tables.nameless_files(log, after_address), limit)]
            return [record for record in found if record is not None]

    def attribute(self, inode: int, name: str) -> bytes | None:
        """The value of an extended attribute; None without it."""
        with self._env.begin() as txn:
            return self._tables(txn).attribute(inode, name)

    def attribute_names(self, inode: int) -> list[str]:
        """Names of all extended attributes of an inode."""
        with self._env.begin() as txn:
            return [name for name, _ in self._tables(txn).attributes(inode)]

    def counted(self) -> tuple[int, int]:
        """(inodes, bytes that their contents hold, as published)."""
        with self._env.begin() as txn:
            return self._tables(txn).counted()

    def handles(self, inode: int) -> dict[str, int]:
        """Open handles on an inode, by node."""
        with self._env.begin() as txn:
            return dict(self._tables(txn).handles(inode))

    def inodes_held(self, node: str) -> list[int]:
        """Inodes that a node has handles on; before it registers anew, those its last life died with."""
        with self._env.begin() as txn:
            return self._tables(txn).inodes_held(node)

    def files_in(self, log: str, after_address: int = 0, limit: int = 1024) -> list[tuple[int, str]]:
        """(address, object) of the files in a file log, ascending, from behind an address on."""
        with self._env.begin() as txn:
            return list(islice(self._tables(txn).files_in(log, after_address), limit))

    def file_at(self, log: str, address: int) -> ObjectRecord | None:
        """The file that has an address in a file log."""
        with self._env.begin() as txn:
            tables = self._tables(txn)
            object_id = tables.file_at(log, address)
            return None if object_id is None else tables.object(object_id)

    def path_of(self, inode: int) -> str | None:
        """One path of an inode from the root (of several names, the first by parent); None without a name."""
        with self._env.begin() as txn:
            return self._tables(txn).path_of(inode)

    def resolve(self, path: str) -> Inode | None:
        """The inode at a path from the root; symbolic links are not followed, ``..`` goes up."""
        with self._env.begin() as txn:
            tables = self._tables(txn)
            inode = tables.inode(ROOT_INODE)
            for part in path.split("/"):
                if inode is None or part in ("", "."):
                    continue
                if inode.kind is not InodeKind.DIRECTORY:
                    return None
                if part == "..":
                    inode = tables.inode(inode.parent)
                    continue
                entry = tables.entry(inode.number, part)
                inode = None if entry is None else tables.inode(entry.inode)
            return inode

    def cluster(self) -> ClusterRecord | None:
        """None: the vPool has one node and no links."""
        with self._env.begin() as txn:
            return self._tables(txn).cluster()

    def members(self) -> list[MemberRecord]:
        """Members of the cluster by id; those too that have been removed."""
        with self._env.begin() as txn:
            return list(self._tables(txn).members())

    def member(self, node: str) -> MemberRecord | None:
        """A member's record; also of one that has been removed."""
        with self._env.begin() as txn:
            return self._tables(txn).member(node)

    def check_welcome(self, peer: Peer, hello: Hello) -> None:
        """Whether a node that connects may: what every listener of a node asks. Errors: ``Denied``."""
        with self._env.begin() as txn:
            check_welcome(self._tables(txn), peer, hello)

    def node(self, node: str) -> NodeRecord | None:
        """A node's record."""
        with self._env.begin() as txn:
            return self._tables(txn).node(node)

    def nodes(self) -> list[NodeRecord]:
        """All nodes that have ever registered."""
        with self._env.begin() as txn:
            return list(self._tables(txn).nodes())

    def vpool(self) -> VPoolRecord | None:
        """The birth record; None before ``Initialise``."""
        with self._env.begin() as txn:
            return self._tables(txn).vpool()

    def last_incarnation(self, node: str) -> int:
        """The newest incarnation of a node that the registry has ever heard of; 0 for none."""
        with self._env.begin() as txn:
            tables = self._tables(txn)
            record, session = tables.node(node), tables.session(node)
            return max(record.incarnation if record else 0, session[0] if session else 0)
