"""What an owner has to know of an object's log beyond the log: which epoch wrote which LSNs, and who was answered what.

One file per object, replaced whole: MessagePack ``[1, starts, since, done, kept]`` (docs/formats/cluster.md). It is written when
an epoch begins to be served to other nodes, *before* that, and once more when a node stops in order. Where it does not
tell of the epoch just before, what it says is forgotten: flushes of what older epochs acknowledged then fail as lost, and so do
writes that were waiting. It is never the other way round: nothing lost is confirmed, nothing is executed twice.

Blocks; for a thread.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgpack
import structlog

from volumedriver import Entries, Lineage, Origin

log = structlog.get_logger()

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Known:
    """As of the beginning of an epoch."""

    lineage: Lineage
    executed: Entries


class Lineages:
    """A directory of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def begin(self, object_id: str, epoch: int, first_lsn: int) -> Known:
        """An epoch begins; durable on return. Errors: ``OSError``."""
        starts, since, done, kept = self._load(object_id)
        if not starts or starts[-1][0] != epoch - 1:
            starts, kept = (), None
        lineage = Lineage(starts).with_epoch(epoch, first_lsn)
        entries = Entries(since, done) if kept == (epoch - 1, first_lsn - 1) else Entries(epoch)
        self._save(object_id, lineage.starts, entries, None)
        return Known(lineage, entries)

    def end(self, object_id: str, lineage: Lineage, executed: Entries, epoch: int, end_lsn: int) -> None:
        """The epoch is over in order: nothing is executed any more, and the log ends at ``end_lsn``. Errors: ``OSError``."""
        self._save(object_id, lineage.starts, executed, (epoch, end_lsn))

    def _load(
        self, object_id: str
    ) -> tuple[tuple[tuple[int, int], ...], int, tuple[tuple[Origin, int, int], ...], tuple[int, int] | None]:
        try:
            version, starts, since, done, kept = msgpack.unpackb((self._directory / object_id).read_bytes(), raw=False)
            if version != _VERSION:
                raise ValueError(f"version {version}")
            return (
                tuple((int(epoch), int(first)) for epoch, first in starts),
                int(since),
                tuple((Origin(str(node), int(life), int(number)), int(e), int(lsn)) for node, life, number, e, lsn in done),
                None if kept is None else (int(kept[0]), int(kept[1])),
            )
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
            log.warning("lineage_not_read", object=object_id, reason=str(error))
        return (), 0, (), None

    def _save(self, object_id: str, starts: tuple[tuple[int, int], ...], executed: Entries, kept: tuple[int, int] | None) -> None:
        done = [[each.node, each.incarnation, each.number, epoch, lsn] for each, epoch, lsn in executed.done]
        content = msgpack.packb([_VERSION, starts, executed.since, done, kept], use_bin_type=True)
        self._directory.mkdir(mode=0o700, exist_ok=True)
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
