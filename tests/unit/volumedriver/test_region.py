"""Sizes: they must come back with the data, and no old byte may reappear beyond an end."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from engine import CLUSTER
from fuse.errnos import errno_of
from volumedriver import Held, Region, giving_way
from volumedriver.region import FILE_BYTES_MAX, FILE_REGION_BYTES, VOLUME_BYTES_MAX
from vpool.errors import Corrupt, Invalid, NoSpace


class PlainVolume:
    """A volume in RAM that remembers the order of what was done to it."""

    object_id = "plain"

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}
        self.done: list[tuple[str, int, int]] = []

    async def read(self, offset: int, length: int) -> bytes:
        return bytes(self.bytes.get(offset + at, 0) for at in range(length))

    async def write(self, offset: int, data: bytes) -> None:
        self.done.append(("write", offset, len(data)))
        self.bytes.update({offset + at: byte for at, byte in enumerate(data)})

    async def zero(self, offset: int, length: int) -> None:
        self.done.append(("zero", offset, length))
        for at in [at for at in self.bytes if offset <= at < offset + length]:
            del self.bytes[at]

    async def flush(self) -> None:
        self.done.append(("flush", 0, 0))


async def region_of(volume: PlainVolume, size: int = 0) -> Region:
    return await Region.of_volume(volume, size, 1)  # type: ignore[arg-type]


async def file_region(volume: PlainVolume, address: int, *, layout: int = 2, object_id: str = "a" * 32) -> Region:
    return await Region.of_file(volume, address, 0, 0, layout=layout, object_id=object_id)  # type: ignore[arg-type]


async def test_a_published_size_gets_into_the_log_at_the_first_opening() -> None:
    volume = PlainVolume()
    await region_of(volume, 1 << 20)
    again = await region_of(volume, 0)  # the registry has lost it
    assert again.size == 1 << 20


async def test_a_volume_without_size_writes_nothing_when_opened() -> None:
    volume = PlainVolume()
    await region_of(volume)
    assert volume.done == []


async def test_growing_writes_the_size_before_the_data() -> None:
    volume = PlainVolume()
    region = await region_of(volume)
    await region.write(10_000, b"x" * 100)
    assert region.size == 10_100
    assert [offset for _, offset, _ in volume.done][-1] == 10_000


async def test_shrinking_zeroes_before_the_size_changes_so_old_bytes_never_return() -> None:
    volume = PlainVolume()
    region = await region_of(volume)
    await region.write(0, b"old" * 1000)
    volume.done.clear()
    await region.truncate(100)
    assert [what for what, _, _ in volume.done] == ["zero", "write"]
    await region.truncate(3000)
    assert await region.read(100, 2900) == bytes(2900)


async def test_reads_end_at_the_end() -> None:
    region = await region_of(PlainVolume())
    await region.write(0, b"abc")
    assert await region.read(1, 100) == b"bc"
    assert await region.read(3, 1) == b""
    assert await region.read(1000, 1) == b""


async def test_sizes_beyond_the_limits_are_refused_before_anything_changes() -> None:
    volume = PlainVolume()
    region = await region_of(volume)
    with pytest.raises(NoSpace):
        await region.write(VOLUME_BYTES_MAX - 1, b"xx")
    with pytest.raises(NoSpace) as refused:
        await region.truncate(VOLUME_BYTES_MAX + 1)
    assert errno_of(refused.value) == errno.EFBIG
    with pytest.raises(Invalid):
        await region.truncate(-1)
    assert volume.done == []
    assert region.size == 0


async def test_files_do_not_reach_into_each_other() -> None:
    volume = PlainVolume()
    first, second = await file_region(volume, 1), await file_region(volume, 2)
    await first.write(FILE_BYTES_MAX - 4, b"last")
    await second.write(0, b"first")
    assert await first.read(FILE_BYTES_MAX - 4, 100) == b"last"
    with pytest.raises(NoSpace):
        await first.write(FILE_BYTES_MAX - 3, b"last")
    assert min(offset for _, offset, _ in volume.done) >= FILE_REGION_BYTES


@pytest.mark.parametrize("layout", [1, 2])
async def test_an_erased_region_is_as_new(layout: int) -> None:
    volume = PlainVolume()
    region = await file_region(volume, 1, layout=layout)
    await region.write(0, b"data" * 5000)
    await region.erase()
    assert not any(volume.bytes.values())
    assert (await file_region(volume, 1, layout=layout)).size == 0


async def test_a_named_region_is_written_first_and_erased_in_one_record() -> None:
    """So a small file costs one record, and what a crash leaves of either is all or nothing."""
    volume = PlainVolume()
    region = await file_region(volume, 1)
    await region.write(0, b"content")
    assert volume.done == [("write", FILE_REGION_BYTES, CLUSTER + 7)]
    volume.done.clear()
    await region.erase()
    assert volume.done == [("zero", FILE_REGION_BYTES, 2 * CLUSTER)]


async def test_a_region_that_an_earlier_file_has_left_is_erased_durably_before_it_is_used() -> None:
    """The log came back as an older prefix: at the address there is the file that had it before."""
    volume = PlainVolume()
    earlier = await file_region(volume, 1, object_id="a" * 32)
    await earlier.write(0, b"secret of another file" * 1000)
    volume.done.clear()
    later = await Region.of_file(volume, 1, 777, 5, layout=2, object_id="b" * 32)  # type: ignore[arg-type]
    assert (later.size, later.unpublished) == (0, True)
    assert [what for what, _, _ in volume.done] == ["zero", "flush"]
    assert not any(volume.bytes.values())
    await later.truncate(30_000)
    assert await later.read(0, 30_000) == bytes(30_000)
    assert (await file_region(volume, 1, object_id="b" * 32)).size == 30_000


async def test_a_size_that_was_published_and_lost_with_the_log_is_gone_with_the_content() -> None:
    region = await Region.of_file(PlainVolume(), 1, 5000, 5, layout=2, object_id="b" * 32)  # type: ignore[arg-type]
    assert (region.size, region.unpublished) == (0, True)


async def test_a_close_flushes_only_what_took_the_place_of_durable_content() -> None:
    volume = PlainVolume()
    region = await file_region(volume, 1)
    await region.write(0, b"new")
    await region.flush_replacement()
    assert ("flush", 0, 0) not in volume.done
    await region.truncate(0)
    await region.write(0, b"newer")
    await region.flush_replacement()
    assert volume.done[-1] == ("flush", 0, 0)
    await region.write(0, b"newest")
    await region.flush_replacement()
    assert volume.done[-1] != ("flush", 0, 0)


@pytest.mark.parametrize(("layout", "length"), [(1, 44), (2, 60)])
async def test_a_damaged_meta_cluster_is_never_taken_for_a_size(layout: int, length: int) -> None:
    volume = PlainVolume()
    region = await file_region(volume, 1, layout=layout)
    await region.truncate(CLUSTER)
    offset = volume.done[-1][1]
    for at in range(length):
        byte = volume.bytes[offset + at]
        volume.bytes[offset + at] = byte ^ 4
        with pytest.raises(Corrupt):
            await file_region(volume, 1, layout=layout)
        volume.bytes[offset + at] = byte


# -- to another place while it is used ------------------------------------------------------------------------------------


async def test_a_region_goes_on_elsewhere_and_requests_wait_meanwhile() -> None:
    """Else a write of that moment would be acknowledged in the log that the file has left."""
    here, there = PlainVolume(), PlainVolume()
    region = await file_region(here, 3)
    await region.write(0, b"old" * 2000)
    assert region.changes() == []
    await region.write(100, b"new")
    assert region.changes() == [(3 * FILE_REGION_BYTES + CLUSTER + 100, 3)]
    await region.truncate(50)
    assert region.changes() == [(3 * FILE_REGION_BYTES + CLUSTER + 50, 5950)]
    region.hold()
    await region.drained()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(region.write, 10, b"late")
        await trio.testing.wait_all_tasks_blocked()
        written = len(here.done)
        there.bytes = {at - 2 * FILE_REGION_BYTES: byte for at, byte in here.bytes.items()}
        region.go_on(there, FILE_REGION_BYTES)  # type: ignore[arg-type]
    assert len(here.done) == written
    assert await region.read(0, 20) == (b"old" * 7)[:10] + b"late" + (b"old" * 7)[14:20]
    assert region.size == 50
    again = await file_region(there, 1)
    assert (again.size, await again.read(10, 4)) == (50, b"late")


async def test_requests_of_other_nodes_give_way_while_a_region_is_held() -> None:
    region = await file_region(PlainVolume(), 1)
    region.hold()
    with giving_way(), pytest.raises(Held):
        await region.write(0, b"x")
    region.go_on()
    await region.write(0, b"x")
    assert await region.read(0, 9) == b"x"
