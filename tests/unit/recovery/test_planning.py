"""What a plan makes of buckets in which something is wrong: as far as it is proven, never a mix, and it says what is missing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from backend import ObjectStore, open_store
from recovery import ExporterSettings, LogFinding, NamespaceExporter, load_newest, plan_recovery, rebuilt
from recovery.planning import EPOCHS_APART
from registry import ObjectKind
from registry.kv import RamView
from registry.tables import Tables
from tests.parts import MIB, SMALL, VPOOL, running
from volumedriver import shared_bucket

SETTINGS = replace(SMALL, tlogs_per_checkpoint=2, scos_per_tlog=1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ObjectStore]:
    opened = await open_store(f"dir:{tmp_path / 'store'}")
    yield opened
    await opened.aclose()


@pytest.fixture
async def bucket(tmp_path: Path, store: ObjectStore) -> Path:
    """Of a volume of 16 SCOs and TLogs, of which an export has the first four."""
    async with running(tmp_path / "node", store, settings=SETTINGS) as parts:
        inode = await parts.volume("disk.raw", 64 * MIB)
        exporting = NamespaceExporter.start(
            registry=parts.registry, store=store, vpool_id=VPOOL, settings=ExporterSettings(age_s=3600, stop_s=0)
        )
        async with exporting as exporter:
            for sco in range(16):
                for part in range(4):
                    await parts.router.write(inode, (sco * 4 + part) * MIB, os.urandom(MIB))
                await parts.in_backend(inode)
                if sco == 3:
                    assert await exporter.export()
        return tmp_path / "store" / f"vpool-{parts.object_of(inode)}"


async def plan(store: ObjectStore) -> LogFinding:
    namespace = await load_newest(store, shared_bucket(VPOOL))
    assert namespace is not None
    made = await plan_recovery(store, VPOOL, namespace)
    [finding] = [each for each in made.logs if each.kind is ObjectKind.VOLUME]
    state = Tables(RamView(rebuilt(namespace.items, made, keep_owner="", volume_rules=("*.raw",), now_ns=1)))
    record = state.object(finding.object)
    assert record is not None
    assert (record.head, record.epoch, record.owner) == (finding.head, finding.epoch, "")
    assert state.generation() == 2
    return finding


def tlogs_and_scos(bucket: Path) -> list[Path]:
    return sorted((bucket / "sco").glob("*/*"), key=lambda path: path.name)


async def test_everything_right_goes_to_the_end(store: ObjectStore, bucket: Path) -> None:
    finding = await plan(store)
    assert finding.fate == "advanced"
    assert finding.head is not None
    assert finding.tlogs_walked == finding.head.tlog.number - finding.head_before
    assert finding.bytes_checked >= 12 * 4 * MIB
    assert finding.head.checkpoint_tlog > finding.head_before, "the newest checkpoint is taken"
    assert finding.epoch == 1 + EPOCHS_APART
    assert not finding.problems


@pytest.mark.parametrize("harm", ["missing", "damaged", "short"])
async def test_a_sco_that_is_wrong_ends_the_history_before_it(store: ObjectStore, bucket: Path, harm: str) -> None:
    """Else reads behind it would fail, or give older content in the middle of newer."""
    whole = await plan(store)
    assert whole.head is not None
    victim = tlogs_and_scos(bucket)[9]
    data = victim.read_bytes()
    if harm == "missing":
        victim.unlink()
    else:
        victim.write_bytes(data[:4096] if harm == "short" else data[:9000] + bytes([data[9000] ^ 1]) + data[9001:])
    finding = await plan(store)
    assert finding.head is not None
    assert finding.head_before < finding.head.tlog.number < whole.head.tlog.number
    assert finding.head.next_sco <= int(victim.name, 16)
    assert finding.tlogs_beyond == whole.head.tlog.number - finding.head.tlog.number
    assert any(victim.name in problem for problem in finding.problems)
    assert finding.head.checkpoint_tlog <= finding.head.tlog.number


async def test_a_checkpoint_without_its_objects_is_not_taken(store: ObjectStore, bucket: Path) -> None:
    whole = await plan(store)
    newest = sorted((bucket / "map").glob("*/*"))[-1]
    newest.unlink()
    finding = await plan(store)
    assert whole.head is not None
    assert finding.head is not None
    assert finding.head.tlog == whole.head.tlog
    assert finding.head.checkpoint_tlog < whole.head.checkpoint_tlog


async def test_a_head_whose_objects_are_gone_stays_and_is_told(store: ObjectStore, bucket: Path) -> None:
    """What the registry knew to be safe is not taken back because of a loss."""
    for path in [*tlogs_and_scos(bucket)[3:], *(bucket / "tlog").glob("*/*"), *(bucket / "map").glob("*/*")]:
        path.unlink(missing_ok=True)
    finding = await plan(store)
    assert finding.head is not None
    assert finding.head.tlog.number == finding.head_before
    assert finding.problems


async def test_a_bucket_that_is_gone_is_told(store: ObjectStore, bucket: Path) -> None:
    for path in sorted(bucket.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    bucket.rmdir()
    finding = await plan(store)
    assert (finding.fate, bool(finding.reason)) == ("missing", True)
