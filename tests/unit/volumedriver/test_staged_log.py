"""What a hand-over brings takes the place of an older copy only where nobody counts on that."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from engine import Engine, Replica
from volumedriver import Entries, Lineage, LogNotes, Notes, StagedLog, StagedMark, StagingPlace, StoreMark
from volumedriver.local_choice import LocalChoice
from vpool.errors import Conflict

OBJECT = "0" * 32
LINEAGE = Lineage(((3, 1),))
STORE = StoreMark(0, 3, 1, 10)
MARK = StagedMark(4, 1, complete=False)


class Disk:
    """A copy of a log, and the engine that has it."""

    def __init__(self, first_lsn: int, end_lsn: int) -> None:
        self.first_lsn, self.end_lsn = first_lsn, end_lsn
        self.is_open = False

    def open(self, object_id: str) -> Replica:
        assert not self.is_open
        self.is_open = True
        return cast(Replica, self)

    def close(self) -> None:
        self.is_open = False

    def cut(self, end_lsn: int) -> None:
        self.end_lsn = min(self.end_lsn, end_lsn)

    def replica(self, volume: bytes) -> Replica:
        return self.open(volume.hex())

    def forget(self, volume: bytes) -> None:
        assert not self.is_open
        self.first_lsn, self.end_lsn = 1, 0


class Here:
    """A node with a copy of records 21 to 30."""

    def __init__(self, path: Path, notes: Notes) -> None:
        self.disk, self.notes = Disk(21, 30), LogNotes(path / "notes")
        self.choice = LocalChoice(self.notes, cast(Engine, self.disk), "me")
        self.notes.change(OBJECT, lambda _: notes)

    async def begin(self, first_lsn: int, *, is_counted_on: bool) -> StagedLog:
        async def release() -> None:
            raise AssertionError("it is not open")

        place = StagingPlace(OBJECT, self.notes, self.choice, self.disk.open)
        return await StagedLog.begin(
            place, MARK, first_lsn=first_lsn, lineage=LINEAGE, end_lsn=40, kept=None, release=release,
            is_counted_on=lambda: is_counted_on,
        )  # fmt: skip


async def test_a_copy_that_is_counted_on_stays_until_its_replacement_is_here(tmp_path: Path) -> None:
    """The head that is known here is newer than the one that the owner's log has been told, so this copy begins too late."""
    here = Here(tmp_path, Notes(epochs=frozenset({3}), lineage=LINEAGE))
    with pytest.raises(Conflict):
        await here.begin(11, is_counted_on=True)
    assert (here.disk.end_lsn, here.disk.is_open) == (30, False)
    assert here.notes.read(OBJECT) == Notes(epochs=frozenset({3}), lineage=LINEAGE)
    await (await here.begin(21, is_counted_on=True)).drop()
    assert here.disk.end_lsn == 30
    staged = await here.begin(11, is_counted_on=False)
    assert (staged.has_lsn, here.disk.end_lsn) == (0, 0)


@pytest.mark.parametrize("own_end_lsn", [0, 25])
@pytest.mark.parametrize("mark", [StagedMark(4, None, complete=True), MARK])
async def test_a_mark_that_came_to_nothing_leaves_a_copy_for_its_owner_alone(
    tmp_path: Path, mark: StagedMark, own_end_lsn: int
) -> None:
    """A steal that was refused marks what is kept; so does a hand-over behind it, to which its owner has added since."""
    here = Here(tmp_path, Notes(staged=mark, store=STORE, own_end_lsn=own_end_lsn, lineage=LINEAGE, executed=Entries(3)))
    await here.choice.unstage(OBJECT)
    assert here.disk.end_lsn == 30
    assert here.notes.read(OBJECT) == Notes(store=STORE, lineage=LINEAGE, executed=Entries(3))


async def test_what_was_staged_behind_a_log_of_its_own_is_cut_off(tmp_path: Path) -> None:
    here = Here(tmp_path, Notes(epochs=frozenset({3}), staged=MARK, own_end_lsn=25, lineage=LINEAGE))
    await here.choice.unstage(OBJECT)
    assert here.disk.end_lsn == 25
