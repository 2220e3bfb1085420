"""A loop device over a volume, and the file system on it; both go in every way of leaving."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.mounted_pool import unmount

COMMAND_S = 120


def run(*command: str) -> str:
    """Run a tool; a failure shows what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


class LoopDevice:
    """``losetup`` on a file in a mount, and a mount of the device."""

    def __init__(self, volume: Path, target: Path, *, kind: str, direct: bool) -> None:
        self._volume = volume
        self._target = target
        self._kind = kind
        self._direct = direct
        self.device = ""

    def __enter__(self) -> Self:
        self._target.mkdir(exist_ok=True)
        direct = f"--direct-io={'on' if self._direct else 'off'}"
        self.device = run("losetup", "--find", "--show", direct, str(self._volume)).strip()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Detach, also from a daemon that is dead: a device that is still in use goes with its last user."""
        with contextlib.suppress(subprocess.SubprocessError, FileNotFoundError):
            unmount(self._target)
        if self.device:
            subprocess.run(["losetup", "--detach", self.device], capture_output=True, timeout=COMMAND_S, check=False)

    def make_filesystem(self) -> None:
        """mkfs, which also discards the device."""
        run(f"mkfs.{self._kind}", *(["-q", "-F"] if self._kind == "ext4" else ["-q", "-f"]), self.device)

    def mount(self) -> Path:
        """Mount; replays the journal of a file system that was not unmounted."""
        run("mount", "-t", self._kind, self.device, str(self._target))
        return self._target

    def unmount(self) -> None:
        """Unmount in order; what is dirty is written."""
        run("umount", str(self._target))

    def check(self) -> None:
        """fsck that changes nothing and fails on anything it would have to change. Only when not mounted."""
        if self._kind == "ext4":
            run("e2fsck", "-fn", self.device)
        else:
            run("xfs_repair", "-n", self.device)


def released(device: str) -> bool:
    """Whether nothing is behind a loop device any more."""
    return not os.path.exists(f"/sys/block/{Path(device).name}/loop/backing_file")
