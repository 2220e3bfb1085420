"""Counting what a sparse object takes: linear in the map, whatever of it is missing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from backend.faults import Faults
from engine import Survey
from tests.parts import running
from tests.unit.volumedriver.test_driver import faulty
from volumedriver import Region, allocation

STRIDE = 1 << 20


async def test_a_count_goes_on_where_a_part_of_the_map_was_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cluster per MiB, so that the map has many pages; each of its nodes is fetched once, and counted in one pass."""
    begun: list[int] = []

    def recorded(volume: Any, begin: int, stop: int, *, clusters_max: int) -> Survey:
        begun.append(begin)
        return Survey(volume, begin, stop, clusters_max=clusters_max)

    monkeypatch.setattr(allocation, "Survey", recorded)
    store = await faulty(tmp_path, Faults())
    size = 2 << 30
    async with running(tmp_path, store) as parts:
        inode = await parts.volume(size=size)
        for start in range(0, size, size // 8):  # each becomes a TLog: a checkpoint comes after some of them
            for offset in range(start, start + size // 8, STRIDE):
                await parts.router.write(inode, offset, b"x" * 4096)
            await parts.in_backend(inode)
    shutil.rmtree(tmp_path / "cache")
    async with running(tmp_path, store) as parts:
        region: Region = await parts.router.volume_region(inode)
        begun.clear()
        counted = region.allocated()
        looks = fetches = 0
        while region.counting or region.lacks_map:
            if region.lacks_map:
                await region.bring_map()
                fetches += 1
            counted = region.allocated()
            looks += 1
            assert looks < 1000, f"{fetches} fetches, and no end"
        assert counted == size // STRIDE * 4096
        assert fetches > 0, "nothing was missing: this shows nothing"
        assert begun == sorted(begun)
        assert len(set(begun)) > fetches / 2, f"{fetches} fetches, and the count began at {sorted(set(begun))}"
