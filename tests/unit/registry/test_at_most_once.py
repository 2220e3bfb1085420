"""A repeated envelope gets the answer it got, and changes nothing; an older life of a node is refused; the memory is bounded."""

from __future__ import annotations

import pytest

from registry import CreateObject, Envelope, Initialise, InodeKind, OpenHandle, Refusal, RegisterNode, Unlink
from registry.codec import Malformed, decode_envelope, decode_outcome, encode_envelope, encode_outcome, pack, unpack
from registry.commands import Create
from registry.kv import Overlay, RamView
from registry.state import WINDOW, apply
from tests.unit.registry.world import World, oid


def test_a_repeated_command_counts_once(world: World) -> None:
    inode = world.file("f", 1).number
    sequence = world.sequences["a", 1] + 1
    envelope = Envelope("a", 1, sequence, OpenHandle(inode))
    assert [apply(world.view, envelope) for _ in range(3)] == [1, 1, 1]
    assert world.tables.handles_of(inode, "a") == 1


def test_a_refusal_is_remembered_too(world: World) -> None:
    envelope = Envelope("a", 1, world.sequences["a", 1] + 1, Unlink(1, "f", 1))
    first = apply(world.view, envelope)
    world.sequences["a", 1] += 1
    world.file("f", 1)
    assert isinstance(first, Refusal)
    assert apply(world.view, envelope) == first


def test_sequences_may_arrive_in_another_order(world: World) -> None:
    inode = world.file("f", 1).number
    top = world.sequences["a", 1]
    assert apply(world.view, Envelope("a", 1, top + 5, OpenHandle(inode))) == 1
    assert apply(world.view, Envelope("a", 1, top + 2, OpenHandle(inode))) == 2
    assert apply(world.view, Envelope("a", 1, top + 5, OpenHandle(inode))) == 1


def test_the_memory_is_bounded(world: World) -> None:
    inode = world.file("f", 1).number
    for _ in range(WINDOW + 50):
        world.ok(OpenHandle(inode))
    assert sum(key.startswith(b"Qa") for key in world.view.items) == WINDOW
    old = apply(world.view, Envelope("a", 1, 3, OpenHandle(inode)))
    assert isinstance(old, Refusal)
    assert old.kind == "Conflict"


def test_an_older_life_is_fenced_whatever_it_asks(world: World) -> None:
    inode = world.file("f", 1).number
    late = Envelope("a", 1, 2, OpenHandle(inode))
    world.incarnations["a"] = 2
    world.refused(OpenHandle(inode), "Fenced")  # not registered yet
    world.ok(RegisterNode("a", "", 2))
    for envelope in (
        late,
        Envelope("a", 1, 900, CreateObject(oid(7))),
        Envelope("a", 1, 901, Initialise("f" * 32, "", 1, (), 0)),
    ):
        result = apply(world.view, envelope)
        assert isinstance(result, Refusal)
        assert result.kind == "Fenced"
    assert world.tables.handles_of(inode, "a") == 0


def test_a_strangers_refusal_does_not_end_the_session(world: World) -> None:
    refused = apply(world.view, Envelope("a", 5, 1, RegisterNode("a", "x" * 300, 5)))
    assert isinstance(refused, Refusal)
    world.ok(CreateObject(oid(8)))


def test_envelopes_and_outcomes_survive_their_encoding(world: World) -> None:
    created = world.ok(Create(1, "\udcff", InodeKind.VOLUME, 0o600, 1, 2, 3, object=oid(1)))
    envelope = Envelope("a", 1, 2, Create(1, "n", InodeKind.VOLUME, 0o600, 1, 2, 3, object=oid(1)))
    assert decode_envelope(encode_envelope(envelope)) == envelope
    for outcome in (created, None, 7, Refusal("Conflict", "no", (("a", 1), ("b", "x"))), ()):
        assert decode_outcome(encode_outcome(outcome)) == outcome


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        pack([]),
        pack([2, "a", 1, 1, 10, [1]]),
        pack([1, "a", 1, 1, 77, []]),
        pack([1, "a", 1, 1, 100, ["Conflict", "m", []]]),
        pack([1, "a", 1, 1, 11, ["1", 1]]),
        pack([1, "a", 1, 1, 11, [True]]),
        pack([1, "a", 1, 1, 11, [1, 1, 1]]),
        pack([1, "a", 1, 1, 5, [1, "n", "nonsense", 0, 0, 0, 0]]),
    ],
)
def test_malformed_commands_are_refused_at_the_edge(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode_envelope(data)


def test_fields_with_defaults_may_be_missing() -> None:
    raw = unpack(encode_envelope(Envelope("a", 1, 1, OpenHandle(5))))
    raw[5] = [5]
    assert decode_envelope(pack(raw)).command == OpenHandle(5)


def test_an_overlay_shows_its_changes_in_order() -> None:
    below = RamView({b"a": b"1", b"c": b"3", b"e": b"5"})
    overlay = Overlay(below)
    overlay.put(b"b", b"2")
    overlay.put(b"c", b"33")
    overlay.delete(b"e")
    overlay.put(b"f", b"6")
    wanted = [(b"a", b"1"), (b"b", b"2"), (b"c", b"33"), (b"f", b"6")]
    assert list(overlay.scan(b"a", b"z")) == wanted
    assert len(below.items) == 3
    overlay.merge()
    assert list(below.scan(b"a", b"z")) == wanted
