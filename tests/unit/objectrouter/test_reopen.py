"""A halted volume says what to do, and what it says works."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backend import open_store
from backend.faults import Faults, FaultyStore
from tests.parts import SMALL, Parts, running
from vpool.errors import Conflict, Halted

BLOCKS = 600


def block(number: int) -> bytes:
    return number.to_bytes(4, "little") * 1024


def damage(cache: Path, number: int) -> None:
    """Change one byte of a block's data in the log."""
    for path in sorted((cache / "log").glob("*.seg")):
        data = path.read_bytes()
        at = data.find(block(number), 65536)
        if at >= 0:
            path.write_bytes(data[: at + 9] + bytes([data[at + 9] ^ 1]) + data[at + 10 :])
            return
    raise AssertionError("the block is not in the log")


async def readable(parts: Parts, inode: int) -> list[bool]:
    return [await parts.router.read(inode, number * 4096, 4096) == block(number) for number in range(1, BLOCKS)]


async def test_a_damaged_log_halts_the_volume_until_somebody_accepts_the_loss(tmp_path: Path) -> None:
    store = FaultyStore(await open_store(f"dir:{tmp_path}/backend"), Faults(), seed=1)
    store.outage = True
    settings = replace(SMALL, stop_s=0.1)
    async with running(tmp_path, store, settings=settings) as parts:
        inode = await parts.volume()
        for number in range(1, BLOCKS):
            await parts.router.write(inode, number * 4096, block(number))
        await parts.router.flush(inode)
    damage(tmp_path / "cache", 400)
    (tmp_path / "cache" / "map" / "map.tree").unlink()  # so that the log is all there is
    async with running(tmp_path, store, settings=settings) as parts:
        with pytest.raises(Halted, match="vpool volume open PATH --accept-loss"):
            await parts.router.read(inode, 0, 4096)
        assert [each.state for each in parts.volumes.statuses() if each.kind == "volume"] == ["halted"]
        with pytest.raises(Halted):
            await parts.router.reopen(inode, accept_loss=False)
        await parts.router.reopen(inode, accept_loss=True)
        found = await readable(parts, inode)
        assert found == [True] * 399 + [False] * (BLOCKS - 400), "what is kept is a prefix"
        await parts.router.write(inode, 4096, block(1))
        with pytest.raises(Conflict):
            await parts.router.reopen(inode, accept_loss=True)
    async with running(tmp_path, store, settings=settings) as parts:
        assert (await readable(parts, inode))[:399] == [True] * 399
