"""Which records a request has become: what a mirror is told of it must never be more than is so."""

from __future__ import annotations

from volumedriver import Entries, Executed, Lineage, Origin
from volumedriver.record_marks import RecordMarks, current_marks, marking

FIRST = Lineage(((1, 1),))


def test_marks_are_of_the_task_that_asked() -> None:
    marks = RecordMarks()
    with marking(marks):
        assert current_marks() is marks
        with marking(RecordMarks()):
            assert current_marks() is not marks
        assert current_marks() is marks
    assert current_marks() is None


def test_a_request_is_whole_with_its_last_record_only() -> None:
    marks = RecordMarks()
    marks.add(5, 5)
    marks.add(7, 6)  # nothing was appended
    assert (marks.first_lsn, marks.last_lsn, marks.is_whole) == (5, 5, False)
    marks.is_last = True
    marks.add(9, 9)
    assert (marks.first_lsn, marks.last_lsn, marks.is_whole) == (5, 9, True)


def test_what_is_doubtful_is_kept_as_such_and_goes_with_its_first_record() -> None:
    """A log that ends before the first record has none of it: then it is executed anew."""
    doubtful, whole = Origin("a", 1, 1), Origin("a", 1, 2)
    entries = Entries(1, ((doubtful, 1, -5), (whole, 1, 6)))
    assert Executed(entries, FIRST, 6).record_of(doubtful) == (1, -5)
    assert Executed(entries, FIRST, 5).record_of(doubtful) == (1, -5)
    assert Executed(entries, FIRST, 5).record_of(whole) is None
    assert Executed(entries, FIRST, 4).record_of(doubtful) is None
