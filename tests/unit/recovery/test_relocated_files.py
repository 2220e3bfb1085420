"""A file that was put into another log after the namespace was written down keeps its names when the registry is made anew."""

from __future__ import annotations

import pytest

from recovery.files import FileFinding
from recovery.planning import LogFinding, RecoveryPlan
from recovery.rebuilding import rebuilt
from registry import Create, InodeKind, ObjectKind
from registry.kv import RamView
from registry.tables import Tables
from tests.unit.registry.world import LOG, World, oid

OWN = oid(77)


def finding(log: str, fate: str) -> LogFinding:
    return LogFinding(log, ObjectKind.FILE_LOG, fate, 0, None, 9)  # type: ignore[arg-type]


@pytest.mark.parametrize("erased", [True, False])
def test_a_file_in_a_log_that_the_namespace_does_not_know_keeps_its_name(erased: bool) -> None:
    """``erased``: what it had left in its former log was, before the registry was lost."""
    world = World()
    inode = world.ok(Create(1, "kept", InodeKind.FILE, 0o644, 0, 0, 5, object=oid(1), log=LOG, layout=2)).inode
    files = [FileFinding(OWN, 1, True, 2, oid(1), 10, 20)]
    if erased:
        files.append(FileFinding(LOG, 1, found=False))
    plan = RecoveryPlan("f" * 32, None, 1, (finding(LOG, "kept"), finding(OWN, "found")), tuple(files), ())
    tables = Tables(RamView(rebuilt(dict(world.view.items), plan, keep_owner="a", volume_rules=("*.raw",), now_ns=30)))
    record = tables.object(oid(1))
    assert record is not None
    assert [name for _, name in tables.names(inode.number)] == ["kept"]
    assert (record.log, record.address) == (OWN, 1)
    assert [found for _, found in tables.files_in(LOG)] == []
