"""The bytes of what the Volume Driver writes itself: a changed byte would make old volumes unreadable.

``GOLDEN_WRITE=1`` writes the files again, for a new version of a format.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.unit.volumedriver.test_region import PlainVolume
from volumedriver import BirthRecord, Region
from volumedriver.region import VOLUME_META_OFFSET

HERE = Path(__file__).parent / "volume"
TOP = Path(__file__).parents[2]


def compare(name: str, data: bytes) -> None:
    path = HERE / name
    if os.environ.get("GOLDEN_WRITE") == "1":
        path.write_bytes(data)
    assert path.read_bytes() == data, f"{name} is not what it was; a format changes only with its version"


def test_volume_json() -> None:
    record = BirthRecord(vpool="a" * 32, volume="0123456789abcdef" * 2, kind="volume", map_levels=4)
    compare("volume.json", record.encode())
    assert BirthRecord.decode((HERE / "volume.json").read_bytes()) == record


async def test_meta_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volumedriver.region.time.time_ns", lambda: 1_700_000_000_123_456_789)
    volume = PlainVolume()
    region = await Region.of_volume(volume, 0, 0)  # type: ignore[arg-type]
    await region.truncate(10 << 30)
    cluster = await volume.read(VOLUME_META_OFFSET, 4096)
    compare("meta-cluster", cluster)
    again = await Region.of_volume(volume, 0, 0)  # type: ignore[arg-type]
    assert (again.size, again.mtime_ns) == (10 << 30, 1_700_000_000_123_456_789)


async def test_meta_cluster_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volumedriver.region.time.time_ns", lambda: 1_700_000_000_123_456_789)
    volume = PlainVolume()
    file = "0123456789abcdef" * 2
    region = await Region.of_file(volume, 5, 0, 0, layout=2, object_id=file)  # type: ignore[arg-type]
    await region.truncate(70_000)
    cluster = await volume.read(5 << 40, 4096)
    compare("meta-cluster-2", cluster)
    again = await Region.of_file(volume, 5, 0, 0, layout=2, object_id=file)  # type: ignore[arg-type]
    assert (again.size, again.mtime_ns) == (70_000, 1_700_000_000_123_456_789)


def test_every_format_has_a_page() -> None:
    index = (TOP / "docs/formats/README.md").read_text()
    for page in re.findall(r"\]\((\w[\w-]*\.md)\)", index):
        assert (TOP / "docs/formats" / page).exists(), page
