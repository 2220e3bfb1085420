"""What small files need of the registry: addresses that come back, commands that carry many, extended attributes, counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry import (
    AdvanceHeads,
    Create,
    CreateObject,
    ForgetFiles,
    Head,
    HeadAdvance,
    InodeKind,
    Link,
    NewEpoch,
    OpenHandle,
    Refusal,
    RegisterNode,
    Relocate,
    RemoveAttribute,
    RemoveDirectory,
    Rename,
    SetAttribute,
    SetAttributes,
    Settle,
    Settlement,
    TlogName,
    Unlink,
)
from registry.codec import from_list, to_list
from registry.commands import ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_BYTES_MAX
from registry.model import Inode, ObjectRecord
from tests.unit.registry.world import LOG, World, oid


def new_file(name: str, number: int, **changes: object) -> Create:
    return replace(Create(1, name, InodeKind.FILE, 0o644, 0, 0, 5, object=oid(number), log=LOG, layout=2), **changes)  # type: ignore[arg-type]


def error_of(world: World, command: object) -> list[str | None]:
    return [settled.error and settled.error.kind for settled in world.ok(command)]  # type: ignore[arg-type]


def address(world: World, number: int) -> int:
    record = world.tables.object(oid(number))
    assert record is not None
    return record.address


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_an_address_is_given_again_when_its_file_is_forgotten_and_not_before(world: World) -> None:
    for number in (1, 2, 3):
        world.ok(new_file(f"f{number}", number))
    world.ok(Unlink(1, "f2", 6))
    world.ok(new_file("f4", 4))
    assert address(world, 4) == 4
    assert error_of(world, ForgetFiles((oid(2),))) == [None]
    assert list(world.tables.free_addresses(LOG)) == [(2, "")]
    world.ok(new_file("f5", 5))
    world.ok(new_file("f6", 6))
    assert (address(world, 5), address(world, 6)) == (2, 5)
    assert world.tables.file_at(LOG, 2) == oid(5)


def test_an_address_of_a_region_that_names_no_object_is_never_given_again(world: World) -> None:
    """What an older prefix of the log has there could not be told from the new file's bytes."""
    world.ok(new_file("old", 1, layout=1))
    world.ok(Unlink(1, "old", 6))
    world.ok(ForgetFiles((oid(1),)))
    world.ok(new_file("new", 2))
    assert address(world, 2) == 2


def test_forget_files_takes_only_what_nobody_can_reach(world: World) -> None:
    named, opened, gone = (world.ok(new_file(f"f{number}", number)).inode for number in (1, 2, 3))
    world.volume("v.raw", 4)
    world.ok(OpenHandle(opened.number))
    world.ok(Unlink(1, "f2", 6))
    world.ok(Unlink(1, "f3", 6))
    assert [record[1] for record in world.tables.nameless_files(LOG)] == [oid(2), oid(3)]
    kinds = error_of(world, ForgetFiles((oid(1), oid(2), oid(3), oid(4), oid(5))))
    assert kinds == ["Conflict", "Conflict", None, "Invalid", "NotFound"]
    assert world.tables.inode(gone.number) is None
    assert world.tables.inode(named.number) is not None
    assert world.ok(ForgetFiles((oid(2),)), "b")[0].error.kind == "Conflict"
    world.ok(Settle((Settlement(oid(2), 1, close=1),)))
    assert world.ok(ForgetFiles((oid(2),)), "b")[0].error.kind == "Moved", "only the owner of the log has erased it"


# -- many at once ------------------------------------------------------------------------------------------------------


def test_create_may_open_at_once(world: World) -> None:
    inode = world.ok(new_file("f", 1, opened=True)).inode
    assert world.tables.handles(inode.number) == [("a", 1)]
    world.ok(new_file("f", 2, opened=True, exclusive=False))
    assert world.tables.handles(inode.number) == [("a", 2)]
    world.refused(Create(1, "d", InodeKind.DIRECTORY, 0o755, 0, 0, 5, opened=True), "Invalid")


def test_settle_publishes_and_gives_handles_back(world: World) -> None:
    one = world.ok(new_file("one", 1, opened=True)).inode
    world.ok(new_file("two", 2))
    world.ok(SetAttributes(one.number, ctime_ns=100))
    kinds = error_of(
        world,
        Settle(
            (
                Settlement(oid(1), 1, size=9, mtime_ns=50, ctime_ns=50, atime_ns=51, allocated=4096, close=1),
                Settlement(oid(2), 2, size=9),
                Settlement(oid(2), 1, size=7, close=1),
                Settlement(oid(2), 1, size=-1),
                Settlement(oid(3), 1),
            )
        ),
    )
    assert kinds == [None, "Conflict", "Conflict", "Invalid", "NotFound"]
    found = world.tables.inode(one.number)
    assert found is not None
    assert (found.size, found.mtime_ns, found.atime_ns, found.allocated) == (9, 50, 51, 4096)
    assert found.ctime_ns == 100, "a change of the mode that came between is not undone"
    assert not world.tables.handles(one.number)
    assert world.ok(Settle((Settlement(oid(1), 1, size=3),)), "b")[0].error.kind == "Moved"
    world.volume("v.raw", 4)
    assert isinstance(world.ok(Settle((Settlement(oid(4), 0, size=3),)))[0].error, Refusal)


# -- counts, for statfs ------------------------------------------------------------------------------------------------


def test_inodes_and_bytes_are_counted_through_all_that_changes_them(world: World) -> None:
    def counted() -> tuple[int, int]:
        found = world.tables.counted()
        inodes = [from_list(Inode, to_list(inode)) for inode in _inodes(world)]
        assert found == (len(inodes), sum(inode.held_bytes for inode in inodes))
        return found

    assert counted() == (1, 0)
    inode = world.ok(new_file("f", 1)).inode
    world.volume("v.raw", 2)
    world.directory(1, "d")
    world.create(1, "s", InodeKind.SYMLINK)
    assert counted() == (5, 0)
    world.ok(Settle((Settlement(oid(1), 1, size=5000, allocated=8192),)))
    assert counted() == (5, 8192)
    world.ok(SetAttributes(inode.number, size=7))
    assert counted() == (5, 8192)
    world.ok(Link(inode.number, 1, "again", 6))
    world.ok(Rename(1, "s", 1, "again", 7))
    world.ok(RemoveDirectory(1, "d", 7))
    assert counted() == (4, 8192)
    world.ok(Unlink(1, "f", 8))
    assert counted() == (4, 8192), "it is there until it is forgotten"
    world.ok(ForgetFiles((oid(1),)))
    assert counted() == (3, 0)
    world.ok(Unlink(1, "again", 9))
    assert counted() == (2, 0)


def _inodes(world: World) -> list[Inode]:
    found = [world.tables.inode(int.from_bytes(key[1:], "big")) for key, _ in world.view.scan(b"I", b"J")]
    return [inode for inode in found if inode is not None]


# -- special files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [InodeKind.FIFO, InodeKind.SOCKET, InodeKind.CHARACTER_DEVICE, InodeKind.BLOCK_DEVICE])
def test_special_files_have_names_and_nothing_else(world: World, kind: InodeKind) -> None:
    device = kind in (InodeKind.CHARACTER_DEVICE, InodeKind.BLOCK_DEVICE)
    command = Create(1, "s", kind, 0o600, 1, 2, 5, rdev=0x1_0000_0001 if device else 0)
    inode = world.ok(command).inode
    assert (inode.kind, inode.rdev, inode.object, inode.nlink) == (kind, command.rdev, "", 1)
    world.refused(command, "Exists")
    world.refused(replace(command, name="x", rdev=-1), "Invalid")
    world.refused(replace(command, name="x", size=1), "Invalid")
    world.refused(new_file("s", 9, exclusive=False), "Exists")
    if not device:
        world.refused(replace(command, name="x", rdev=5), "Invalid")
    world.ok(Link(inode.number, 1, "again", 6))
    world.ok(Unlink(1, "s", 7))
    assert world.ok(Unlink(1, "again", 8)).nlink == 0
    assert world.tables.inode(inode.number) is None


# -- extended attributes -----------------------------------------------------------------------------------------------


def test_extended_attributes_come_and_go_with_their_inode(world: World) -> None:
    number = world.directory(1, "d")
    world.ok(SetAttribute(number, "user.a", b"1", 50))
    world.ok(SetAttribute(number, "user.\udcff", b"", 51))
    world.ok(SetAttribute(number, "user.a", b"\0two", 52, must_exist=True))
    assert dict(world.tables.attributes(number)) == {"user.a": b"\0two", "user.\udcff": b""}
    inode = world.tables.inode(number)
    assert inode is not None
    assert (inode.attributes_bytes, inode.ctime_ns) == (len("user.a") + 4 + 6, 52)
    world.refused(SetAttribute(number, "user.a", b"", 53, must_not_exist=True), "Exists")
    world.refused(SetAttribute(number, "user.b", b"", 53, must_exist=True), "NotFound", reason="no_attribute")
    world.refused(RemoveAttribute(number, "user.b", 53), "NotFound", reason="no_attribute")
    world.refused(SetAttribute(99, "user.a", b"", 53), "NotFound")
    assert world.ok(RemoveAttribute(number, "user.a", 54)).attributes_bytes == 6
    world.ok(RemoveDirectory(1, "d", 55))
    assert not list(world.tables.attributes(number))


def test_extended_attributes_are_bounded(world: World) -> None:
    for name in ("", "u" * 256, "user.\0"):
        world.refused(SetAttribute(1, name, b"", 5), "Invalid")
    world.refused(SetAttribute(1, "user.a", bytes(ATTRIBUTE_VALUE_BYTES_MAX + 1), 5), "Invalid", reason="value_too_long")
    world.ok(SetAttribute(1, "user.a", bytes(ATTRIBUTE_VALUE_BYTES_MAX), 5))
    rest = ATTRIBUTES_BYTES_MAX - ATTRIBUTE_VALUE_BYTES_MAX - 12
    world.ok(SetAttribute(1, "user.b", bytes(rest), 5))
    world.refused(SetAttribute(1, "user.b", bytes(rest + 1), 5), "NoSpace")
    world.refused(SetAttribute(1, "user.c", b"", 5), "NoSpace")
    world.ok(SetAttribute(1, "user.b", b"", 5))


# -- a registry of an earlier release ----------------------------------------------------------------------------------


def test_records_of_format_1_are_read_with_defaults(world: World) -> None:
    inode = world.file("f", 1)
    record = world.tables.object(oid(1))
    assert record is not None
    assert from_list(Inode, to_list(inode)[:13]) == replace(inode, allocated=None)
    assert from_list(ObjectRecord, to_list(record)[:12]) == replace(record, layout=1)


def test_a_registry_of_format_1_gets_its_indexes_with_the_next_life_of_a_node(world: World) -> None:
    world.file("named", 1)
    world.file("gone", 2)
    world.volume("v.raw", 3)
    world.ok(Unlink(1, "gone", 5))
    before = dict(world.view.items)
    for key in list(world.view.items):
        if key[:1] in (b"V", b"U") or key in (b"Mcount", b"Mindexed"):
            world.view.delete(key)
    world.view.put(b"R" + oid(2).encode(), b"")
    world.incarnations["a"] = 2
    world.ok(RegisterNode("a", "a:1", 2))
    kept = {key: value for key, value in before.items() if key[:1] not in b"QSN"}
    assert kept == {key: value for key, value in world.view.items.items() if key[:1] not in b"QSN"}
    head = Head(TlogName(1, 1, 0, 7), 2, None, 0)
    world.ok(AdvanceHeads((HeadAdvance(oid(3), 0, 0, head),)))
    assert [record.id for record in world.tables.objects_with_log()] == sorted([oid(3), LOG])


# -- a file goes into a log of its own -------------------------------------------------------------------------------------


def own_log(world: World, epoch: int = 5) -> str:
    """A new log of the node at the epoch after this one."""
    world.ok(CreateObject(oid(77), epoch=epoch))
    world.ok(NewEpoch(oid(77), epoch, "a"))
    return oid(77)


def at_epoch(world: World) -> int:
    """Of the common log, which is opened."""
    record = world.tables.object(LOG)
    assert record is not None
    return int(world.ok(NewEpoch(LOG, record.epoch, "a")).epoch)


def test_a_file_goes_into_a_log_of_its_own(world: World) -> None:
    world.ok(new_file("f", 1))
    world.ok(new_file("g", 2))
    epoch, log = at_epoch(world), own_log(world)
    moved = world.ok(Relocate(oid(1), LOG, epoch, log, 6))
    assert (moved.log, moved.address, moved.inode) == (log, 1, world.tables.object(oid(1)).inode)  # type: ignore[union-attr]
    assert [found for _, found in world.tables.files_in(LOG)] == [oid(2)]
    assert list(world.tables.files_in(log)) == [(1, oid(1))]
    world.ok(new_file("h", 3))
    assert address(world, 3) == 3, "what the file has left at its address may not be erased yet"


def test_a_file_without_a_name_is_found_by_the_reaper_of_its_new_log(world: World) -> None:
    world.ok(new_file("f", 1, opened=True))
    world.ok(Unlink(1, "f", 6))
    epoch, log = at_epoch(world), own_log(world)
    world.ok(Relocate(oid(1), LOG, epoch, log, 6))
    assert list(world.tables.nameless_files(LOG)) == []
    assert [found for _, found in world.tables.nameless_files(log)] == [oid(1)]


def test_files_do_not_go_where_requests_would_not_find_them(world: World) -> None:
    """A forwarder believes the later epoch; and what has been in the log before may still be there."""
    world.ok(new_file("f", 1))
    epoch, log = at_epoch(world), own_log(world)

    world.refused(Relocate(oid(1), log, epoch, LOG, 6), "Conflict")
    world.refused(Relocate(oid(1), LOG, epoch - 1, log, 6), "Conflict")
    world.refused(Relocate(oid(1), LOG, epoch, log, 5), "Conflict")
    world.refused(Relocate(oid(9), LOG, epoch, log, 6), "NotFound")
    world.refused(Relocate(log, LOG, epoch, log, 6), "Invalid")
    world.ok(CreateObject(oid(78)))
    early = world.ok(NewEpoch(oid(78), 0, "a"))
    assert early.epoch <= epoch
    world.refused(Relocate(oid(1), LOG, epoch, oid(78), early.epoch), "Invalid")
    world.ok(Relocate(oid(1), LOG, epoch, log, 6))
    world.ok(new_file("g", 2))
    world.refused(Relocate(oid(2), LOG, epoch, log, 6), "Conflict")
