"""What an owner keeps beside a log: never more is believed than what the log has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from volumedriver import Entries, Executed, Lineage, LogNotes, Notes, Origin, StagedMark, StoreMark, joined, parted
from vpool.errors import Corrupt

OBJECT = "0" * 32
DONE = Entries(3, ((Origin("b", 1, 4), 3, 20),))


def test_epochs_follow_each_other(tmp_path: Path) -> None:
    notes = LogNotes(tmp_path / "notes")
    assert notes.begin(OBJECT, 3, 11).lineage == Lineage(((3, 11),))
    known = notes.begin(OBJECT, 4, 31)
    assert known.lineage == Lineage(((3, 11), (4, 31)))
    assert known.executed == Entries(4), "nobody knows what was executed when a life has ended by a kill"
    assert known.lineage.holds(3, 30, 30)


def test_an_epoch_that_is_not_known_makes_older_ones_unknown(tmp_path: Path) -> None:
    notes = LogNotes(tmp_path)
    notes.begin(OBJECT, 3, 11)
    known = notes.begin(OBJECT, 5, 100)
    assert known.lineage == Lineage(((5, 100),))
    assert not known.lineage.holds(3, 50, 99), "epoch 4 may have cut it off, and written it anew"


def test_what_was_cut_off_is_of_no_epoch(tmp_path: Path) -> None:
    notes = LogNotes(tmp_path)
    notes.begin(OBJECT, 3, 11)
    known = notes.begin(OBJECT, 4, 21)
    assert known.lineage.holds(3, 20, 20)
    assert not known.lineage.holds(3, 21, 40)


def test_answers_are_kept_over_a_stop_in_order(tmp_path: Path) -> None:
    notes = LogNotes(tmp_path)
    known = notes.begin(OBJECT, 3, 11)
    notes.end(OBJECT, known.lineage, DONE, 3, 20)
    assert notes.begin(OBJECT, 4, 21).executed == DONE
    assert notes.begin(OBJECT, 5, 21).executed == Entries(5), "kept for one opening only"


def test_marks_behind_the_end_change_nothing(tmp_path: Path) -> None:
    """An idle log says how far it is durable, in a record of its own, perhaps after the answers were kept."""
    notes = LogNotes(tmp_path)
    known = notes.begin(OBJECT, 3, 11)
    notes.end(OBJECT, known.lineage, DONE, 3, 20)
    assert notes.begin(OBJECT, 4, 22).executed == DONE


def test_answers_are_not_believed_where_the_log_ends_elsewhere(tmp_path: Path) -> None:
    notes = LogNotes(tmp_path)
    known = notes.begin(OBJECT, 3, 11)
    notes.end(OBJECT, known.lineage, DONE, 3, 20)
    assert notes.begin(OBJECT, 4, 16).executed == Entries(4)


LOG = "f" * 32
LINEAGE = Lineage(((3, 11), (4, 21)))


def came_with(notes: LogNotes, tables: dict[str, Entries], *, epoch: int = 4, end_lsn: int = 30) -> None:
    """The log of files has come by a hand-over of that epoch, and has been opened at the next."""
    notes.end(LOG, LINEAGE, joined(4, tables), epoch, end_lsn)
    notes.opened(LOG, epoch + 1, end_lsn + 1)


def test_tables_of_files_travel_as_one() -> None:
    tables = {OBJECT: DONE, LOG: Entries(7)}
    assert parted(joined(4, tables)) == tables
    assert parted(Entries(4)) == {}


def test_what_was_executed_on_a_file_comes_with_its_log(tmp_path: Path) -> None:
    """Else a write that is sent again after a hand-over would be done twice, or fail as lost."""
    notes = LogNotes(tmp_path)
    came_with(notes, {OBJECT: DONE})
    known = notes.begin(OBJECT, 5, 31, LOG)
    assert known.executed == DONE
    assert known.lineage == LINEAGE.with_epoch(5, 31), "a file's history is its log's"
    assert notes.begin("1" * 32, 5, 31, LOG).executed == Entries(4), "nothing was executed on it since that epoch"
    assert notes.files(LOG, 5, 31) == (LINEAGE.with_epoch(5, 31), joined(4, {OBJECT: DONE}))


def test_what_came_with_a_log_counts_for_one_epoch(tmp_path: Path) -> None:
    """The node was killed since: what it executed itself is not known."""
    notes = LogNotes(tmp_path)
    came_with(notes, {OBJECT: DONE})
    notes.begin(OBJECT, 5, 31, LOG)
    notes.opened(LOG, 6, 40)
    assert notes.begin(OBJECT, 6, 40, LOG).executed == Entries(6)
    assert notes.files(LOG, 6, 40)[1] == Entries(6)


def test_what_this_node_kept_of_a_file_counts_before_what_came_with_the_log(tmp_path: Path) -> None:
    notes = LogNotes(tmp_path)
    came_with(notes, {OBJECT: DONE})
    known = notes.begin(OBJECT, 5, 31, LOG)
    later = Entries(3, ((Origin("b", 1, 9), 5, 33),))
    notes.end(OBJECT, known.lineage, later, 5, 35)
    notes.opened(LOG, 6, 36)
    assert notes.begin(OBJECT, 6, 36, LOG).executed == later


def test_a_file_that_cannot_be_read_is_not_guessed_at(tmp_path: Path) -> None:
    """A log whose marks are unknown might be one that somebody else has continued since."""
    notes = LogNotes(tmp_path)
    notes.begin(OBJECT, 3, 11)
    (tmp_path / OBJECT).write_bytes(b"\xc1")
    for call in (lambda: notes.read(OBJECT), lambda: notes.begin(OBJECT, 4, 21)):
        with pytest.raises(Corrupt, match=OBJECT):
            call()


def test_all_that_is_noted_comes_back(tmp_path: Path) -> None:
    noted = Notes(
        frozenset((3, 4)), StagedMark(5, None, True), 17, StoreMark(3, 4, 2, 90), Lineage(((3, 11), (4, 21))), DONE, (4, 40)
    )
    notes = LogNotes(tmp_path / "notes")
    assert notes.read(OBJECT) is None
    notes.change(OBJECT, lambda before: noted)
    assert LogNotes(tmp_path / "notes").read(OBJECT) == noted
    notes.forget(OBJECT)
    assert notes.read(OBJECT) is None


def test_what_cannot_be_read_is_left_where_it_is(tmp_path: Path) -> None:
    """A node must start whatever one of its notes has become."""
    notes = LogNotes(tmp_path / "notes")
    notes.change("a" * 32, lambda found: replace(found, store=StoreMark(0, 1, 1, 0)))
    (tmp_path / "notes" / ("b" * 32)).write_bytes(b"nothing of ours")
    assert notes.stored() == ["a" * 32]
    assert (tmp_path / "notes" / ("b" * 32)).exists()


def test_a_file_in_a_log_of_its_own_keeps_what_is_known_of_it() -> None:
    """What was written in its former log came along as far as it was not cut off: a flush finds it, and nothing is done twice."""
    lineage = Lineage(((3, 11), (4, 21)))
    origin = Origin("b", 1, 4)
    before = Executed(Entries(3, ((origin, 3, 20),)), lineage, 30)
    moved = Executed(before.relocated(lineage, 30, 5, 2), Lineage(((5, 1),)), 2)
    assert moved.record_of(origin) == (5, 2)
    assert moved.former == {3: 20, 4: 30}
    assert moved.since == 3
    again = Executed(parted(joined(0, {OBJECT: moved.entries()}))[OBJECT], Lineage(((5, 1),)), 2)
    assert (again.former, again.record_of(origin), again.since) == (moved.former, (5, 2), 3)
