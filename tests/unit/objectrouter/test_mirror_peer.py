"""What is noted beside a copy that is kept for its owner."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from objectrouter.mirror_peer import MirrorPeer, _with
from objectrouter.place import Place
from registry import Dtl, DtlState, ObjectKind, ObjectRecord, ObjectState, Remains
from volumedriver import DtlTimings, Entries, Kept, Lineage, Notes, Origin, StagedMark, StoreMark
from volumedriver.dtl_messages import Open, Ping
from volumedriver.dtl_store import Store

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


def test_what_another_node_keeps_now_is_let_go_of_and_no_older_owner_is_heard() -> None:
    """If this fails, each change of peer leaves a copy for ever, or a deposed owner gets a word that it may go on with."""
    record = ObjectRecord("1" * 32, ObjectKind.VOLUME, ObjectState.LIVE, "a", 3, None, None, 0, 16, 0, "", "")
    records, sent = [record], []
    ownership = SimpleNamespace(
        registry=SimpleNamespace(view=SimpleNamespace(object=lambda _: records[-1]), node="b"),
        notes=SimpleNamespace(read=lambda _: None),
        is_away=False,
        send=lambda node, message: sent.append((node, message)),
    )
    peer = MirrorPeer(cast(Place, SimpleNamespace(ownership=ownership, object="1" * 32)), DtlTimings())
    peer._store, peer._replica = cast(Any, object()), SimpleNamespace(close=lambda: None)

    def has_let_go() -> bool:
        return peer.is_idle

    for dtl in (Dtl(DtlState.IN_SYNC, "b", 4), Dtl(DtlState.DEGRADED, "", 5), Dtl(DtlState.CATCHING_UP, "c", 6)):
        records.append(replace(record, dtl=dtl))
        peer.see(records[-1])
        assert not has_let_go(), dtl
    lost = replace(record, dtl=Dtl(DtlState.IN_SYNC, "c", 7), remains=(Remains("b", 2, True),))
    peer.see(lost)
    assert not has_let_go(), "what only it has"
    records.append(replace(record, dtl=Dtl(DtlState.IN_SYNC, "c", 7)))
    peer.see(records[-1])
    assert has_let_go()
    for message in (Open("1" * 32, 3, 1), Open("1" * 32, 2, 9), Ping("1" * 32, 2, 9, 1)):
        peer.receive("a", message)
        assert has_let_go()
    assert [message.why for _, message in sent] == ["no-space", "fenced", "fenced"]


def test_what_is_here_already_is_synced_before_it_is_confirmed() -> None:
    """If this fails, a peer that has all of the owner's log from before confirms what its next power cut, or takeover, loses."""
    done: list[str] = []
    replica: Any = SimpleNamespace(
        end_lsn=20,
        cut=lambda lsn: done.append(f"cut {lsn}"),
        sync=lambda: done.append("sync"),
        trim=lambda _: None,
    )
    notes = SimpleNamespace(change=lambda *_: done.append("note"))
    place = SimpleNamespace(ownership=SimpleNamespace(notes=notes), object="1" * 32)
    peer = MirrorPeer(cast(Place, place), DtlTimings())
    kept = Kept(0, 3, 1, 0, LINEAGE, Entries(4))
    assert peer._keep(replica, [Store(1, 20, (), kept)]) == 1
    assert done == ["sync", "note"]
    done.clear()
    assert peer._keep(replica, [Store(2, 18, (), replace(kept, session=2))]) == 1
    assert done == ["cut 18", "sync", "note"]
