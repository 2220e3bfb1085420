"""The namespace against a plain model: dictionaries of names, and the rules of POSIX in a few lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from registry import (
    Create,
    Created,
    Envelope,
    Initialise,
    InodeKind,
    Link,
    Refusal,
    RegisterNode,
    RemoveDirectory,
    Rename,
    Unlink,
)
from registry.kv import RamView
from registry.state import apply
from registry.tables import Tables

NAMES = st.sampled_from(["a", "b", "c", "ü"])
PATHS = st.lists(NAMES, max_size=3)


@dataclass(eq=False)
class Thing:
    names: dict[str, Thing] | None = None  # of a directory
    number: int = 0
    object: str = ""


@dataclass
class Model:
    root: Thing = field(default_factory=lambda: Thing({}, 1))

    def at(self, path: list[str]) -> Thing | None:
        thing: Thing | None = self.root
        for name in path:
            thing = thing.names.get(name) if thing and thing.names is not None else None
        return thing

    def inside(self, thing: Thing, directory: Thing) -> bool:
        """Whether ``thing`` is ``directory`` or below it."""
        return thing is directory or any(self.inside(thing, child) for child in (directory.names or {}).values())

    def links(self, thing: Thing, start: Thing | None = None) -> int:
        names = (start or self.root).names or {}
        return sum((child is thing) + self.links(thing, child) for child in names.values())


class Namespace(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.view = RamView()
        self.tables = Tables(self.view)
        self.model = Model()
        self.sequence = 0
        self.objects = 0
        self.do(Initialise("f" * 32, "", 1, (), 0))
        self.do(RegisterNode("a", "", 1))

    def do(self, command: Any) -> Any:
        self.sequence += 1
        return apply(self.view, Envelope("a", 1, self.sequence, command))

    def parent(self, path: list[str]) -> Thing:
        thing = self.model.at(path)
        return thing if thing is not None else self.model.root

    @rule(path=PATHS, name=NAMES, is_directory=st.booleans())
    def create(self, path: list[str], name: str, is_directory: bool) -> None:
        parent = self.parent(path)
        self.objects += 1
        kind = InodeKind.DIRECTORY if is_directory else InodeKind.VOLUME
        object_id = "" if is_directory else f"{self.objects:032x}"
        result = self.do(Create(parent.number, name, kind, 0o755, 0, 0, self.sequence, object=object_id))
        if parent.names is None or name in parent.names:
            assert isinstance(result, Refusal)
        else:
            assert isinstance(result, Created)
            parent.names[name] = Thing({} if is_directory else None, result.inode.number, object_id)

    @rule(path=PATHS, name=NAMES)
    def unlink(self, path: list[str], name: str) -> None:
        parent = self.parent(path)
        result = self.do(Unlink(parent.number, name, self.sequence))
        thing = (parent.names or {}).get(name)
        assert isinstance(result, Refusal) == (thing is None or thing.names is not None)
        if not isinstance(result, Refusal):
            assert parent.names is not None
            del parent.names[name]

    @rule(path=PATHS, name=NAMES)
    def remove_directory(self, path: list[str], name: str) -> None:
        parent = self.parent(path)
        result = self.do(RemoveDirectory(parent.number, name, self.sequence))
        thing = (parent.names or {}).get(name)
        assert isinstance(result, Refusal) == (thing is None or thing.names is None or bool(thing.names))
        if not isinstance(result, Refusal):
            assert parent.names is not None
            del parent.names[name]

    @rule(source=PATHS, path=PATHS, name=NAMES)
    def link(self, source: list[str], path: list[str], name: str) -> None:
        thing, parent = self.parent(source), self.parent(path)
        result = self.do(Link(thing.number, parent.number, name, self.sequence))
        assert isinstance(result, Refusal) == (thing.names is not None or parent.names is None or name in parent.names)
        if not isinstance(result, Refusal):
            assert parent.names is not None
            parent.names[name] = thing

    @rule(old=PATHS, name=NAMES, new=PATHS, new_name=NAMES, flags=st.sampled_from(["", "noreplace", "exchange"]))
    def rename(self, old: list[str], name: str, new: list[str], new_name: str, flags: str) -> None:
        one, two = self.parent(old), self.parent(new)
        result = self.do(
            Rename(
                one.number,
                name,
                two.number,
                new_name,
                self.sequence,
                no_replace=flags == "noreplace",
                exchange=flags == "exchange",
            )
        )
        allowed = self.may_rename(one, name, two, new_name, flags)
        assert isinstance(result, Refusal) != allowed, (result, allowed)
        if not allowed:
            return
        assert one.names is not None
        assert two.names is not None
        thing, there = one.names[name], two.names.get(new_name)
        if thing is there:
            return
        if flags == "exchange":
            assert there is not None
            one.names[name], two.names[new_name] = there, thing
        else:
            del one.names[name]
            two.names[new_name] = thing

    def may_rename(self, one: Thing, name: str, two: Thing, new_name: str, flags: str) -> bool:
        if one.names is None or two.names is None or name not in one.names:
            return False
        thing, there = one.names[name], two.names.get(new_name)
        if flags == "exchange":
            if there is None:
                return False
            return thing is there or not (self.model.inside(two, thing) or self.model.inside(one, there))
        if there is not None and flags == "noreplace":
            return False
        if thing is there:
            return True
        if thing.names is not None and self.model.inside(two, thing):
            return False
        if there is None:
            return True
        if there.names is not None:
            return thing.names is not None and not there.names
        return thing.names is None

    @invariant()
    def the_tree_is_the_models(self) -> None:
        self.compare(self.model.root, [])

    def compare(self, directory: Thing, path: list[str]) -> None:
        entries = self.tables.entries(directory.number, 0, 1000)
        assert [entry.cookie for entry in entries] == sorted({entry.cookie for entry in entries})
        names = directory.names or {}
        assert {entry.name: entry.inode for entry in entries} == {name: thing.number for name, thing in names.items()}
        inode = self.tables.inode(directory.number)
        assert inode is not None
        assert inode.nlink == 2 + sum(thing.names is not None for thing in names.values())
        for name, thing in names.items():
            assert (directory.number, name) in set(self.tables.names(thing.number))
            child = self.tables.inode(thing.number)
            assert child is not None
            if thing.names is not None:
                assert child.parent == directory.number
                self.compare(thing, [*path, name])
            else:
                assert child.nlink == self.model.links(thing) == len(list(self.tables.names(thing.number)))

    @invariant()
    def orphans_are_what_has_no_name(self) -> None:
        named: set[str] = set()

        def walk(directory: Thing) -> None:
            for thing in (directory.names or {}).values():
                named.add(thing.object)
                walk(thing)

        walk(self.model.root)
        everything = {record.id for record in self.tables.objects()}
        assert set(self.tables.nameless()) == everything - named


TestNamespace = Namespace.TestCase
TestNamespace.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
