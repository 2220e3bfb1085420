"""What is noted beside a copy that is kept for its owner."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from objectrouter.mirror_peer import MirrorPeer, _with
from objectrouter.place import Place
from registry import ObjectKind, ObjectRecord, ObjectState
from volumedriver import DtlTimings, Entries, Kept, Lineage, Notes, Origin, StagedMark, StoreMark

LINEAGE = Lineage(((3, 1),))
WHOLE = Entries(1, ((Origin("b", 1, 4), 3, 20),))
TRIMMED = Kept(0, 3, 1, 15, LINEAGE, Entries(4))  # the mirror of an owner knows of nothing that was executed


def test_a_trim_leaves_the_table_that_a_hand_over_has_brought() -> None:
    """If this fails, writes that are on their way during a hand-over to the peer fail as lost."""
    notes = Notes(
        staged=StagedMark(4, 1, complete=True), store=StoreMark(0, 3, 1, 10), lineage=LINEAGE, executed=WHOLE, kept=(3, 20)
    )
    after = _with(notes, TRIMMED, 20)
    assert after == replace(notes, store=StoreMark(0, 3, 1, 15))
    gone_on = _with(notes, TRIMMED, 21)
    assert (gone_on.executed, gone_on.kept) == (Entries(4), None), "the hand-over has come to nothing, and its owner has gone on"
    for mark in (None, StagedMark(4, 1, complete=False), StagedMark(4, None, complete=True)):
        after = _with(replace(notes, staged=mark), TRIMMED, 20)
        assert (after.executed, after.kept) == (Entries(4), None)
    assert _with(notes, TRIMMED, None).kept is None


def test_a_copy_of_what_is_removed_is_let_go_of() -> None:
    """If this fails, it can be removed neither here nor, where its owner is dead, at all."""
    closed: list[bool] = []
    view: Any = SimpleNamespace()
    ownership = SimpleNamespace(registry=SimpleNamespace(view=view, node="b"), notes=SimpleNamespace(read=lambda _: None))
    peer = MirrorPeer(cast(Place, SimpleNamespace(ownership=ownership, object="1" * 32)), DtlTimings())
    peer._store = cast(Any, object())
    peer._replica = SimpleNamespace(close=lambda: closed.append(True))
    record = ObjectRecord("1" * 32, ObjectKind.VOLUME, ObjectState.ORPHAN, "a", 3, None, None, 0, 16, 0, "", "")
    peer.see(record)
    assert not closed
    record = replace(record, state=ObjectState.CONDEMNED)
    peer.see(record)
    assert closed == [True]
    assert peer.is_idle
    view.object = lambda _: record
    peer.wake()
    assert peer.is_idle
