"""The shell of a hand-over's target: what it holds on to, and for how long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from objectrouter.handover_messages import Finish, Granted
from objectrouter.handover_target import HandoverTarget, Stage
from objectrouter.place import Place
from objectrouter.taking_over import TakingOver
from registry import NodeRecord
from volumedriver import Entries, Lineage, StagedLog

V = "1" * 32


def ready_target() -> HandoverTarget:
    machine = HandoverTarget(V, 7, "a", 2)
    machine.begin(0.0)
    for message in (Granted(V, 2, 1, 4), Finish(V, 2, 1, 3, Lineage(((2, 1),)), Entries())):
        for effect in machine.receive("a", message, 0.0):
            if isinstance(effect, Stage):
                machine.staged(effect.token)
    assert machine.is_ready
    return machine


@pytest.mark.parametrize("expired", [False, True])
def test_who_waits_for_a_source_that_has_died_lets_the_thief_at_what_it_has(expired: bool) -> None:
    """If this fails, a volume whose owner dies at the end of a hand-over to its peer is taken over by nobody."""
    lent: list[bool] = []
    source = NodeRecord("a", 1, "", 0, expired)
    ownership: Any = SimpleNamespace(registry=SimpleNamespace(view=SimpleNamespace(node=lambda name: source)))
    target = TakingOver(cast(Place, SimpleNamespace(ownership=ownership, object=V, run=lambda effects: None)))
    target._machine = ready_target()
    target._log = cast(StagedLog, SimpleNamespace(lend=lambda: lent.append(True)))
    target.tick(1.0)
    assert lent == [True] * expired
    assert target.is_busy, "the registry may have given it here all the same"
