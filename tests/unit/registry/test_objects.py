"""Ownership, heads, handles, life and death of objects; nodes and leases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry import (
    AdvanceHeads,
    CloseHandle,
    Condemn,
    CreateObject,
    Expire,
    Forget,
    Halt,
    Head,
    HeadAdvance,
    Initialise,
    NewEpoch,
    ObjectKind,
    ObjectState,
    OpenHandle,
    Publish,
    RegisterNode,
    RenewLease,
    Resize,
    RootName,
    TlogName,
    Unhalt,
    Unlink,
)
from tests.unit.registry.world import LOG, VPOOL, World, oid

V = oid(1)


def head(number: int, epoch: int = 1, next_sco: int | None = None, checkpoint: int = 0) -> Head:
    root = RootName(epoch, 1, 0, 64, checkpoint) if checkpoint else None
    return Head(TlogName(epoch, number, 0, number * 7), number + 1 if next_sco is None else next_sco, root, checkpoint)


def test_a_new_epoch_starts_at_the_head(world: World) -> None:
    world.volume("v", 1)
    assert world.ok(NewEpoch(V, 0, "a")).epoch == 1
    world.refused(NewEpoch(V, 0, "a"), "Conflict", reason="epoch")
    world.ok(AdvanceHeads((HeadAdvance(V, 1, 0, head(1)),)))
    world.refused(NewEpoch(V, 1, "b"), "Invalid")  # a node opens for itself
    world.refused(NewEpoch(V, 1, "b"), "Conflict", "b", reason="owner_alive")
    record = world.ok(NewEpoch(V, 1, "a"))
    assert (record.owner, record.epoch, record.base) == ("a", 2, head(1))
    world.ok(Expire("a", 1, 0), "b")
    world.refused(NewEpoch(V, 2, "b"), "Conflict", "b", reason="steal")
    world.refused(NewEpoch(V, 2, "a"), "Fenced")
    world.incarnations["a"] = 2
    world.ok(RegisterNode("a", "", 2))
    assert world.ok(NewEpoch(V, 2, "a")).epoch == 3
    world.refused(NewEpoch(oid(9), 0, "a"), "NotFound")
    world.file("f", 2)
    world.refused(NewEpoch(oid(2), 0, "a"), "Invalid")


def test_heads_advance_without_gaps(world: World) -> None:
    world.volume("v", 1)
    world.ok(NewEpoch(V, 0, "a"))
    first, second = world.ok(AdvanceHeads((HeadAdvance(V, 1, 0, head(1)), HeadAdvance(V, 1, 1, head(2)))))
    assert (first.error, second.error, second.head) == (None, None, head(2))
    assert world.ok(AdvanceHeads((HeadAdvance(V, 1, 1, head(2)),)))[0].error is None  # said again
    same_tlog = head(2, checkpoint=2)
    assert world.ok(AdvanceHeads((HeadAdvance(V, 1, 2, same_tlog),)))[0].error is None


@pytest.mark.parametrize(
    ("advance", "kind"),
    [
        (HeadAdvance(V, 1, 1, head(2)), "Conflict"),  # not what the head is
        (HeadAdvance(V, 1, 2, head(4)), "Invalid"),  # a gap
        (HeadAdvance(V, 1, 2, head(1)), "Invalid"),  # back
        (HeadAdvance(V, 2, 2, head(3)), "Conflict"),  # another epoch
        (HeadAdvance(V, 1, 2, head(3, epoch=2)), "Invalid"),  # a tlog of another epoch
        (HeadAdvance(V, 1, 2, head(3, next_sco=1)), "Invalid"),
        (HeadAdvance(V, 1, 2, head(3)), "Invalid"),  # the checkpoint is gone
        (HeadAdvance(V, 1, 2, head(3, checkpoint=4)), "Invalid"),  # a checkpoint beyond the head
        (HeadAdvance(V, 1, 2, replace(head(3, checkpoint=1), checkpoint_tlog=0)), "Invalid"),
        (HeadAdvance(oid(5), 1, 2, head(3)), "NotFound"),
    ],
)
def test_an_advance_is_refused_by_itself(world: World, advance: HeadAdvance, kind: str) -> None:
    world.volume("v", 1)
    world.volume("w", 2)
    for number in (1, 2):
        world.ok(NewEpoch(oid(number), 0, "a"))
    world.ok(AdvanceHeads((HeadAdvance(V, 1, 0, head(1)), HeadAdvance(V, 1, 1, head(2, checkpoint=1)))))
    bad, good = world.ok(AdvanceHeads((advance, HeadAdvance(oid(2), 1, 0, head(1)))))
    assert bad.error is not None
    assert bad.error.kind == kind
    assert good.error is None
    record = world.tables.object(V)
    assert record is not None
    assert record.head == head(2, checkpoint=1)


def test_only_the_owner_advances_publishes_and_resizes(world: World) -> None:
    world.volume("v", 1)
    world.file("f", 2)
    world.ok(NewEpoch(V, 0, "a"))
    (result,) = world.ok(AdvanceHeads((HeadAdvance(V, 1, 0, head(1)),)), "b")
    assert result.error.kind == "Moved"
    world.refused(Resize(V, 1, 4096, 5), "Moved", "b")
    world.refused(Resize(V, 2, 4096, 5), "Conflict", reason="epoch")
    assert world.ok(Resize(V, 1, 4096, 5)).size == 4096
    world.refused(Resize(V, 1, -1, 5), "Invalid")
    world.refused(Resize(oid(2), 1, 1, 5), "Invalid")
    inode = world.ok(Publish(V, 1, mtime_ns=99))
    assert (inode.size, inode.mtime_ns) == (4096, 99)
    world.refused(Publish(V, 1, size=1), "Invalid")
    world.refused(Publish(oid(2), 1, size=1), "Moved", "b")
    assert world.ok(Publish(oid(2), 1, size=10)).size == 10
    world.refused(Publish(LOG, 1, size=1), "Invalid")


def test_an_unlinked_object_lives_until_its_last_handle(world: World) -> None:
    inode = world.volume("v", 1).number
    assert world.ok(OpenHandle(inode, 2)) == 2
    assert world.ok(OpenHandle(inode), "b") == 1
    world.refused(Condemn(V, 0), "Conflict")
    world.ok(Unlink(1, "v", 5))
    world.refused(Condemn(V, 0), "Conflict", reason="handles")
    world.refused(CloseHandle(inode, 3), "Conflict")
    assert not world.ok(CloseHandle(inode, 2)).orphaned
    assert world.ok(CloseHandle(inode), "b").orphaned
    world.refused(OpenHandle(inode), "NotFound")
    world.refused(Condemn(V, 7), "Conflict", reason="epoch")
    world.refused(Forget(V), "Conflict")
    assert world.ok(Condemn(V, 0)).state is ObjectState.CONDEMNED
    world.ok(Condemn(V, 0))
    world.refused(NewEpoch(V, 0, "a"), "NotFound")
    world.refused(Halt(V, "x"), "Conflict")
    assert world.ok(Forget(V)) is None
    assert world.tables.inode(inode) is None
    assert list(world.tables.nameless()) == []


def test_handles_end_with_their_incarnation(world: World) -> None:
    inode = world.file("f", 1).number
    world.ok(OpenHandle(inode), "b")
    world.ok(Unlink(1, "f", 5))
    world.incarnations["b"] = 2
    world.ok(RegisterNode("b", "b:2", 2), "b")
    assert world.tables.handles(inode) == []
    world.ok(Condemn(V, 0))


def test_handles_need_an_object(world: World) -> None:
    world.refused(OpenHandle(1), "Invalid")
    world.refused(OpenHandle(99), "NotFound")
    world.refused(OpenHandle(world.file("f", 1).number, 0), "Invalid")


def test_halt(world: World) -> None:
    world.volume("v", 1)
    world.refused(Unhalt(V), "Conflict")
    world.ok(Halt(V, "bad sector"))
    assert world.ok(Halt(V, "another")).halted_reason == "bad sector"
    world.refused(NewEpoch(V, 0, "a"), "Halted")
    world.ok(Unlink(1, "v", 5))
    world.refused(Condemn(V, 0), "Halted")
    assert world.ok(Unhalt(V)).state is ObjectState.ORPHAN
    world.refused(Halt(V, ""), "Invalid")


def test_a_file_log_lives_while_it_has_files(world: World) -> None:
    world.file("f", 1)
    world.refused(Condemn(LOG, 1), "Conflict")
    world.ok(Unlink(1, "f", 5))
    world.ok(Condemn(V, 0))
    world.ok(Forget(V))
    world.ok(Condemn(LOG, 1))
    world.ok(Forget(LOG))
    world.refused(CreateObject("x"), "Invalid")
    world.refused(CreateObject(oid(3), ObjectKind.VOLUME), "Invalid")
    world.ok(CreateObject(oid(3)))
    world.refused(CreateObject(oid(3)), "Exists")


def test_initialise_once(world: World) -> None:
    assert world.ok(Initialise(VPOOL, "other", 1, (), 9)).name == "pool"
    world.refused(Initialise("0" * 32, "other", 1, (), 9), "Conflict")


def test_leases(world: World) -> None:
    assert world.ok(RenewLease(5)).lease_number == 5
    world.refused(RenewLease(5), "Conflict")
    world.refused(Expire("a", 1, 4), "Conflict", "b")
    world.refused(Expire("a", 2, 5), "Conflict", "b")
    world.refused(Expire("z", 1, 5), "NotFound", "b")
    assert world.ok(Expire("a", 1, 5), "b").expired
    assert world.ok(Expire("a", 1, 5), "b").expired
    world.refused(RenewLease(6), "Fenced")
    world.refused(RegisterNode("a", "", 1), "Fenced")
    world.incarnations["a"] = 2
    world.ok(RegisterNode("a", "", 2))
    assert world.ok(RenewLease(1)).lease_number == 1
