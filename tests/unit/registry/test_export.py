"""Exports of the registry: what changed is known, parts come back as they went, damage is found."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from registry import InodeKind, Unlink
from registry import changes as changes_module
from registry.changes import is_lasting
from registry.export import ExportId, Item, StateExport, batches, decode_part, encode_part, joined
from registry.lmdbdisk import LmdbDisk, LmdbView
from tests.unit.registry.world import World
from vpool.errors import Corrupt

EXPORT = ExportId("f" * 32, 3, 77, 0, "node-1", 5, 1_700_000_000_000_000_000)
ITEMS: list[Item] = [(b"Ia", b"value"), (b"Lb", None), (b"Oc", b""), (b"Vd", bytes(3000))]


def commit(disk: LmdbDisk, changes: dict[bytes, bytes | None], index: int) -> None:
    for key, value in changes.items():
        if value is None:
            disk.state.delete(key)
        else:
            disk.state.put(key, value)
    disk.set_applied(index, 1)
    disk.commit()


def export_of(disk: LmdbDisk) -> StateExport:
    """As ``RegistryView.export``; LMDB lets a process open a database once."""
    txn = disk._env.begin()
    state, changes, raft = (LmdbView(txn, disk._db[name]) for name in (b"state", b"changes", b"raft"))
    return StateExport(state, changes, raft, txn.abort)


def test_increments_over_restarts_give_the_state(tmp_path: Path) -> None:
    """Else a recovery would show names that are gone, or lack some."""
    seed = int(os.environ.get("VPOOL_SEED", random.randrange(1 << 32)))
    print(f"VPOOL_SEED={seed}")
    chance = random.Random(seed)
    disk = LmdbDisk(tmp_path)
    model: dict[bytes, bytes] = {}
    copy: dict[bytes, bytes] = {}
    exported = 0
    for index in range(1, 200):
        keys = [b"%c%03d" % (chance.choice(b"CILOQH"), chance.randrange(60)) for _ in range(chance.randrange(6))]
        changes = {key: chance.choice([None, b"%d" % index]) for key in keys}
        commit(disk, changes, index)
        for key, value in changes.items():
            model.pop(key, None)
            if value is not None:
                model[key] = value
        if chance.random() < 0.05:
            disk.close()
            disk = LmdbDisk(tmp_path)
        if chance.random() < 0.3:
            source = export_of(disk)
            assert source.index == index
            assert source.knows_changes_since(exported)
            for key, value in source.changes(exported):
                copy.pop(key, None)
                if value is not None:
                    copy[key] = value
            exported = index
            lasting = {key: value for key, value in model.items() if is_lasting(key)}
            assert copy == lasting == dict(source.items())
            source.close()
    disk.close()


def test_what_fell_out_of_the_log_of_changes_is_known_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an increment would silently lack changes."""
    monkeypatch.setattr(changes_module, "ENTRIES_MAX", 10)
    disk = LmdbDisk(tmp_path)
    for index in range(1, 21):
        commit(disk, {b"I%d" % index: b""}, index)
    source = export_of(disk)
    assert not source.knows_changes_since(9)
    assert source.knows_changes_since(10)
    assert [key for key, _ in source.changes(18)] == [b"I19", b"I20"]
    source.close()
    disk.close()


def test_a_state_changed_by_a_program_that_keeps_no_log_makes_it_begin_anew(tmp_path: Path) -> None:
    disk = LmdbDisk(tmp_path)
    commit(disk, {b"Ia": b"1"}, 1)
    disk._note_changes = lambda: None  # type: ignore[method-assign]  # as a release that does not know it
    commit(disk, {b"Ib": b"1"}, 2)
    disk.close()
    disk = LmdbDisk(tmp_path)
    commit(disk, {b"Ic": b"1"}, 3)
    source = export_of(disk)
    assert not source.knows_changes_since(1)
    assert source.knows_changes_since(2)
    assert [key for key, _ in source.changes(2)] == [b"Ic"]
    source.close()
    disk.close()


def test_parts_come_back_and_follow_each_other(world: World) -> None:
    world.file("f\udcff", 2)
    world.ok(Unlink(1, "f\udcff", 20))
    world.create(1, "d", InodeKind.DIRECTORY)
    items = [(key, value) for key, value in sorted(world.view.items.items()) if is_lasting(key)]
    data, before, number = b"", bytes(16), 0
    for group, last in batches(iter(items), bytes_max=200):
        part = encode_part(EXPORT, number, group, last=last, before=before)
        data, before, number = data + part, part[-16:], number + 1
    assert number > 2
    parts = []
    at = 0
    while at < len(data):
        parts.append(decode_part(data, at))
        at += parts[-1].bytes_used
    export, found = joined(iter(parts))
    assert (export, list(found)) == (EXPORT, items)
    with pytest.raises(Corrupt, match="lacks its last parts"):
        list(joined(iter(parts[:-1]))[1])
    with pytest.raises(Corrupt, match="do not follow"):
        list(joined(iter(parts[:1] + parts[2:]))[1])


def test_no_flipped_or_missing_byte_passes() -> None:
    data = encode_part(EXPORT, 0, ITEMS, last=True)
    assert decode_part(data).items == tuple(ITEMS)
    for at in range(len(data)):
        with pytest.raises(Corrupt):
            decode_part(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(Corrupt):
            decode_part(data[:at])


def test_an_export_without_items_is_one_empty_part() -> None:
    [(group, last)] = list(batches(iter([])))
    assert decode_part(encode_part(EXPORT, 0, group, last=last)).items == ()


def test_the_stored_export_is_read_as_it_was_written() -> None:
    """The bytes of version 1 (zlib's own output may change, so only reading is compared)."""
    stored = Path(__file__).parents[2] / "golden" / "namespace-export-1.bin"
    part = decode_part(stored.read_bytes())
    assert (part.export, part.number, part.last, part.items) == (EXPORT, 0, True, tuple(ITEMS))
    header = encode_part(EXPORT, 0, ITEMS, last=True)[:192]
    assert header[:152] + header[160:] == stored.read_bytes()[:152] + stored.read_bytes()[160:192]
