"""A registry in RAM with nodes a and b, one file log of a's, and a short way to submit."""

from __future__ import annotations

from typing import Any

from registry import Command, Create, CreateObject, Envelope, Initialise, Inode, InodeKind, NewEpoch, Refusal, RegisterNode
from registry.kv import RamView
from registry.state import apply
from registry.tables import Tables

VPOOL = "f" * 32
LOG = "e" * 32


def oid(number: int) -> str:
    return f"{number:032x}"


class World:
    def __init__(self) -> None:
        self.view = RamView()
        self.tables = Tables(self.view)
        self.sequences: dict[tuple[str, int], int] = {}
        self.incarnations = {"a": 1, "b": 1}
        self.ok(Initialise(VPOOL, "pool", 1, ("*.raw",), 1))
        for node in ("a", "b"):
            self.ok(RegisterNode(node, f"{node}:1", 1), node)
        self.ok(CreateObject(LOG))
        self.ok(NewEpoch(LOG, 0, "a"))

    def submit(self, command: Command, node: str = "a") -> Any:
        incarnation = self.incarnations[node]
        sequence = self.sequences[node, incarnation] = self.sequences.get((node, incarnation), 0) + 1
        return apply(self.view, Envelope(node, incarnation, sequence, command))

    def ok(self, command: Command, node: str = "a") -> Any:
        result = self.submit(command, node)
        assert not isinstance(result, Refusal), result
        return result

    def refused(self, command: Command, kind: str, node: str = "a", reason: str | None = None) -> Refusal:
        before = {key: value for key, value in self.view.items.items() if key[:1] not in b"QS"}
        result = self.submit(command, node)
        assert isinstance(result, Refusal), result
        assert result.kind == kind, result
        assert reason is None or dict(result.details)["reason"] == reason, result
        assert before == {key: value for key, value in self.view.items.items() if key[:1] not in b"QS"}, (
            "a refusal has changed something"
        )
        return result

    def directory(self, parent: int, name: str) -> int:
        return self.create(parent, name, InodeKind.DIRECTORY).number

    def create(self, parent: int, name: str, kind: InodeKind, number: int = 0) -> Inode:
        has_object = kind in (InodeKind.FILE, InodeKind.VOLUME)
        log = LOG if kind is InodeKind.FILE else ""
        target = "t" if kind is InodeKind.SYMLINK else ""
        inode = self.ok(
            Create(parent, name, kind, 0o644, 1, 2, 10, object=oid(number) if has_object else "", log=log, target=target)
        ).inode
        assert isinstance(inode, Inode)
        return inode

    def file(self, name: str, number: int, parent: int = 1) -> Inode:
        return self.create(parent, name, InodeKind.FILE, number)

    def volume(self, name: str, number: int, parent: int = 1) -> Inode:
        return self.create(parent, name, InodeKind.VOLUME, number)
