"""Hand-over, DTL states and steal as the registry allows them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry import (
    Abort,
    AdvanceHeads,
    DropRemains,
    Dtl,
    DtlState,
    Expire,
    Halt,
    Head,
    HeadAdvance,
    NewEpoch,
    NodeRecord,
    NodeStatus,
    ObjectRecord,
    ProposeDtl,
    RegisterNode,
    Remains,
    RenewLease,
    SetNode,
    Steal,
    TlogName,
    Transfer,
)
from registry.codec import decode_envelope, decode_record, encode_envelope, pack
from registry.commands import Envelope
from tests.unit.registry.world import LOG, World, oid

V = oid(1)


@pytest.fixture
def owned(world: World) -> World:
    """v1 at epoch 1, owned by a; b and c are there."""
    world.incarnations["c"] = 1
    world.ok(RegisterNode("c", "", 1), "c")
    world.volume("v", 1)
    world.ok(NewEpoch(V, 0, "a"))
    return world


def transfer(**changes: object) -> Transfer:
    return replace(Transfer(V, "a", "b", 1, 1, 1, True), **changes)  # type: ignore[arg-type]


def record(world: World) -> ObjectRecord:
    found = world.tables.object(V)
    assert found is not None
    return found


def in_sync(world: World, peer: str = "b") -> None:
    for state in (DtlState.DEGRADED, DtlState.CATCHING_UP, DtlState.IN_SYNC):
        now = record(world)
        world.ok(ProposeDtl(V, now.epoch, now.dtl.version, peer, state), now.owner)


def test_a_transfer_changes_owner_epoch_and_dtl_at_once(owned: World) -> None:
    in_sync(owned, "c")
    after = owned.ok(transfer())
    assert (after.owner, after.epoch, after.attempt) == ("b", 2, 1)
    assert after.dtl == Dtl(DtlState.IN_SYNC, "a", 4)
    assert after.remains == (Remains("a", 1, False),)
    owned.refused(transfer(), "Conflict", reason="epoch")
    advance = HeadAdvance(V, 2, 0, Head(TlogName(2, 1, 0, 7), 2, None, 0))
    owned.ok(AdvanceHeads((advance,)), "b")
    assert record(owned).remains
    owned.ok(AdvanceHeads((replace(advance, past_tail=True),)), "b")  # the same head, which is past the tail
    assert record(owned).remains == ()


def test_a_source_that_does_not_stay_leaves_the_dtl_degraded(owned: World) -> None:
    assert owned.ok(transfer(source_holds_tail=True)).dtl == Dtl()  # off stays off
    in_sync(owned, "c")
    after = owned.ok(Transfer(V, "b", "c", 1, 2, 2, False), "b")
    assert after.dtl == Dtl(DtlState.DEGRADED, "", 4)


@pytest.mark.parametrize(
    ("command", "kind", "reason"),
    [
        (transfer(epoch=2), "Conflict", "epoch"),
        (transfer(target="a"), "Invalid", None),
        (transfer(source="b"), "Invalid", None),
        (transfer(target="z"), "Fenced", None),
        (transfer(target_incarnation=2), "Conflict", "incarnation"),
        (transfer(attempt=0), "Conflict", "attempt"),
        (transfer(object=LOG, epoch=7), "Conflict", "epoch"),
        (transfer(object=oid(9)), "NotFound", None),
    ],
)
def test_a_transfer_is_refused(owned: World, command: Transfer, kind: str, reason: str | None) -> None:
    owned.refused(command, kind, reason=reason)


def test_only_the_owner_transfers_and_aborts(owned: World) -> None:
    owned.refused(transfer(source="b", target="c"), "Moved", "b")
    owned.refused(Abort(V, 1, 1), "Moved", "b")
    owned.refused(Abort(V, 2, 1), "Conflict", reason="epoch")
    owned.refused(Abort(V, 1, 0), "Invalid")


def test_an_aborted_attempt_cannot_be_applied_any_more(owned: World) -> None:
    owned.ok(Abort(V, 1, 2))
    owned.refused(transfer(attempt=2), "Conflict", reason="attempt")
    assert owned.ok(Abort(V, 1, 1)).attempt == 2
    assert owned.ok(transfer(attempt=3)).owner == "b"


def test_a_restart_bars_what_was_under_way(owned: World) -> None:
    owned.ok(NewEpoch(V, 1, "a"))
    owned.refused(transfer(), "Conflict", reason="epoch")


def test_nodes_that_are_given_nothing(owned: World) -> None:
    for status in (NodeStatus.DRAINED, NodeStatus.MAINTENANCE):
        owned.ok(SetNode("b", status), "c")
        owned.refused(transfer(), "Conflict", reason="node_status")
    owned.ok(SetNode("b", NodeStatus.ACTIVE), "c")
    owned.ok(RenewLease(1, room_bytes=0), "b")
    owned.refused(transfer(), "NoSpace")
    owned.ok(RenewLease(2), "b")
    owned.ok(Expire("b", 1, 2), "c")
    owned.refused(transfer(), "Fenced")


def test_what_a_node_is_for_outlives_its_lives(owned: World) -> None:
    owned.ok(SetNode("b", NodeStatus.DRAINED, "rack-7"))
    owned.incarnations["b"] = 2
    node = owned.ok(RegisterNode("b", "", 2), "b")
    assert (node.status, node.domain) == (NodeStatus.DRAINED, "rack-7")
    owned.incarnations["b"] = 3
    assert owned.ok(RegisterNode("b", "", 3, domain="rack-8"), "b").domain == "rack-8"
    owned.refused(SetNode("b", domain="no spaces"), "Invalid")
    owned.refused(SetNode("z"), "NotFound")
    owned.refused(RenewLease(1, room_bytes=-1), "Invalid")


def test_dtl_states_are_compare_and_set(owned: World) -> None:
    owned.refused(ProposeDtl(V, 1, 0, "b", DtlState.IN_SYNC), "Conflict", reason="dtl")  # was not catching up
    owned.ok(ProposeDtl(V, 1, 0, "b", DtlState.CATCHING_UP))
    owned.refused(ProposeDtl(V, 1, 0, "b", DtlState.IN_SYNC), "Conflict", reason="dtl")
    owned.refused(ProposeDtl(V, 1, 1, "c", DtlState.IN_SYNC), "Conflict", reason="dtl")
    owned.refused(ProposeDtl(V, 1, 1, "a", DtlState.CATCHING_UP), "Invalid")
    owned.refused(ProposeDtl(V, 1, 1, "z", DtlState.CATCHING_UP), "Invalid")
    owned.refused(ProposeDtl(V, 1, 1, "b", DtlState.IN_SYNC), "Moved", "b")
    owned.refused(ProposeDtl(V, 2, 1, "b", DtlState.IN_SYNC), "Conflict", reason="epoch")
    assert owned.ok(ProposeDtl(V, 1, 1, "b", DtlState.IN_SYNC)).dtl == Dtl(DtlState.IN_SYNC, "b", 2)


def test_an_asynchronous_dtl_is_never_in_sync(owned: World) -> None:
    """Whatever is proposed; and it stays asynchronous through restarts, hand-overs and thefts."""
    owned.refused(ProposeDtl(V, 1, 0, "b", DtlState.FOLLOWING, True), "Conflict", reason="dtl")
    owned.ok(ProposeDtl(V, 1, 0, "b", DtlState.CATCHING_UP, True))
    owned.refused(ProposeDtl(V, 1, 1, "b", DtlState.IN_SYNC), "Conflict", reason="dtl")
    owned.refused(ProposeDtl(V, 1, 1, "b", DtlState.IN_SYNC, True), "Invalid")
    owned.refused(ProposeDtl(V, 1, 1, "b", DtlState.FOLLOWING), "Invalid")
    following = owned.ok(ProposeDtl(V, 1, 1, "b", DtlState.FOLLOWING, True)).dtl
    assert (following, following.mode) == (Dtl(DtlState.FOLLOWING, "b", 2, True), "async")
    owned.refused(ProposeDtl(V, 1, 2, "b", DtlState.IN_SYNC), "Conflict", reason="dtl")
    assert owned.ok(transfer()).dtl == Dtl(DtlState.DEGRADED, "a", 3, True)
    assert owned.ok(NewEpoch(V, 2, "b"), "b").dtl == Dtl(DtlState.DEGRADED, "a", 4, True)


def test_the_peer_of_an_asynchronous_dtl_takes_nothing_without_consent(owned: World) -> None:
    owned.ok(ProposeDtl(V, 1, 0, "b", DtlState.CATCHING_UP, True))
    owned.ok(ProposeDtl(V, 1, 1, "b", DtlState.FOLLOWING, True))
    owned.ok(Expire("a", 1, 0), "b")
    owned.refused(Steal(V, "b", 1, 2, "b"), "Conflict", "b", reason="loss")
    after = owned.ok(Steal(V, "b", 1, 2, "b", accept_loss=True), "b")
    assert (after.owner, after.dtl, after.remains) == ("b", Dtl(DtlState.DEGRADED, "", 3, True), (Remains("a", 1, True),))


def test_a_restart_degrades_the_dtl(owned: World) -> None:
    in_sync(owned)
    assert owned.ok(NewEpoch(V, 1, "a")).dtl == Dtl(DtlState.DEGRADED, "b", 4)


def test_nobody_steals_from_the_living(owned: World) -> None:
    in_sync(owned)
    owned.refused(Steal(V, "b", 1, 3, "b"), "Conflict", "b", reason="owner_alive")
    owned.refused(Steal(V, "b", 1, 3, "b", accept_loss=True, powered_off=True), "Conflict", "b", reason="owner_alive")


def test_a_thief_with_the_fenced_tail_needs_no_consent(owned: World) -> None:
    in_sync(owned)
    owned.ok(Expire("a", 1, 0), "b")
    owned.refused(Steal(V, "b", 1, 2, "b"), "Conflict", "b", reason="loss")  # another version
    owned.refused(Steal(V, "b", 1, 3, "c"), "Conflict", "b", reason="loss")  # not the peer
    owned.refused(Steal(V, "b", 2, 3, "b"), "Conflict", "b", reason="epoch")
    owned.refused(Steal(V, "c", 1, 3, "b"), "Invalid", "b")
    after = owned.ok(Steal(V, "c", 1, 3, "b"), "c")
    assert (after.owner, after.epoch, after.dtl) == ("c", 2, Dtl(DtlState.DEGRADED, "", 4))
    assert after.remains == (Remains("a", 1, False),)
    owned.refused(Steal(V, "b", 1, 3, "b"), "Conflict", "b", reason="epoch")


def test_what_might_be_lost_needs_consent(owned: World) -> None:
    owned.ok(ProposeDtl(V, 1, 0, "b", DtlState.CATCHING_UP))
    owned.ok(Expire("a", 1, 0), "b")
    owned.refused(Steal(V, "b", 1, 1, "b"), "Conflict", "b", reason="loss")
    after = owned.ok(Steal(V, "b", 1, 1, accept_loss=True), "b")
    assert after.remains == (Remains("a", 1, True),)
    advance = HeadAdvance(V, 2, 0, Head(TlogName(2, 1, 0, 7), 2, None, 0), past_tail=True)
    owned.ok(AdvanceHeads((advance,)), "b")
    assert record(owned).remains == (Remains("a", 1, True),)  # only an administrator says that they are worthless
    owned.refused(DropRemains(V, "a", 2), "NotFound", "b")
    assert owned.ok(DropRemains(V, "a", 1), "b").remains == ()


def test_an_owner_that_its_peer_may_still_vouch_for_must_be_off(owned: World) -> None:
    in_sync(owned)
    owned.ok(Expire("a", 1, 0), "b")
    owned.refused(Steal(V, "c", 1, 3, accept_loss=True), "Conflict", "c", reason="peer_unfenced")
    assert owned.ok(Steal(V, "c", 1, 3, accept_loss=True, powered_off=True), "c").owner == "c"


def test_an_owner_that_has_lost_its_log_takes_it_from_its_peer(owned: World) -> None:
    in_sync(owned)
    assert owned.ok(Steal(V, "a", 1, 3, "b")).epoch == 2


def test_a_drained_node_and_a_halted_object(owned: World) -> None:
    in_sync(owned)
    owned.ok(Expire("a", 1, 0), "b")
    owned.ok(SetNode("b", NodeStatus.DRAINED), "c")
    owned.refused(Steal(V, "b", 1, 3, "b"), "Conflict", "b", reason="node_status")
    owned.ok(Halt(V, "why"), "c")
    owned.refused(Steal(V, "c", 1, 3, "b"), "Halted", "c")
    owned.refused(Steal(oid(7), "c", 1, 3, "b"), "NotFound", "c")


def test_a_node_whose_disk_is_dead_expires_itself(owned: World) -> None:
    in_sync(owned)
    assert owned.ok(Expire("a", 1, 0)).expired
    owned.refused(AdvanceHeads(()), "Fenced")
    assert owned.ok(Steal(V, "b", 1, 3, "b"), "b").owner == "b"


def test_commands_survive_their_encoding() -> None:
    for command in (
        transfer(),
        Abort(V, 1, 1),
        ProposeDtl(V, 1, 2, "b", DtlState.IN_SYNC),
        Steal(V, "b", 1, 3, "b"),
        DropRemains(V, "a", 1),
        SetNode("b", NodeStatus.DRAINED, "x"),
    ):
        envelope = Envelope("a", 1, 2, command)
        assert decode_envelope(encode_envelope(envelope)) == envelope


def test_records_and_commands_of_earlier_releases_are_read() -> None:
    old = decode_record(ObjectRecord, pack([V, "volume", "live", "a", 1, None, None, 5, 16, 0, "", "", 1]))
    assert (old.dtl, old.attempt, old.remains) == (Dtl(), 0, ())
    node = decode_record(NodeRecord, pack(["a", 1, "", 3, False]))
    assert (node.status, node.domain, node.room_bytes) == (NodeStatus.ACTIVE, "", None)
    assert decode_envelope(pack([1, "a", 1, 2, 3, [7]])).command == RenewLease(7)
    assert decode_envelope(pack([1, "a", 1, 2, 2, ["a", "", 1]])).command == RegisterNode("a", "", 1)
