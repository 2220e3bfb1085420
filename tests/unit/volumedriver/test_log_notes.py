"""What an owner keeps beside a log: never more is believed than what the log has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from volumedriver import Entries, Lineage, LogNotes, Notes, Origin, StagedMark, StoreMark
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
