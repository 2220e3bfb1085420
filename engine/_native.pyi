"""The seam between Python and Rust: bytes on the Rust side, decisions on the Python side.

Everything here is an address space of 4 KiB clusters per volume; sizes, owners, buckets and names are Python's. All methods may
be called from any thread and release the GIL around work. Errors are those of ``vpool.errors``.
"""

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import final

__all__ = [
    "CLUSTER",
    "REQUEST_BYTES_MAX",
    "SCO_CLUSTERS",
    "Batch",
    "Checkpoint",
    "Engine",
    "EngineStats",
    "LineageEntry",
    "Miss",
    "Plan",
    "Recovery",
    "Replica",
    "RootRef",
    "Sco",
    "ScoEntry",
    "Survey",
    "SurveyedSco",
    "Tlog",
    "TlogContents",
    "TlogRecord",
    "TlogRef",
    "Volume",
    "VolumeStats",
    "WouldBlock",
    "crc32c",
    "read_tlog",
    "tlog_previous",
    "xxh3",
]

CLUSTER: int
SCO_CLUSTERS: int
REQUEST_BYTES_MAX: int  # 4 MiB: one record, atomic

@final
class WouldBlock(Exception):
    """The volume's hard limit (or the node's segments) is used up: wait for ``Volume.head_committed`` and try again."""

@final
class TlogRef:
    """Names one TLog in the backend: where it is and what it must contain."""
    def __new__(cls, epoch: int, number: int, combined_sco: int, checksum: int) -> TlogRef: ...
    epoch: int
    number: int
    combined_sco: int  # 0: object tlog/<epoch>/<number>; else behind the data of sco/<epoch>/<combined_sco>
    checksum: int

@final
class RootRef:
    """Names the root of a checkpoint in the backend."""
    def __new__(cls, epoch: int, object: int, offset: int, length: int, checksum: int) -> RootRef: ...
    epoch: int
    object: int
    offset: int
    length: int
    checksum: int

@final
class LineageEntry:
    def __new__(cls, first: int, origin: bytes, epoch: int) -> LineageEntry: ...
    first: int
    origin: bytes
    epoch: int

@final
class Miss:
    """One contiguous range of one object in the backend that a request needs."""

    kind: str  # "sco" | "map"
    origin: bytes  # UUID of the volume whose bucket has it
    epoch: int
    number: int
    offset: int  # bytes in the object
    length: int  # bytes

@final
class Plan:
    """A request that waits for the backend. Supply every miss, then hand it to ``Volume.resume``."""

    misses: Sequence[Miss]
    def supply(self, index: int, data: bytes, start: int | None = ...) -> None:
        """Give the bytes of ``misses[index]``; ``data`` may be a larger range that begins at object offset ``start``
        (default: the miss's own). Verified against the map: Corrupt if they differ (the caller may fetch again)."""

@final
class Sco:
    number: int
    clusters: int

@final
class Tlog:
    """A closed TLog: immutable; encodes to the same bytes every time."""

    ref: TlogRef
    previous: TlogRef | None
    scos: Sequence[Sco]  # without empty ones
    next_sco: int
    last_lsn: int
    entry_bytes: int
    def encode(self) -> bytes:
        """The whole object: TLog alone, or data + TLog + trailer when combined."""

@final
class VolumeStats:
    epoch: int
    lsn: int
    durable_lsn: int
    dirty_bytes: int  # not yet behind a committed head
    sealed_scos: int  # sealed, not yet in a TLog
    open_clusters: int  # used in the open segment
    oldest_dirty_age_s: float
    unclosed_age_s: float  # of the oldest record that is in no TLog yet
    next_sco: int
    next_tlog: int
    writes: int
    reads: int
    bytes_written: int
    bytes_read: int
    read_cache_hits: int
    misses: int
    halted: str | None

@final
class EngineStats:
    segments: int
    segments_free: int
    segments_max: int
    map_cache_bytes: int
    read_cache_bytes: int
    read_cache_used_bytes: int
    read_cache_failed: str | None  # why the read cache has switched itself off: everything it has is read from the backend
    full: list[str]  # what the disk refuses for want of room, tried again once a second
    map_failure: str | None  # why the local map is of no use any more: it is to be set aside, see ``Engine.enter``
    map_set_aside: str | None  # why the local map that was found could not be used

@final
class Checkpoint:
    """A checkpoint being written from a consistent cut of the map; runs beside I/O."""
    def step(self) -> Sequence[Miss] | tuple[int, bytes] | RootRef:
        """Go on: either misses that must be supplied first, or an object (number, bytes) to put, or the end: the root."""
    def supply(self, index: int, data: bytes) -> None: ...
    tlog: TlogRef | None

@final
class Recovery:
    """What a volume's local state is worth. Nothing is served and nothing local has been changed, except that the surviving
    tail has been made durable."""

    map_lost: bool  # the map must come from the backend: load_checkpoint / apply_tlog, then open
    tail_clusters: int
    tail_segments: int
    tail_lsn: int
    # The durable part of the tail is damaged: what and where; open() would then raise Halted. With a lost map it may be known
    # only when the head's TLog has been applied.
    damage: str | None
    def load_checkpoint(self, root: RootRef, root_bytes: bytes) -> None: ...
    def apply_tlog(self, ref: TlogRef, data: bytes) -> TlogRef | None:
        """Apply one TLog (the object's bytes, or for a combined one at least its TLog and trailer); in log order.

        The head's own is always needed, also where the checkpoint ends with it.
        """
    def open(self, epoch: int, *, soft_bytes: int, hard_bytes: int, event_token: int, accept_loss: bool = False) -> Volume:
        """Record epoch and lineage durably, replay the tail into the map, and serve.

        accept_loss: cut a damaged tail where it ends.
        """

@final
class ScoEntry:
    """One SCO in a TLog's table."""

    number: int
    clusters: int  # 0: no such object exists
    crc: int  # CRC32C of the whole SCO

@final
class TlogRecord:
    """One entry of a TLog: ``clusters`` from ``lba`` on stand in SCO ``number`` from ``slot`` on, or (``number`` 0) are zeros."""

    lba: int
    clusters: int
    number: int
    slot: int
    crcs: list[int]  # CRC32C of each cluster; made anew at each access

@final
class TlogContents:
    """A TLog that was read from its object, verified as a whole (its SCOs are not looked at)."""

    volume: bytes
    ref: TlogRef
    previous: TlogRef | None
    first_of_epoch: bool
    first_sco: int
    next_sco: int
    last_lsn: int
    scos: list[ScoEntry]
    def records(self) -> list[TlogRecord]:
        """In log order."""

def read_tlog(data: bytes) -> TlogContents:
    """Read a TLog: its object, or of a combined one at least the TLog and the trailer behind it. Raises Corrupt."""

def tlog_previous(data: bytes) -> TlogRef | None:
    """The TLog before the one in ``data`` (verified), to walk a history back."""

@final
class Volume:
    epoch: int
    def read(self, offset: int, length: int) -> bytes | Plan: ...
    def write(self, offset: int, data: bytes) -> float | Plan:
        """Append; on a float the write is acknowledged by its order in the log, and the caller delays its reply by that many
        seconds (0.0 below the soft limit). Plan: old content is needed (request not on cluster bounds).
        Raises WouldBlock, Halted."""
    def zero(self, offset: int, length: int) -> float | Plan:
        """Make a range read as zeros, without storing it (write_zeroes and discard)."""
    def resume(self, plan: Plan) -> bytes | float | Plan:
        """Go on with a request whose misses have been supplied."""
    def replace(self, offset: int, number: int, data: bytes | None) -> float | Plan | None:
        """Where the cluster at ``offset`` stands in SCO ``number`` now: write it anew from ``data`` (which must be what it has
        been: else Corrupt), or with None make it zeros. A float: acknowledged, as by ``write``. None: it is somewhere else now,
        and nothing has changed. Plan: supply its map nodes, then call again. Raises WouldBlock, Halted."""
    def flush(self) -> None:
        """Blocks until everything acknowledged before the call is durable. Raises Halted for ever after a failed sync."""
    def submit_flush(self, token: int) -> None:
        """The same, completed through ``Engine.completions``."""
    def close_tlog(self, *, seal_open: bool, scos_max: int) -> Tlog | None:
        """Sync, then close a TLog over the oldest ``scos_max`` sealed SCOs (the open one is sealed first if told).

        None: there is nothing. WouldBlock: the disk has no room for a seal.
        """
    def sco(self, number: int) -> bytes:
        """The bytes of a sealed SCO, verified against the log. Raises Corrupt."""
    def head_committed(self, tlog: int) -> None:
        """The registry has committed a head at this TLog: what it covers may be dropped locally."""
    def begin_checkpoint(self, first_object: int) -> Checkpoint | None:
        """The checkpoint of the cut that the last close_tlog took; None if it took none (not asked, or SCOs are waiting)."""
    def cut_next_tlog(self) -> None:
        """Ask that the next close_tlog keeps a cut of the map for begin_checkpoint."""
    def checkpoint_committed(self, root: RootRef) -> None:
        """The registry has committed the head that names this root."""
    def tail(self, first_lsn: int, bytes_max: int) -> Batch | None:
        """Records from ``first_lsn`` on as they were written (not necessarily durable), at most about ``bytes_max`` bytes but at
        least one record; None: there is nothing yet. Runs beside I/O.

        A replica that is empty takes only what begins with a segment: begin with ``tail_first_lsn``. Raises NotFound when the
        record is not in the log any more, Corrupt when the log is damaged there.
        """
    def chain(self, lsn: int) -> int | None:
        """Chain value after a record: a log and a replica with the same one at an LSN are the same up to there. None: the record
        is not in the log (any more)."""
    def tail_first_lsn(self) -> int:
        """LSN of the first record that the committed head does not have (or of the next one to be written); a segment begins
        with it."""
    def pin_tail(self, first_lsn: int | None) -> None:
        """Segments with records from ``first_lsn`` on are not recycled, whatever the head says, until the next call; None ends
        it. They count against the node's segments. Raises NotFound when one is gone already (the pin before stays then)."""
    def lineage(self) -> Sequence[LineageEntry]: ...
    def resolve(self, number: int) -> LineageEntry: ...
    def stats(self) -> VolumeStats: ...
    def close(self) -> None:
        """Sync, mark, write the map back, let go of the files. The log stays."""

@final
class Batch:
    """A run of consecutive records of a volume's log with their data and all else that a replica needs; see
    ``docs/formats/log-batch.md``."""

    first_lsn: int
    last_lsn: int
    data: bytes

@final
class Replica:
    """A copy of the log of a volume that another node writes, in segments of this node; at most one per volume and node, and
    none while the volume is open here. What is in it is what ``Engine.recover`` takes for the local log once it is closed."""

    first_lsn: int  # of the first record; 0: it is empty
    end_lsn: int  # of the last record; 0: it is empty
    synced_lsn: int  # everything up to here survives a power cut
    bytes: int  # records and data
    # Why what was synced here is not all there, as far as a restart could tell; None again when it was taken again and synced,
    # and after a cut.
    damage: str | None
    def take(self, data: builtins.bytes) -> int:
        """Append a batch, verified record by record; returns the LSN of the last record. Survives a kill of the process, a power
        cut only after ``sync``. Records that are here already are compared and skipped.

        Raises Corrupt (a damaged batch; records before the damage may have been taken), Conflict (there is a gap before it, or it
        is of another history than what is here: ``cut`` first; or a damage that only a cut ends), WouldBlock (no room for a
        segment: try again with the same batch), Halted.
        """
    def sync(self) -> None:
        """Blocks until everything taken before the call is durable. Raises Halted for ever after a failed sync."""
    def read(self, first_lsn: int, bytes_max: int) -> Batch | None:
        """As ``Volume.tail``."""
    def chain(self, lsn: int) -> int | None:
        """As ``Volume.chain``."""
    def cut(self, last_lsn: int) -> None:
        """Forget what is behind ``last_lsn``, durably; everything when that is before the first record (0 always is)."""
    def trim(self, through_lsn: int) -> None:
        """Whole segments up to there, which a committed head has, may be recycled; the newest one stays."""
    def close(self) -> None:
        """Let go of the files; they stay. Does not sync."""

@final
class SurveyedSco:
    """One SCO that a survey met."""

    number: int
    origin: bytes  # UUID of the volume whose bucket has it
    epoch: int
    first_slot: int  # from the first to the last slot that is used; not every one between is
    slots: int
    clusters: int  # that the map uses
    is_local: bool  # a copy is in the log on this host

@final
class Survey:
    """Where the live clusters of a range of addresses are; looks a piece at a time beside the I/O.

    Not of one moment: each cluster is where it was when the survey passed it. Ranges are (offset, length) in bytes.
    """
    def __new__(cls, volume: Volume, offset: int, end: int, *, clusters_max: int) -> Survey:
        """Of bytes ``offset`` to ``end``, widened to whole clusters; ends early at about ``clusters_max`` (24 bytes each)."""
    position: int  # everything before this byte has been looked at
    clusters: int  # met so far
    extents: list[tuple[int, int]]  # what is mapped, ascending
    def step(self) -> Plan | None:
        """Go on to the end or the limit. A plan: supply its misses, then call this again (the plan itself is done with)."""
    def scos(self) -> list[SurveyedSco]: ...
    def ranges(self, number: int) -> list[tuple[int, int]]:
        """What one SCO has, as ranges of the volume."""
    def check(self, number: int, first_slot: int, data: bytes) -> list[tuple[int, int]]:
        """Compare a copy of a SCO, from ``first_slot`` on, with the map: ranges of the volume that differ or are missing."""
    def check_local(self, number: int) -> list[tuple[int, int]] | None:
        """The same for the copy in the log on this host; None: there is none (any more)."""

def crc32c(data: bytes, start: int = 0) -> int: ...
def xxh3(data: bytes, seed: int = 0) -> int: ...

@final
class Engine:
    def __new__(
        cls,
        path: str,
        *,
        segments_max: int,
        segments_reserve: int = ...,
        map_cache_bytes: int,
        read_cache_bytes: int,
        map_size_bytes: int = ...,
    ) -> Engine:
        """Open the cache directory (made if missing) exclusively.

        Raises Conflict when in use, NoSpace when the disk cannot hold it.
        """
    completion_fd: int  # eventfd, readable when completions() has something
    def completions(self) -> list[tuple[int, Exception | None]]:
        """(token, error) of finished flushes; a volume's event_token each time a segment was sealed."""
    def volumes(self) -> list[bytes]:
        """UUIDs that have segments or a map here."""
    def logs(self) -> list[bytes]:
        """UUIDs of volumes that have segments here, which nobody else gets until they are opened or forgotten."""
    def recover(self, volume: bytes, *, levels: int, head: TlogRef | None, head_next_sco: int) -> Recovery:
        """Look at what is local of a volume, given the head of the registry (None: nothing in the backend)."""
    def replica(self, volume: bytes, *, head_next_sco: int | None = None) -> Replica:
        """What is here of a log that another node writes (a replica, or this node's own former log), or an empty one; as far as
        the last valid record. Changes nothing before the first ``take``, ``cut`` or ``trim``, which drops the local map.

        ``head_next_sco`` matters only where this is the node's own former log: it is looked at from there on (None: the newest
        consecutive segments, of which a part may be worthless cache). Whether what is here belongs to the volume's present
        history the caller knows or finds out (``chain``); ``take`` compares the records it gets again. Raises Conflict while the
        volume, or a replica of it, is open here.
        """
    def forget(self, volume: bytes) -> None:
        """Drop everything local of a volume that is not open."""
    def cache_insert(self, origin: bytes, epoch: int, number: int, first_cluster: int, data: bytes) -> None:
        """Offer read-ahead data (n × 4096 bytes) to the read cache; verified when read."""
    def cache_has(self, origin: bytes, epoch: int, number: int, first_cluster: int, clusters: int) -> bool: ...
    def stats(self) -> EngineStats: ...
    path: Path | None  # the cache directory, as it was named; None between leave and enter
    def leave(self) -> None:
        """Let go of the cache directory: no file in it is open any more. Conflict while a volume is open."""
    def enter(self, path: str, *, fresh_map: bool = False) -> None:
        """Take a cache directory (made if missing) in use, after ``leave``; as the constructor. On an error there is still none.

        fresh_map: the local map in it is set aside, volumes get theirs from the backend.
        """
    def close(self) -> None: ...
