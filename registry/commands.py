"""Everything that can be asked of the registry: one frozen dataclass per command, and what each answers. Pure.

A command travels in an :class:`Envelope` that says who asks, in which life, and for which time; by that it is applied at
most once. What the registry refuses comes back as a :class:`Refusal`, has changed nothing, and is raised by
``RegistryClient.submit`` as the class of ``vpool.errors`` that ``kind`` names, with ``details``. Where a front end must tell
refusals of one class apart (errno), ``details["reason"]`` is one of ``REASONS``.

Rules for all commands:

- Times (``*_ns``) are nanoseconds since 1970, chosen by the caller; the registry has no clock. New object ids are chosen by the
  caller too: a UUID, 32 lower-case hexadecimal digits. Inode numbers, cookies and file addresses are chosen by the registry.
- Names are text of 1–255 bytes in UTF-8 (what is not UTF-8 as ``surrogateescape``), no ``/``, no NUL, not ``.`` or ``..``.
- The caller's permissions are not checked here.
- A caller whose incarnation is over, that is expired or has never registered gets ``Fenced`` for everything but
  ``RegisterNode`` and ``Initialise``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from registry.member_commands import (
    Admit,
    ChangeMember,
    FormCluster,
    GrantToken,
    RemoveMember,
    RevokeCertificate,
    SetRole,
)
from registry.model import (
    ClusterRecord,
    DirectoryEntry,
    Head,
    HeadAdvance,
    Inode,
    InodeKind,
    MemberRecord,
    NodeRecord,
    ObjectKind,
    ObjectRecord,
    TokenRecord,
    Unsaved,
    VPoolRecord,
)
from registry.owner_commands import Abort, DropRemains, ProposeDtl, SetNode, Steal, Transfer

NAME_BYTES_MAX = 255
TARGET_BYTES_MAX = 4095
LINKS_MAX = 65_000
SIZE_BYTES_MAX = (1 << 63) - 1
ADDRESS_MAX = (1 << 24) - 1  # of the files that one log has at a time
ADVANCES_MAX = 4096
SETTLEMENTS_MAX = 1024
ATTRIBUTE_NAME_BYTES_MAX = 255  # xattr(7)
ATTRIBUTE_VALUE_BYTES_MAX = 65_536
ATTRIBUTES_BYTES_MAX = 128 << 10  # of all names and values of an inode

ErrorKind = Literal[
    "Unavailable",
    "Moved",
    "Fenced",
    "NotFound",
    "Exists",
    "Conflict",
    "Invalid",
    "Denied",
    "NoSpace",
    "Corrupt",
    "Halted",
    "Internal",
]

REASONS = (
    "not_directory",  # Invalid: a directory was needed here (ENOTDIR)
    "is_directory",  # Invalid: anything but a directory was needed (EISDIR)
    "not_empty",  # Conflict: the directory has entries (ENOTEMPTY)
    "name_too_long",  # Invalid: more than 255 bytes (ENAMETOOLONG)
    "bad_name",  # Invalid: empty, ".", "..", "/" or NUL in it (EINVAL)
    "into_itself",  # Invalid: a directory would become its own ancestor (EINVAL)
    "too_many_links",  # NoSpace: LINKS_MAX (EMLINK)
    "no_attribute",  # NotFound: no such extended attribute (ENODATA)
    "value_too_long",  # Invalid: an extended attribute of more than ATTRIBUTE_VALUE_BYTES_MAX (E2BIG)
    "log_full",  # NoSpace: the log has as many files as it can have
    "too_large",  # NoSpace: beyond the largest size of an object (EFBIG)
    "not_permitted",  # Denied: a hard link to a directory (EPERM)
    "epoch",  # Conflict: the object's epoch is another one
    "owner_alive",  # Conflict: only the owner may propose a new epoch while its lease lives
    "steal",  # Conflict: the owner has expired; what it owned is taken by Steal
    "attempt",  # Conflict: this attempt of a hand-over has been given up
    "dtl",  # Conflict: the state of the DTL is another one
    "loss",  # Conflict: what was flushed might be lost, and nobody has consented
    "peer_unfenced",  # Conflict: the owner may still be serving by its peer's word
    "node_status",  # Conflict: the node is drained or in maintenance
    "incarnation",  # Conflict: the node has begun another life
    "handles",  # Conflict: somebody has it open
    "previous",  # Conflict: the head is not the one that the advance follows
)


# -- nodes and settings ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Initialise:
    """Birth of the vPool: its id, format and the rules that say which new files are volumes. Makes the root directory.

    Result: :class:`VPoolRecord`. Asked again with the same ``vpool_id`` it answers what is there; with another: ``Conflict``.
    """

    vpool_id: str  # UUID, 32 hexadecimal digits
    name: str
    format: int  # version of the whole; 1
    volume_rules: tuple[str, ...]  # patterns of names, as in fnmatch: *.raw, *-flat.vmdk
    now_ns: int
    mode: int = 0o755  # of the root directory
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class RegisterNode:
    """A new life of a node.

    ``node`` and ``incarnation`` are those of the envelope; ``incarnation`` must be greater than any before.

    Handles of older incarnations are dropped; their commands are refused from now on. Result: :class:`NodeRecord`.
    Errors: ``Fenced`` (this or a later incarnation is registered already), ``Invalid``.
    """

    node: str  # 1–64 of A–Z a–z 0–9 . _ -
    address: str
    incarnation: int
    domain: str | None = None  # failure domain, as a node's id; None: as it was
    release: str = ""  # of the program, for people: at most 64 bytes


@dataclass(frozen=True, slots=True)
class RenewLease:
    """The caller renews its lease with a number greater than any before, and says how much room and what unsaved its cache has.

    Result: :class:`NodeRecord`. Errors: ``Conflict``, ``Fenced``.
    """

    number: int
    room_bytes: int | None = None  # None: not known
    unsaved: Unsaved = Unsaved()  # noqa: RUF009  # frozen


@dataclass(frozen=True, slots=True)
class Expire:
    """Declare an incarnation of a node dead: asked by another after lease + margin without a newer renewal.

    Or by the node itself, which so releases what it owns when its disk is dead. Its handles are dropped, its objects may be
    taken. Result: :class:`NodeRecord`. Errors: ``Conflict`` (a newer renewal or
    incarnation has been seen), ``NotFound``.
    """

    node: str
    incarnation: int
    lease_number: int


# -- namespace ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Create:
    """A new name and inode. Volumes and files get an object too (``object``: its new id), a file an address in ``log``.

    ``opened``: the caller holds a handle on it at once, as by ``OpenHandle``.
    Not ``exclusive``: an existing volume or file (of either kind) is the answer, unchanged. A set-group-id parent hands down its
    gid and, to directories, the bit. Result: :class:`Created`.
    Errors: ``Exists``, ``NotFound`` (parent, log), ``Invalid`` (reasons ``bad_name name_too_long not_directory is_directory``),
    ``NoSpace``.
    """

    parent: int
    name: str
    kind: InodeKind
    mode: int  # permission bits, 0o7777
    uid: int
    gid: int
    now_ns: int
    object: str = ""  # new id for volumes and files; "" for others
    size: int = 0  # bytes, of a volume or file
    log: str = ""  # a file's FILE_LOG object
    target: str = ""  # of a symbolic link
    exclusive: bool = True
    rdev: int = 0  # of a device node
    opened: bool = False
    layout: int = 1  # of a file's region


@dataclass(frozen=True, slots=True)
class Created:
    """Answer to ``Create``."""

    inode: Inode
    object: ObjectRecord | None  # None for what has no content
    existed: bool  # only when not exclusive


@dataclass(frozen=True, slots=True)
class Rename:
    """rename(2) and renameat2(2). Two names of one inode: nothing happens. The kind of an object does not change with its name.

    Result: :class:`Renamed`. Errors: ``NotFound``, ``Exists`` (``no_replace``), ``Conflict`` (``not_empty``), ``Invalid``
    (``into_itself``, ``not_directory``, ``is_directory``, names, both flags).
    """

    parent: int
    name: str
    new_parent: int
    new_name: str
    now_ns: int
    no_replace: bool = False
    exchange: bool = False


@dataclass(frozen=True, slots=True)
class Renamed:
    """Answer to ``Rename``."""

    inode: Inode  # what moved
    replaced: Inode | None  # what had the new name, after it lost it (``nlink`` 0: gone, or an orphan if it has an object)


@dataclass(frozen=True, slots=True)
class Link:
    """A further name for anything but a directory. Result: :class:`Inode`. Errors: as ``Create``; ``Denied``, ``NoSpace``."""

    inode: int
    new_parent: int
    new_name: str
    now_ns: int


@dataclass(frozen=True, slots=True)
class Unlink:
    """Remove a name. With the last one the object becomes an orphan and lives until its last handle is gone.

    Result: :class:`Inode` after it. Errors: ``NotFound``, ``Invalid`` (``is_directory``, ``not_directory`` parent).
    """

    parent: int
    name: str
    now_ns: int


@dataclass(frozen=True, slots=True)
class RemoveDirectory:
    """Remove an empty directory.

    Result: :class:`Inode` as it was. Errors: ``NotFound``, ``Conflict`` (``not_empty``), ``Invalid``.
    """

    parent: int
    name: str
    now_ns: int


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """Change what is given.

    ``size`` only of files (volumes: ``Resize``). Result: :class:`Inode`. Errors: ``NotFound``, ``Invalid``.
    """

    inode: int
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class OpenHandle:
    """The caller's incarnation opens an inode that has an object, ``count`` times. Result: int, its open handles on it now.

    Errors: ``NotFound`` (no such inode; or neither name nor handle left), ``Invalid`` (has no object).
    """

    inode: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class CloseHandle:
    """The reverse of ``OpenHandle``. Result: :class:`Closed`. Errors: ``Conflict`` (more than are open), ``NotFound``."""

    inode: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Closed:
    """Answer to ``CloseHandle``."""

    handles: int  # of this node on this inode, still open
    orphaned: bool  # neither name nor handle is left anywhere: may be condemned


# -- objects -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateObject:
    """An object outside the namespace: a FILE_LOG. Result: :class:`ObjectRecord`. Errors: ``Exists``, ``Invalid``."""

    object: str
    kind: ObjectKind = ObjectKind.FILE_LOG
    epoch: int = 0  # before its first opening; that of another log if files of that are to come into this one


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """The next epoch of an object that is the caller's, or nobody's: at its opening.

    ``epoch`` + 1, base = head, owner = ``node``. For volumes and file logs (a file has its log's epoch). A DTL that is on is
    degraded by it: what the peer holds of the old epoch may be more than has survived here. Who else is to own the object
    gets it by
    ``Transfer`` or ``Steal``. Result: :class:`ObjectRecord`.
    Errors: ``Conflict`` (``epoch``, ``owner_alive``, ``steal``), ``Halted``, ``NotFound`` (also condemned), ``Invalid``.
    """

    object: str
    expected_epoch: int  # the object's epoch now; 0 before its first opening
    node: str  # the caller


@dataclass(frozen=True, slots=True)
class AdvanceHeads:
    """Heads of several objects of the caller; each is judged by itself, in order, so one object may advance by several TLogs.

    An advance must carry the object's epoch, follow the head it has (``previous_tlog``), name the very next TLog (number
    ``previous_tlog`` + 1, of this epoch) or the same one with a newer checkpoint, and take neither ``next_sco`` nor the
    checkpoint back. One that is the head already is fine. Result: tuple of :class:`HeadAdvanced`, one each. Errors of the whole:
    ``Invalid`` (too many).
    """

    advances: tuple[HeadAdvance, ...]


@dataclass(frozen=True, slots=True)
class HeadAdvanced:
    """``error``.

    None if the head is now (or was already) what was asked; else why not: NotFound, Conflict, Moved, Fenced, Halted, Invalid.
    """

    object: str
    head: Head | None  # as it is now
    error: Refusal | None


@dataclass(frozen=True, slots=True)
class Publish:
    """The owner publishes what changed with writes: a file's size, times. For a file ``epoch`` is its log's.

    Result: :class:`Inode`. Errors: ``Conflict`` (``epoch``), ``Moved`` (another owner), ``NotFound``, ``Invalid`` (a volume's
    size: ``Resize``; no inode).
    """

    object: str
    epoch: int
    size: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    atime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Resize:
    """The owner changes a volume's size (grow only when it has made room, shrink only after it has cut).

    Result: :class:`ObjectRecord`.

    Errors: ``Conflict`` (``epoch``), ``Moved``, ``Halted``, ``NotFound``, ``Invalid``.
    """

    object: str
    epoch: int
    size: int
    now_ns: int


@dataclass(frozen=True, slots=True)
class Condemn:
    """From now on the object's names in the backend may be deleted; no way back. Only an orphan without handles, at this epoch.

    A FILE_LOG may be condemned when no file is in it. Result: :class:`ObjectRecord`. Errors: ``Conflict`` (``epoch``,
    ``handles``, has a name, files), ``Halted``, ``NotFound``. Asked again: the same answer.
    """

    object: str
    expected_epoch: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop the record (and the inode) of a condemned object whose bucket is gone.

    Result: None. Errors: ``Conflict``, ``NotFound``.
    """

    object: str


@dataclass(frozen=True, slots=True)
class Halt:
    """The object refuses service; ``reason`` tells the administrator why and what to do.

    Result: :class:`ObjectRecord`. Errors: ``NotFound``, ``Conflict``.
    """

    object: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unhalt:
    """The administrator has seen to it. Result: :class:`ObjectRecord`. Errors: ``NotFound``, ``Conflict`` (not halted)."""

    object: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """One object's part of ``Settle``: what the owner publishes (None: as it is), and handles that it gives back."""

    object: str
    epoch: int
    size: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    atime_ns: int | None = None
    allocated: int | None = None
    close: int = 0


@dataclass(frozen=True, slots=True)
class Settle:
    """``Publish`` and ``CloseHandle`` of many objects of the caller; each is judged by itself.

    A ctime is not taken back. Result: tuple of :class:`Settled`, one each. Errors of the whole: ``Invalid`` (too many).
    """

    settlements: tuple[Settlement, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """``error``: None, or why it was not published. Handles are given back in either case."""

    object: str
    error: Refusal | None


@dataclass(frozen=True, slots=True)
class ForgetFiles:
    """Drop records and inodes of files whose regions have been erased, durably; their addresses may be given again.

    Each is judged by itself: neither name nor handle may be left. Result: tuple of :class:`Settled`. Errors of the whole:
    ``Invalid`` (too many).
    """

    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relocate:
    """A file goes into another log of the caller, which has never had one and is at a later epoch: it gets the address 1 there.

    Whoever forwards requests on the file takes the log's epoch for the file's, so that must grow. The address that it had is not
    given again: what lies there is still to be erased. Result: :class:`ObjectRecord`, of the file.
    Errors: ``Conflict`` (``epoch``; the file is in another log; there has been a file in ``to``), ``Moved``, ``Halted``,
    ``NotFound``, ``Invalid``.
    """

    object: str
    log: str  # where it is
    epoch: int  # of that log
    to: str
    to_epoch: int


# -- extended attributes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetAttribute:
    """Set an extended attribute; the namespace (``user.`` …) is part of the name.

    Result: :class:`Inode`. Errors: ``NotFound`` (inode; ``must_exist``: reason ``no_attribute``), ``Exists``
    (``must_not_exist``), ``Invalid`` (name; ``value_too_long``), ``NoSpace`` (more than an inode may have).
    """

    inode: int
    name: str
    value: bytes
    now_ns: int
    must_exist: bool = False
    must_not_exist: bool = False


@dataclass(frozen=True, slots=True)
class RemoveAttribute:
    """Remove an extended attribute. Result: :class:`Inode`. Errors: ``NotFound`` (inode; reason ``no_attribute``)."""

    inode: int
    name: str
    now_ns: int


# -- around commands ---------------------------------------------------------------------------------------------------

Command = (
    Initialise
    | RegisterNode
    | RenewLease
    | Expire
    | Create
    | Rename
    | Link
    | Unlink
    | RemoveDirectory
    | SetAttributes
    | OpenHandle
    | CloseHandle
    | CreateObject
    | NewEpoch
    | AdvanceHeads
    | Publish
    | Resize
    | Condemn
    | Forget
    | Halt
    | Unhalt
    | Settle
    | ForgetFiles
    | Relocate
    | SetAttribute
    | RemoveAttribute
    | Transfer
    | Abort
    | ProposeDtl
    | Steal
    | DropRemains
    | SetNode
    | FormCluster
    | GrantToken
    | Admit
    | SetRole
    | RemoveMember
    | ChangeMember
    | RevokeCertificate
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a command was not applied; the state is as before. ``kind`` is the name of a class in ``vpool.errors``."""

    kind: ErrorKind
    message: str
    details: tuple[tuple[str, str | int], ...] = ()


@dataclass(frozen=True, slots=True)
class Envelope:
    """A command and who asks for it: sequences count from 1 within an incarnation; a repeated one gets the remembered result."""

    node: str
    incarnation: int
    sequence: int
    command: Command


Result = (
    None
    | int
    | VPoolRecord
    | NodeRecord
    | Inode
    | ObjectRecord
    | Created
    | Renamed
    | Closed
    | tuple[HeadAdvanced, ...]
    | tuple[Settled, ...]
    | ClusterRecord
    | MemberRecord
    | TokenRecord
)

__all__ = [
    "ADDRESS_MAX", "ADVANCES_MAX", "ATTRIBUTES_BYTES_MAX", "ATTRIBUTE_NAME_BYTES_MAX", "ATTRIBUTE_VALUE_BYTES_MAX", "LINKS_MAX",
    "NAME_BYTES_MAX", "REASONS", "SETTLEMENTS_MAX", "SIZE_BYTES_MAX", "TARGET_BYTES_MAX", "Abort", "AdvanceHeads",
    "CloseHandle", "Closed", "Command", "Condemn", "Create", "CreateObject", "Created", "DirectoryEntry", "DropRemains",
    "Envelope", "ErrorKind", "Expire", "Forget", "ForgetFiles", "Halt", "HeadAdvance", "HeadAdvanced", "Initialise", "Link",
    "NewEpoch", "OpenHandle", "ProposeDtl", "Publish", "Refusal", "RegisterNode", "Relocate", "RemoveAttribute",
    "RemoveDirectory", "Rename", "Renamed", "RenewLease", "Resize", "Result", "SetAttribute", "SetAttributes", "SetNode",
    "Settle", "Settled", "Settlement", "Steal", "Transfer", "Unhalt", "Unlink",
]  # fmt: skip
