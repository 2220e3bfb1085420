"""The namespace commands, by POSIX; each refusal must have changed nothing (``World.refused`` checks)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry import Create, InodeKind, Link, ObjectState, RemoveDirectory, Rename, SetAttributes, Unlink
from registry.commands import ADDRESS_MAX
from tests.unit.registry.world import LOG, World, oid


def new_file(name: str, **changes: object) -> Create:
    return replace(Create(1, name, InodeKind.FILE, 0o644, 0, 0, 5, object=oid(99), log=LOG), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "bad_name"),
        (".", "bad_name"),
        ("..", "bad_name"),
        ("a/b", "bad_name"),
        ("a\0", "bad_name"),
        ("ü" * 128, "name_too_long"),
    ],
)
def test_names_that_no_file_may_have(world: World, name: str, reason: str) -> None:
    world.refused(new_file(name), "Invalid", reason=reason)


def test_names_that_files_may_have(world: World) -> None:
    for number, name in enumerate(["a" * 255, "ü" * 127, "\udcff", "...", " "]):
        inode = world.file(name, number)
        entry = world.tables.entry(1, name)
        assert entry is not None
        assert entry.inode == inode.number


def test_create_gives_inode_object_and_address(world: World) -> None:
    one, two = world.file("one", 1), world.file("two", 2)
    record = world.tables.object(oid(2))
    assert record is not None
    assert (record.inode, record.log, record.address, record.state) == (two.number, LOG, 2, ObjectState.LIVE)
    assert world.tables.file_at(LOG, 1) == oid(1)
    assert [entry.name for entry in world.tables.entries(1, 0, 10)] == ["one", "two"]
    first = world.tables.entries(1, 0, 1)[0]
    assert [entry.inode for entry in world.tables.entries(1, first.cookie, 10)] == [two.number]
    assert one.mtime_ns == 10
    root = world.tables.inode(1)
    assert root is not None
    assert root.mtime_ns == 10


def test_create_refuses(world: World) -> None:
    world.file("file", 1)
    world.directory(1, "dir")
    world.create(1, "link", InodeKind.SYMLINK)
    world.refused(new_file("file"), "Exists")
    world.refused(new_file("x", parent=77), "NotFound")
    world.refused(new_file("x", parent=world.file("plain", 2).number), "Invalid", reason="not_directory")
    world.refused(new_file("x", object=oid(1)), "Exists")
    world.refused(new_file("x", object="short"), "Invalid")
    world.refused(new_file("x", log=""), "Invalid")
    world.refused(new_file("x", log=oid(1)), "NotFound")
    world.refused(new_file("x", mode=0o10000), "Invalid")
    world.refused(new_file("x", size=-1), "Invalid")
    world.refused(new_file("x", target="t"), "Invalid")
    world.refused(new_file("dir", exclusive=False), "Invalid", reason="is_directory")
    world.refused(new_file("link", exclusive=False), "Exists")
    world.refused(Create(1, "s", InodeKind.SYMLINK, 0o777, 0, 0, 5, target="t" * 4096), "Invalid")
    world.refused(Create(1, "d", InodeKind.DIRECTORY, 0o777, 0, 0, 5, object=oid(50)), "Invalid")
    world.refused(Create(1, "dir", InodeKind.DIRECTORY, 0o777, 0, 0, 5, exclusive=False), "Exists")


def test_create_that_is_not_exclusive_opens_what_is_there(world: World) -> None:
    inode = world.file("file", 1)
    created = world.ok(new_file("file", exclusive=False))
    assert created.existed
    assert created.inode == inode
    assert created.object.id == oid(1)


def test_addresses_are_never_given_twice_and_end(world: World) -> None:
    world.file("one", 1)
    world.ok(Unlink(1, "one", 6))
    world.file("two", 2)
    assert world.tables.file_at(LOG, 2) == oid(2)
    world.view.put(b"A" + LOG.encode(), (ADDRESS_MAX + 1).to_bytes(4, "big"))
    world.refused(new_file("three"), "NoSpace")


def test_set_group_id_is_inherited(world: World) -> None:
    parent = world.directory(1, "dir")
    world.ok(SetAttributes(parent, mode=0o2755, gid=42))
    child = world.ok(Create(parent, "sub", InodeKind.DIRECTORY, 0o755, 1, 1, 5)).inode
    assert (child.gid, child.mode) == (42, 0o2755)


def test_link_and_unlink(world: World) -> None:
    inode = world.file("a", 1)
    assert world.ok(Link(inode.number, 1, "b", 7)).nlink == 2
    world.refused(Link(inode.number, 1, "b", 7), "Exists")
    world.refused(Link(world.directory(1, "d"), 1, "c", 7), "Denied", reason="not_permitted")
    assert sorted(world.tables.names(inode.number)) == [(1, "a"), (1, "b")]
    assert world.ok(Unlink(1, "a", 8)).nlink == 1
    assert world.ok(Unlink(1, "b", 9)).nlink == 0
    assert list(world.tables.nameless_files(LOG)) == [(1, oid(1))]
    world.refused(Link(inode.number, 1, "c", 7), "NotFound")
    world.refused(Unlink(1, "a", 9), "NotFound")
    world.refused(Unlink(1, "d", 9), "Invalid", reason="is_directory")


def test_a_symbolic_link_ends_with_its_name(world: World) -> None:
    inode = world.create(1, "s", InodeKind.SYMLINK)
    world.ok(Unlink(1, "s", 9))
    assert world.tables.inode(inode.number) is None


def test_directories(world: World) -> None:
    outer = world.directory(1, "outer")
    world.directory(outer, "inner")
    root = world.tables.inode(1)
    assert root is not None
    assert root.nlink == 3
    world.refused(RemoveDirectory(1, "outer", 5), "Conflict", reason="not_empty")
    world.ok(RemoveDirectory(outer, "inner", 5))
    world.ok(RemoveDirectory(1, "outer", 5))
    world.refused(RemoveDirectory(1, "outer", 5), "NotFound")
    world.file("f", 1)
    world.refused(RemoveDirectory(1, "f", 5), "Invalid", reason="not_directory")
    assert world.tables.inode(outer) is None


def test_rename_over(world: World) -> None:
    one, two = world.file("one", 1), world.file("two", 2)
    renamed = world.ok(Rename(1, "one", 1, "two", 20))
    assert renamed.inode.number == one.number
    assert renamed.replaced.number == two.number
    assert renamed.replaced.nlink == 0
    assert list(world.tables.nameless_files(LOG)) == [(2, oid(2))]
    assert [entry.name for entry in world.tables.entries(1, 0, 9)] == ["two"]


def test_rename_refuses(world: World) -> None:
    outer = world.directory(1, "outer")
    inner = world.directory(outer, "inner")
    world.file("file", 1)
    world.refused(Rename(1, "outer", inner, "x", 5), "Invalid", reason="into_itself")
    world.refused(Rename(1, "outer", outer, "x", 5), "Invalid", reason="into_itself")
    world.refused(Rename(outer, "inner", 1, "file", 5), "Invalid", reason="not_directory")
    world.refused(Rename(1, "file", outer, "inner", 5), "Invalid", reason="is_directory")
    world.refused(Rename(1, "file", 1, "outer", 5, no_replace=True), "Exists")
    world.refused(Rename(1, "none", 1, "x", 5), "NotFound")
    world.refused(Rename(1, "file", 1, "none", 5, exchange=True), "NotFound")
    world.refused(Rename(1, "file", 1, "x", 5, exchange=True, no_replace=True), "Invalid")
    world.directory(1, "other")
    world.refused(Rename(1, "other", 1, "outer", 5), "Conflict", reason="not_empty")
    world.refused(Rename(1, "outer", inner, "x", 5, exchange=False), "Invalid", reason="into_itself")


def test_rename_of_two_names_of_one_inode_does_nothing(world: World) -> None:
    inode = world.file("a", 1)
    world.ok(Link(inode.number, 1, "b", 7))
    world.ok(Rename(1, "a", 1, "b", 8))
    assert [entry.name for entry in world.tables.entries(1, 0, 9)] == ["a", "b"]


def test_rename_moves_directories_and_their_links(world: World) -> None:
    one, two = world.directory(1, "one"), world.directory(1, "two")
    sub = world.directory(one, "sub")
    world.ok(Rename(one, "sub", two, "sub2", 5))
    links = {number: inode.nlink for number in (1, one, two, sub) if (inode := world.tables.inode(number))}
    assert links == {1: 4, one: 2, two: 3, sub: 2}
    moved = world.tables.inode(sub)
    assert moved is not None
    assert moved.parent == two


def test_exchange(world: World) -> None:
    outer = world.directory(1, "outer")
    file = world.file("file", 1)
    sub = world.directory(outer, "sub")
    world.refused(Rename(1, "outer", outer, "sub", 5, exchange=True), "Invalid", reason="into_itself")
    world.ok(Rename(1, "file", outer, "sub", 5, exchange=True))
    root, parent = world.tables.inode(1), world.tables.inode(outer)
    assert root is not None
    assert parent is not None
    assert (root.nlink, parent.nlink) == (4, 2)
    entries = {entry.name: entry.inode for entry in world.tables.entries(1, 0, 9)}
    assert entries == {"outer": outer, "file": sub}
    assert [entry.inode for entry in world.tables.entries(outer, 0, 9)] == [file.number]


def test_set_attributes(world: World) -> None:
    inode = world.file("a", 1)
    changed = world.ok(SetAttributes(inode.number, mode=0o600, size=77, mtime_ns=123))
    assert (changed.mode, changed.size, changed.mtime_ns, changed.uid) == (0o600, 77, 123, 1)
    record = world.tables.object(oid(1))
    assert record is not None
    assert record.size == 77
    world.refused(SetAttributes(inode.number, mode=1 << 20), "Invalid")
    world.refused(SetAttributes(inode.number, size=-1), "Invalid")
    world.refused(SetAttributes(world.volume("v", 2).number, size=5), "Invalid")
    world.refused(SetAttributes(12345), "NotFound")
