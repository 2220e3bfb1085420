"""What the registry knows of an object, as a node sees it."""

from __future__ import annotations

from pathlib import Path

from registry import ObjectRecord, RegistryView


def record_in(view: RegistryView, name: str) -> ObjectRecord:
    """Of the file or volume with this path; it must be there."""
    inode = view.resolve(name)
    assert inode is not None, name
    record = view.object(inode.object)
    assert record is not None, name
    return record


def record_of(node: Path, name: str) -> ObjectRecord:
    """As the node with this directory sees it now."""
    with RegistryView(node / "registry") as view:
        return record_in(view, name)
