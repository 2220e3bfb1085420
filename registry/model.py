"""What the registry knows, as frozen records; shared by commands, state machine, client and readers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

ROOT_INODE = 1


class ObjectKind(str, Enum):
    """Fixed at birth."""

    VOLUME = "volume"
    FILE = "file"
    FILE_LOG = "file-log"  # the log of one node's files; not in the namespace


class ObjectState(str, Enum):
    LIVE = "live"
    ORPHAN = "orphan"  # no name any more; lives until its last handle is gone
    CONDEMNED = "condemned"  # its names in the backend may be deleted
    HALTED = "halted"  # refuses service; halted_reason says why


class DtlState(str, Enum):
    """How the tail of an object is protected by a peer; only ``IN_SYNC`` lets another node take it without loss."""

    OFF = "off"  # by policy: no peer
    DEGRADED = "degraded"  # wanted, but flushes do not wait for a peer
    CATCHING_UP = "catching-up"  # a peer is being sent what it lacks; flushes do not count on it yet
    IN_SYNC = "in-sync"  # whatever was flushed is on the peer, too
    FOLLOWING = "following"  # asynchronously: the peer lags, by no more than the owner's bound; no more than a help to a thief


class NodeStatus(str, Enum):
    """What an administrator wants of a node."""

    ACTIVE = "active"
    MAINTENANCE = "maintenance"  # keeps what it owns and holds; is given nothing
    DRAINED = "drained"  # is to be emptied, and given nothing


class InodeKind(str, Enum):
    DIRECTORY = "directory"
    FILE = "file"
    VOLUME = "volume"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    CHARACTER_DEVICE = "character-device"
    BLOCK_DEVICE = "block-device"


@dataclass(frozen=True, slots=True)
class TlogName:
    """Names one TLog in the backend (see docs/formats/tlog.md)."""

    epoch: int
    number: int
    combined_sco: int
    checksum: int


@dataclass(frozen=True, slots=True)
class RootName:
    """Names the root of a checkpoint in the backend (see docs/formats/checkpoint.md)."""

    epoch: int
    object: int
    offset: int
    length: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Head:
    """What is safe in the backend: everything up to a TLog; monotone and without gaps."""

    tlog: TlogName
    next_sco: int  # one past the last SCO of that TLog
    checkpoint: RootName | None  # newest checkpoint at or before it
    checkpoint_tlog: int  # number of the TLog that the checkpoint includes; 0 without one


@dataclass(frozen=True, slots=True)
class Dtl:
    """Who mirrors an object's tail, and whether that can be relied on. ``version`` grows with every change."""

    state: DtlState = DtlState.OFF
    peer: str = ""  # node id; "" while none is chosen
    version: int = 0
    asynchronous: bool = False  # flushes are not to wait for the peer, but for its lag to be small: it is never *in sync*

    @property
    def mode(self) -> str:
        """As an operator calls it: off, sync or async."""
        return "off" if self.state is DtlState.OFF else "async" if self.asynchronous else "sync"


@dataclass(frozen=True, slots=True)
class Remains:
    """What a former owner has of an epoch that is over."""

    node: str
    epoch: int
    lost: bool  # it may hold what nobody else does: only an administrator says that it is worthless, not the head


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    id: str  # UUID, 32 hexadecimal digits
    kind: ObjectKind
    state: ObjectState
    owner: str  # node id; "" while nobody owns it
    epoch: int  # 0 before its first opening
    base: Head | None  # where this epoch starts; None: an empty volume
    head: Head | None
    size: int  # bytes, as last published by the owner
    inode: int  # 0 for those outside the namespace
    address: int  # a file's number in its node's file log; 0 for volumes
    log: str  # a file's FILE_LOG object; "" for volumes
    halted_reason: str
    layout: int = 1  # of a file's region (docs/formats/volume-json.md): 1 as of old, 2 names the object it belongs to
    dtl: Dtl = Dtl()
    attempt: int = 0  # hand-overs up to this number are over: done, or given up
    remains: tuple[Remains, ...] = ()


@dataclass(frozen=True, slots=True)
class Inode:
    number: int
    kind: InodeKind
    object: str  # "" for directories and symbolic links
    mode: int  # permission bits only
    uid: int
    gid: int
    nlink: int
    size: int  # bytes, as last published
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    target: str  # of a symbolic link
    parent: int  # of a directory; 0 otherwise
    rdev: int = 0  # of a device node
    allocated: int | None = None  # bytes that its content takes, as last published; None: not known
    attributes_bytes: int = 0  # names and values of its extended attributes

    @property
    def held_bytes(self) -> int:
        """What its content counts for in statfs: what it takes, or the size where that is not known."""
        if not self.object:
            return 0
        return self.size if self.allocated is None else self.allocated


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    cookie: int  # stable within the directory, ascending in listing order, > 0
    name: str
    inode: int


@dataclass(frozen=True, slots=True)
class Unsaved:
    """What would be gone with a node, as it said itself: acknowledged, and not in the backend."""

    at_ms: int = 0  # when it said so, by its own clock, Unix time; 0: never
    bytes: int = 0
    unprotected_bytes: int = 0  # of these, of objects whose DTL was not in sync
    age_ms: int = 0  # of the oldest
    not_open: int = 0  # logs of its objects that were not open, of which it did not know


@dataclass(frozen=True, slots=True)
class NodeRecord:
    id: str
    incarnation: int
    address: str
    lease_number: int
    expired: bool
    status: NodeStatus = NodeStatus.ACTIVE
    domain: str = ""  # failure domain; "": one of its own
    room_bytes: int | None = None  # that its cache can still take, as of its last renewal; None: not known
    release: str = ""  # of its program, as it said at its registration
    unsaved: Unsaved = Unsaved()


class MemberRole(str, Enum):
    """What a member does in the registry; each but a witness also has a daemon that serves."""

    VOTER = "voter"
    WITNESS = "witness"  # a voter whose host has no storage
    REPLICA = "replica"  # has a copy of the registry, and no vote


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """That the vPool is a cluster, and what those who join need."""

    fingerprint: str  # of the authority's certificate, SHA-256, hexadecimal
    backend: str
    created_ns: int


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """Who should take part; Raft's own membership follows it."""

    id: str
    role: MemberRole
    address: str  # of its registry, host:port; its daemon is at the next port
    serial: str  # of its certificate, hexadecimal
    removed: bool
    joined_ns: int
    token: str  # serial of the one that let it in; "" for the first
    name: str = ""  # of the host, for people


@dataclass(frozen=True, slots=True)
class TokenRecord:
    serial: str
    expires_ns: int
    used_by: str  # node id; "" while it is good


@dataclass(frozen=True, slots=True)
class VPoolRecord:
    """The birth record of the vPool."""

    id: str  # UUID, 32 hexadecimal digits
    name: str
    format: int
    volume_rules: tuple[str, ...]  # patterns of names; a new file that matches one is a volume
    created_ns: int


@dataclass(frozen=True, slots=True)
class HeadAdvance:
    """One object's part of ``AdvanceHeads``: refused unless ``previous_tlog`` and ``epoch`` are the object's now."""

    object: str
    epoch: int
    previous_tlog: int  # number of the head's TLog that this one follows; 0: none
    head: Head
    past_tail: bool = False  # the head includes all that the epoch began with: what former owners kept of it is worthless
