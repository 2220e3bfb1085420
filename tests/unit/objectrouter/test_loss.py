"""How much a take-over loses: what is known is said as such, and what is not, too."""

from __future__ import annotations

from dataclasses import replace

from objectrouter.loss import loss_of
from registry import Dtl, DtlState, NodeRecord, ObjectKind, ObjectRecord, ObjectState, Unsaved
from volumedriver.unsaved import OpenLog, unsaved

RECORD = ObjectRecord(
    "1" * 32, ObjectKind.VOLUME, ObjectState.LIVE, "dead", 3, None, None, 4096, 2, 0, "", "", dtl=Dtl(DtlState.DEGRADED, "p", 5)
)
NODE = NodeRecord("dead", 1, "", 7, True)


def test_a_node_that_has_told_nothing() -> None:
    for node in (None, NODE):
        loss = loss_of(RECORD, node)
        assert (loss.bytes_at_most, loss.reported_ms) == (None, 0)
        assert "nobody knows" in loss.text


def test_what_was_told_last_is_an_upper_bound_of_that_moment_only() -> None:
    node = replace(NODE, unsaved=Unsaved(1_700_000_000_000, 9 << 20, 3 << 20, 2_500))
    loss = loss_of(RECORD, node)
    assert (loss.bytes_at_most, loss.age_s, loss.reported_ms) == (3 << 20, 2.5, 1_700_000_000_000)
    assert "at most 3 MiB" in loss.text
    assert "2023-11-14 22:13:20 UTC" in loss.text
    assert "since is unknown" in loss.text
    assert "not open" not in loss.text
    in_sync = replace(RECORD, dtl=Dtl(DtlState.IN_SYNC, "p", 5))
    assert loss_of(in_sync, node).bytes_at_most == 9 << 20  # without its peer it counts, too


def test_logs_of_which_nothing_is_known_are_told() -> None:
    node = replace(NODE, unsaved=Unsaved(1, 0, 0, 0, not_open=2))
    assert "2 logs" in loss_of(RECORD, node).text


def test_the_sum_over_open_logs() -> None:
    logs = [
        OpenLog(0, 0.0, DtlState.OFF),
        OpenLog(100, 1.5, DtlState.IN_SYNC),
        OpenLog(10, 0.5, DtlState.FOLLOWING),
        OpenLog(1, 0.25, DtlState.OFF),
    ]
    assert unsaved(logs, 4, 1234) == Unsaved(1234, 111, 11, 1500, 4)
