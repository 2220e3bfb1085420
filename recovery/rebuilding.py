"""A registry's content from a namespace and a plan. Pure but for ``write_registry``.

Changes of the namespace go through the commands of the registry themselves, asked by a node that is there for this alone and is
gone at the end; what no command can do (heads, epochs, a file at an address that it has already) is written as records.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from recovery.files import FileFinding
from recovery.planning import LogFinding, RecoveryPlan
from registry import (
    ROOT_INODE,
    Command,
    Condemn,
    Create,
    CreateObject,
    DirectoryEntry,
    Envelope,
    Forget,
    Initialise,
    Inode,
    InodeKind,
    ObjectKind,
    ObjectRecord,
    ObjectState,
    Refusal,
    RegisterNode,
    Result,
    Unhalt,
    Unlink,
)
from registry.changes import is_lasting
from registry.disk import Entry
from registry.journal import NO_OP
from registry.kv import RamView
from registry.lmdbdisk import LmdbDisk
from registry.nodes import FORMAT
from registry.state import apply
from registry.tables import WritableTables
from vpool.errors import Internal

NODE = "recovery"
LOST_AND_FOUND = "lost+found"
TERM = 1


def rebuilt(
    items: dict[bytes, bytes], plan: RecoveryPlan, *, keep_owner: str, volume_rules: tuple[str, ...], now_ns: int
) -> dict[bytes, bytes]:
    """The state of the new registry.

    ``keep_owner``: the node whose DIR it is for; what it owned stays its own, so that it finds its tails. Everything else has
    no owner, and is whoever's opens it first.
    """
    return _Rebuilding(items, plan, keep_owner, volume_rules, now_ns).run()


class _Rebuilding:
    def __init__(
        self, items: dict[bytes, bytes], plan: RecoveryPlan, keep_owner: str, volume_rules: tuple[str, ...], now_ns: int
    ) -> None:
        self._view = RamView({key: value for key, value in items.items() if is_lasting(key)})
        self._tables = WritableTables(self._view)
        self._plan = plan
        self._keep_owner = keep_owner
        self._rules = volume_rules
        self._now = now_ns
        self._sequence = 0

    def run(self) -> dict[bytes, bytes]:
        uid, gid = os.geteuid(), os.getegid()
        name = self._plan.vpool[:8]
        self._do(Initialise(self._plan.vpool, name, FORMAT, self._rules, self._now, uid=uid, gid=gid))
        self._do(RegisterNode(NODE, "", 1))
        for finding in self._plan.logs:
            if finding.fate == "deleted":
                self._delete(finding.object)
            elif finding.fate == "found":
                self._bring_back(finding)
            elif finding.fate != "unusable":
                self._settle(finding)
        moved = {file.object_id: file for file in self._plan.files if file.found and file.object_id}
        for file in self._plan.files:
            if not file.found and (now_at := moved.get(self._tables.file_at(file.log, file.address) or "")) is not None:
                self._move_file(file, now_at)
            elif not file.found:
                self._drop_file(file)
        unknown = {finding.object for finding in self._plan.logs if finding.fate == "found"}
        for file in self._plan.files:
            record = self._tables.object(file.object_id) if file.found and file.object_id else None
            if record is not None and file.log in unknown and (record.log, record.address) != (file.log, file.address):
                self._tables.move_file(record, file.log, file.address)  # where it was is not erased yet
            elif file.found and record is None:
                self._bring_file_back(file)
        self._tables.put_generation(self._plan.generation)
        return {key: value for key, value in self._view.items.items() if is_lasting(key)}

    def _do(self, command: Command) -> Result:
        self._sequence += 1
        outcome = apply(self._view, Envelope(NODE, 1, self._sequence, command))
        if isinstance(outcome, Refusal):
            raise Internal(f"the registry that is rebuilt refuses {type(command).__name__}: {outcome.message}")
        return outcome

    def _record(self, object_id: str) -> ObjectRecord:
        record = self._tables.object(object_id)
        assert record is not None, "the plan is of this namespace"
        return record

    # -- what the namespace knows ------------------------------------------------------------------------------------------

    def _settle(self, finding: LogFinding) -> None:
        record = self._record(finding.object)
        owner = record.owner if record.owner == self._keep_owner else ""
        self._tables.put_object(replace(record, head=finding.head, epoch=finding.epoch, owner=owner))

    def _delete(self, object_id: str) -> None:
        record = self._record(object_id)
        if record.state is ObjectState.HALTED:
            self._do(Unhalt(object_id))
        self._unlink(record.inode)
        self._do(Condemn(object_id, record.epoch))
        self._do(Forget(object_id))

    def _drop_file(self, file: FileFinding) -> None:
        object_id = self._tables.file_at(file.log, file.address)
        assert object_id is not None, "the plan is of this namespace"
        self._unlink(self._record(object_id).inode)
        self._tables.drop_object(self._record(object_id))

    def _move_file(self, file: FileFinding, now_at: FileFinding) -> None:
        """It has been put into another log since the namespace was written down (``Relocate``), and keeps its names."""
        object_id = self._tables.file_at(file.log, file.address)
        assert object_id is not None, "the plan is of this namespace"
        record = self._record(object_id)
        self._tables.move_file(record, now_at.log, now_at.address)

    def _unlink(self, inode: int) -> None:
        for parent, name in list(self._tables.names(inode)):
            self._do(Unlink(parent, name, self._now))

    # -- what it does not know ---------------------------------------------------------------------------------------------

    def _bring_back(self, finding: LogFinding) -> None:
        if finding.kind is ObjectKind.FILE_LOG:
            self._do(CreateObject(finding.object))
        else:
            name = self._free_name(f"volume-{finding.object}.raw")
            parent = self._lost_and_found()
            self._do(Create(parent, name, InodeKind.VOLUME, 0o600, os.geteuid(), os.getegid(), self._now, object=finding.object))
        self._settle(finding)

    def _bring_file_back(self, file: FileFinding) -> None:
        """By hand: ``Create`` would give it another address."""
        object_id = file.object_id or uuid.uuid4().hex
        if self._tables.object(object_id) is not None:
            raise Internal("a file is at two addresses", object=object_id, address=file.address)
        name = self._free_name(f"file-{object_id}")
        parent = self._lost_and_found()
        number, uid, gid = self._tables.next_number(), os.geteuid(), os.getegid()
        changed = file.changed_ns or self._now
        inode = Inode(
            number, InodeKind.FILE, object_id, 0o600, uid, gid, 1, file.size, changed, changed, self._now, "", 0
        )  # fmt: skip
        self._tables.count(inodes=1, held_bytes=inode.held_bytes)
        self._tables.put_inode(inode)
        self._tables.put_entry(parent, DirectoryEntry(number, name, number))
        self._tables.put_object(
            ObjectRecord(
                object_id, ObjectKind.FILE, ObjectState.LIVE, "", 0, None, None, file.size, number, file.address, file.log, "",
                file.layout,
            )
        )  # fmt: skip
        self._tables.put_file(file.log, file.address, object_id)
        self._tables.reserve_address(file.log, file.address)

    def _lost_and_found(self) -> int:
        """The directory, made if it is not there."""
        for name in _names(LOST_AND_FOUND):
            if self._tables.entry(ROOT_INODE, name) is None:
                self._do(Create(ROOT_INODE, name, InodeKind.DIRECTORY, 0o700, os.geteuid(), os.getegid(), self._now))
            entry = self._tables.entry(ROOT_INODE, name)
            inode = self._tables.inode(entry.inode) if entry is not None else None
            if inode is not None and inode.kind is InodeKind.DIRECTORY:
                return inode.number
        raise Internal("no name for a directory is free")

    def _free_name(self, wanted: str) -> str:
        parent = self._lost_and_found()
        return next(name for name in _names(wanted) if self._tables.entry(parent, name) is None)


def _names(wanted: str) -> Iterator[str]:
    yield wanted
    for number in range(1, 1000):
        yield f"{wanted}.{number}"


def write_registry(directory: Path, state: dict[bytes, bytes], index: int) -> None:
    """Make a registry of one node in a directory that is empty or not there; durable on return. Blocks.

    ``index``: of the last command that the state is said to include; greater than any that was exported.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    disk = LmdbDisk(directory)
    try:
        disk.put_entry(Entry(index, TERM, NO_OP))
        disk.set_hard_state(TERM, "")
        disk.set_applied(index, TERM)
        view = disk.state
        for key in sorted(state):
            view.put(key, state[key])
    except BaseException:
        disk.close(abort=True)
        raise
    disk.close()
