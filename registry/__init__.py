"""The Object Registry: who owns which object at which epoch, and the namespace; the one thing all hosts must agree on.

A pure state machine (``state``) applies commands (``commands``) to a key-value view; Raft (``raft``) decides their order and has
them on disk before it answers; a process of its own (``server``) runs that beside the data path. The rest of the daemon uses two
things: :class:`RegistryClient`, which submits commands and raises what they are refused with, and
:class:`RegistryView`, which reads the state in read transactions of its own, without a message. What ``submit`` has answered, a
read that begins afterwards sees (one node). The room calls nobody but ``vpool.errors``.
"""

from registry.commands import (
    AdvanceHeads,
    Closed,
    CloseHandle,
    Command,
    Condemn,
    Create,
    Created,
    CreateObject,
    Envelope,
    Expire,
    Forget,
    Halt,
    HeadAdvanced,
    Initialise,
    Link,
    NewEpoch,
    OpenHandle,
    Publish,
    Refusal,
    RegisterNode,
    RemoveDirectory,
    Rename,
    Renamed,
    RenewLease,
    Resize,
    Result,
    SetAttributes,
    Unhalt,
    Unlink,
)
from registry.model import (
    ROOT_INODE,
    DirectoryEntry,
    Head,
    HeadAdvance,
    Inode,
    InodeKind,
    NodeRecord,
    ObjectKind,
    ObjectRecord,
    ObjectState,
    RootName,
    TlogName,
    VPoolRecord,
)

__all__ = [
    "ROOT_INODE", "AdvanceHeads", "CloseHandle", "Closed", "Command", "Condemn", "Create", "CreateObject", "Created",
    "DirectoryEntry",
    "Envelope", "Expire", "Forget", "Halt", "Head", "HeadAdvance", "HeadAdvanced", "Initialise", "Inode", "InodeKind", "Link",
    "NewEpoch",
    "NodeRecord", "ObjectKind", "ObjectRecord", "ObjectState", "OpenHandle", "Publish", "Refusal", "RegisterNode",
    "RemoveDirectory",
    "Rename", "Renamed", "RenewLease", "Resize", "Result", "RootName", "SetAttributes", "TlogName", "Unhalt", "Unlink",
    "VPoolRecord",
]  # fmt: skip
