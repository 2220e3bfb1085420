"""What a node knows, durably, of the log that it has of each object: its own, staged for it, or kept for another node.

A node has one log of an object at most (segments in its cache), and one file beside it in ``cache/marks``, replaced whole:
MessagePack, docs/formats/cluster.md. It says for which epochs the log is the object's, so that one that somebody else has
continued since is not taken for it. The marks lie with the segments: whoever loses the one has lost the other.

Only nodes of a cluster have them. An object without marks has a log from before there was a cluster, and is this node's.

Blocks; for a thread.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgpack

from volumedriver.dtl_store import NOTHING_KEPT, Kept
from volumedriver.executed import Entries
from volumedriver.local_logs import StagedMark
from volumedriver.tail import Lineage, Origin
from vpool.errors import Corrupt, Halted

_VERSION = 1
_NO_LINEAGE, _NO_ENTRIES = Lineage(), Entries()


@dataclass(frozen=True, slots=True)
class Marks:
    """Of one log; what is empty says nothing.

    Attributes:
        own: epochs for which it is the object's, if the registry says one of them, and this node.
        staged: it is to be the object's.
        kept: it is kept for the owner, as its DTL store.
        lineage, executed: of the log, where it is own or staged.
    """

    own: frozenset[int] = frozenset()
    staged: StagedMark | None = None
    kept: Kept = NOTHING_KEPT
    lineage: Lineage = _NO_LINEAGE
    executed: Entries = _NO_ENTRIES

    def about_to_take(self, epoch: int) -> Marks:
        """Before the registry is asked for this epoch."""
        return replace(self, own=self.own | {epoch})

    def serving(self, epoch: int, first_lsn: int) -> Marks:
        """The epoch has begun."""
        return Marks(own=frozenset({epoch}), lineage=self.lineage.with_epoch(epoch, first_lsn), executed=self.executed)


class LogMarks:
    """The directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, object_id: str) -> Marks | None:
        """Of one object; None: there are none. Errors: ``Corrupt``, ``Halted``."""
        try:
            data = (self._directory / object_id).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Halted(f"the marks of a log cannot be read: {error}", object=object_id) from None
        try:
            return _marks_in(msgpack.unpackb(data, raw=False))
        except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
            raise Corrupt(f"the marks of a log are damaged: {error}", file=self._directory / object_id) from None

    def save(self, object_id: str, marks: Marks) -> None:
        """Durable on return. Errors: ``Halted``."""
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._replace(object_id, msgpack.packb(_marks_out(marks), use_bin_type=True))
        except OSError as error:
            raise Halted(f"the marks of a log cannot be kept: {error}", object=object_id) from None

    def drop(self, object_id: str) -> None:
        """The log is gone."""
        (self._directory / object_id).unlink(missing_ok=True)

    def objects(self) -> list[str]:
        """Objects that have marks."""
        try:
            return sorted(name for name in os.listdir(self._directory) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def _replace(self, object_id: str, content: bytes) -> None:
        fd, path = tempfile.mkstemp(dir=self._directory, prefix=f".{object_id}.")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(path, self._directory / object_id)
        except BaseException:
            os.unlink(path)
            raise
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def entries_out(entries: Entries) -> list[Any]:
    """As MessagePack has it."""
    return [
        entries.since,
        [[origin.node, origin.incarnation, origin.number, epoch, lsn] for origin, epoch, lsn in entries.done],
    ]


def entries_in(fields: Any) -> Entries:
    """The reverse. Errors: ``ValueError``, ``TypeError``."""
    since, done = fields
    return Entries(
        int(since),
        tuple((Origin(str(node), int(life), int(number)), int(epoch), int(lsn)) for node, life, number, epoch, lsn in done),
    )


def lineage_in(fields: Any) -> Lineage:
    """Of pairs. Errors: ``ValueError``, ``TypeError``."""
    return Lineage(tuple((int(epoch), int(first)) for epoch, first in fields))


def _marks_out(marks: Marks) -> list[Any]:
    staged, kept = marks.staged, marks.kept
    return [
        _VERSION,
        sorted(marks.own),
        None if staged is None else [staged.epoch, staged.attempt, staged.complete],
        [kept.fenced, kept.epoch, kept.session, kept.trimmed_through, kept.lineage.starts, entries_out(kept.executed)],
        marks.lineage.starts,
        entries_out(marks.executed),
    ]


def _marks_in(fields: Any) -> Marks:
    version, own, staged, kept, lineage, executed = fields
    if version != _VERSION:
        raise ValueError(f"version {version}")
    fenced, epoch, session, trimmed, kept_lineage, kept_executed = kept
    return Marks(
        own=frozenset(int(each) for each in own),
        staged=None if staged is None else StagedMark(int(staged[0]), staged[1], bool(staged[2])),
        kept=Kept(
            int(fenced), int(epoch), int(session), int(trimmed), lineage_in(kept_lineage), entries_in(kept_executed)
        ),
        lineage=lineage_in(lineage),
        executed=entries_in(executed),
    )  # fmt: skip
