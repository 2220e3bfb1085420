"""Readers wait for the leader's word: who is served by which answer.

If this fails: a name that is gone is still seen by another host, or hosts that are far from the leader see nothing at all.
"""

from registry.reads import ASK_AGAIN_S, ReplicaReads

FIRST = 1000


def test_an_answer_that_comes_after_the_next_question_serves_who_waited() -> None:
    """Would break: a leader farther away than a question is repeated is never heard."""
    reads = ReplicaReads(FIRST)
    reads.wait("early")
    first = reads.question_due(0.0)
    assert first is not None
    reads.wait("late")
    second = reads.question_due(ASK_AGAIN_S)
    third = reads.question_due(2 * ASK_AGAIN_S)
    assert second is not None
    assert third is not None
    reads.answer(first, 7)
    assert reads.readable(6) == []
    assert reads.readable(7) == ["early"], "what came after the first question may be newer than its answer"
    reads.answer(third, 9)
    assert reads.readable(8) == []
    assert reads.readable(9) == ["late"]
    assert (reads.count, reads.due()) == (0, float("inf"))
    reads.answer(second, 5)
    assert reads.readable(9) == []


def test_answers_of_another_life_and_repeated_ones_serve_nobody() -> None:
    """Would break: a reader goes on with an index of before its question."""
    reads = ReplicaReads(FIRST)
    reads.answer(FIRST, 3)
    reads.wait("one")
    number = reads.question_due(0.0)
    assert number is not None
    for stale in (0, FIRST, number - 1, number + 1, number + 1_000_000):
        reads.answer(stale, 3)
        assert reads.readable(1_000_000) == []
    reads.answer(number, 4)
    assert reads.readable(4) == ["one"]
    reads.wait("two")
    reads.answer(number, 4)
    assert reads.readable(4) == [], "the question was asked before it waited"
    assert reads.question_due(0.1) is not None
    assert reads.count == 1
