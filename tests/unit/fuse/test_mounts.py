"""Mount points: a mistake hides somebody's files, unmounts somebody else's disk, or hangs at start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse import check_mountpoint, detach, mount_on, resolve, source_name
from vpool.errors import Conflict, Invalid

VPOOL = "1" * 32
HOLD_A_MOUNT = """
import ctypes, os, sys, time
device = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mount(sys.argv[2].encode(), sys.argv[1].encode(), b"fuse.vpool", 0, options) == 0, os.strerror(ctypes.get_errno())
print("mounted", flush=True)
time.sleep(60)
"""


class HeldMount:
    """A FUSE mount whose daemon never answers."""

    def __init__(self, path: Path, vpool_id: str) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD_A_MOUNT, str(path), source_name(vpool_id)], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"mounted\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[HeldMount]:
    (tmp_path / "m").mkdir()
    mount = HeldMount(tmp_path / "m", VPOOL)
    yield mount
    mount.kill()
    detach(mount.path)


def test_an_empty_directory_is_right(tmp_path: Path) -> None:
    assert check_mountpoint(tmp_path, None) is False


def test_what_cannot_be_mounted_on_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Invalid, match="not empty"):
        check_mountpoint(tmp_path, None)
    with pytest.raises(Invalid, match="is not a directory"):
        check_mountpoint(tmp_path / "file", None)
    with pytest.raises(Invalid, match="does not exist; make it with: mkdir"):
        check_mountpoint(tmp_path / "none", None)


def test_other_file_systems_are_left_alone() -> None:
    with pytest.raises(Conflict, match=r"/proc is in use: proc \(proc\)"):
        check_mountpoint(Path("/proc"), None)


@pytest.mark.mount
def test_a_mount_that_does_not_answer_is_not_taken_for_dead(held: HeldMount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuse.mounts._ANSWER_S", 0.3)
    with pytest.raises(Conflict, match="a running vPool is mounted there"):
        check_mountpoint(held.path, VPOOL)


@pytest.mark.mount
def test_a_dead_mount_of_ours_is_found_and_removed(held: HeldMount) -> None:
    held.kill()
    assert resolve(held.path) == held.path
    assert check_mountpoint(held.path, VPOOL) is True
    detach(held.path)
    assert mount_on(str(held.path)) is None
    assert check_mountpoint(held.path, VPOOL) is False


@pytest.mark.mount
def test_a_dead_mount_of_another_vpool_is_refused_with_the_remedy(held: HeldMount) -> None:
    held.kill()
    with pytest.raises(Conflict, match="vpool umount"):
        check_mountpoint(held.path, "2" * 32)
    with pytest.raises(Conflict, match="vpool umount"):
        check_mountpoint(held.path, None)


@pytest.mark.mount
def test_resolving_never_asks_a_mount_that_does_not_answer(held: HeldMount, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("m")
    assert resolve(tmp_path / "link") == held.path
    assert resolve(tmp_path / "x" / ".." / "m") == held.path


def test_links_that_go_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(Invalid, match="too many symbolic links"):
        resolve(tmp_path / "a")


def test_relative_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve(Path("m")) == Path(os.path.realpath(tmp_path)) / "m"
