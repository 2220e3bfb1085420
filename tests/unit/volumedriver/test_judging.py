"""Why an object is in a bucket: each reason once. If this fails, an operator takes garbage for data, or data for garbage."""

from __future__ import annotations

import pytest

from engine import LineageEntry
from registry import Head, ObjectKind, ObjectRecord, ObjectState, RootName, TlogName
from volumedriver import LogKnowledge, judge
from volumedriver.judging import MapObject

OWN = "0123456789abcdef" * 2
OTHER = bytes(16)
HEAD = Head(TlogName(3, 9, 40, 1), 41, RootName(3, 5, 100, 200, 2), 7)
RECORD = ObjectRecord(OWN, ObjectKind.VOLUME, ObjectState.LIVE, "node", 3, None, HEAD, 1 << 30, 17, 0, "", "")
LINEAGE = [LineageEntry(1, OTHER, 1), LineageEntry(10, bytes.fromhex(OWN), 1), LineageEntry(30, bytes.fromhex(OWN), 3)]


def name(kind: str, epoch: int, number: int) -> str:
    return f"{kind}/{epoch:016x}/{number:016x}"


def knowledge(*, is_open: bool = True) -> LogKnowledge:
    return LogKnowledge(
        RECORD,
        lineage=LINEAGE if is_open else None,
        live={12: 5, 31: 1024, 35: 1},
        map_objects={(3, 5): MapObject(10, 20), (1, 2): MapObject(7, 70)},
        chain={(3, 8), (3, 9)},
        chain_scos={(3, 40)},
        problem="" if is_open else "it is halted",
    )


@pytest.mark.parametrize(
    ("object_name", "size", "what", "state", "why"),
    [
        ("volume.json", 300, "birth", "live", "birth record"),
        (name("sco", 1, 12), 4 << 20, "sco", "live", "5 of its 1024 clusters"),
        (name("sco", 3, 31), 4 << 20, "sco", "live", "1024 of its 1024"),
        (name("sco", 1, 13), 4 << 20, "sco", "garbage", "none of its 1024"),
        (name("sco", 3, 35), 4096 * 3 + 600, "sco", "live", "1 of its 3 clusters and a TLog behind them"),
        (name("sco", 3, 40), 4096 + 600, "sco", "live", "a restart without cache reads its TLog"),
        (name("sco", 3, 36), 4096 + 600, "sco", "garbage", "and a TLog behind them"),
        (name("sco", 1, 31), 4 << 20, "sco", "stale", "another SCO of that number"),
        (name("sco", 3, 12), 4 << 20, "sco", "stale", "another SCO of that number"),
        (name("sco", 1, 5), 4 << 20, "sco", "stale", "another SCO of that number"),
        (name("sco", 3, 41), 4 << 20, "sco", "uploading", "head has not passed it"),
        (name("sco", 1, 41), 4 << 20, "sco", "stale", "beyond where that epoch ended"),
        (name("sco", 4, 41), 4 << 20, "sco", "unknown", "does not know"),
        (name("tlog", 3, 8), 600, "tlog", "live", "a restart without cache reads it"),
        (name("tlog", 1, 6), 600, "tlog", "history", "the checkpoint includes TLog 7"),
        (name("tlog", 3, 10), 600, "tlog", "uploading", "head has not passed it"),
        (name("tlog", 1, 8), 600, "tlog", "stale", "beyond where that epoch ended"),
        (name("map", 3, 5), 9000, "checkpoint", "live", "root of the newest checkpoint, as of TLog 7"),
        (name("map", 1, 2), 9000, "checkpoint", "live", "7 of 70 bytes"),
        (name("map", 3, 4), 9000, "checkpoint", "garbage", "no node of it"),
        (name("map", 3, 6), 9000, "checkpoint", "uploading", "does not name yet"),
        (name("map", 1, 3), 9000, "checkpoint", "garbage", "no node of it"),
        ("notes.txt", 5, "foreign", "unknown", "no name that vPool gives"),
        ("sco/1/2", 5, "foreign", "unknown", "no name that vPool gives"),
    ],
)
def test_objects(object_name: str, size: int, what: str, state: str, why: str) -> None:
    judgement = judge(object_name, size, knowledge())
    assert (judgement.what, judgement.state) == (what, state)
    assert why in judgement.why


def test_without_the_map_nothing_is_called_garbage() -> None:
    judgement = judge(name("sco", 1, 13), 4 << 20, knowledge(is_open=False))
    assert (judgement.state, "halted" in judgement.why) == ("unknown", True)
