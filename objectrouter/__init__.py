"""The Object Router: local or remote? One vocabulary for all front ends.

The room promises that a request reaches the one owner of its object, or is told why not. It calls the drivers and the registry.
"""

from objectrouter.router import FilesystemStatistics, ObjectRouter, RouterSettings
from registry import ROOT_INODE, DirectoryEntry, Inode, InodeKind

__all__ = ["ROOT_INODE", "DirectoryEntry", "FilesystemStatistics", "Inode", "InodeKind", "ObjectRouter", "RouterSettings"]
