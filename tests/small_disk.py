"""A file system of a few MiB that a test may fill: a tmpfs, or ext4 on a loop device."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.mounted_pool import unmount

BALLAST = "ballast"
CHUNK = 64 << 10


class SmallDisk:
    """A context manager; what is in it is gone with it."""

    def __init__(self, path: Path, size: int, *, image: Path | None = None) -> None:
        """``image``: a file that holds ext4; None: a tmpfs."""
        self.path = path
        self._size = size
        self._image = image

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True, exist_ok=True)
        if self._image is None:
            command = ["mount", "-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", str(self.path)]
        else:
            with self._image.open("wb") as file:
                file.truncate(self._size)
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(self._image)], check=True, timeout=60)
            command = ["mount", "-o", "loop", str(self._image), str(self.path)]
        subprocess.run(command, check=True, timeout=60)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        unmount(self.path)

    @property
    def free_bytes(self) -> int:
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Somebody else takes all room but ``leave`` bytes."""
        with (self.path / BALLAST).open("ab", buffering=0) as file:
            while self.free_bytes > leave:
                try:
                    file.write(bytes(min(CHUNK, self.free_bytes - leave)))
                except OSError:
                    return

    def make_room(self) -> None:
        """He gives it back."""
        (self.path / BALLAST).unlink(missing_ok=True)
