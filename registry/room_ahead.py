"""Zeroes behind the end of a growing file, written beside everything else, so that who writes the file finds its blocks there.

A sync of a file that has grown commits the file system's journal; one of blocks that have been written before is a bare flush.
A thread appends slices, each durable before the next, so that a sync of the file's owner never waits for more than one.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

AHEAD_BYTES = 16 << 20
SLICE_BYTES = 1 << 20
AGAIN_S = 10.0  # after an error (a full disk)


class RoomAhead:
    """Of one file. ``keep`` is called by one thread.

    The file's owner may write at any place, also beyond the end: ``O_APPEND`` finds the end and writes there as one step, so a
    slice never covers what the owner has written. Without room ahead (a full disk, an owner who is faster) all stays correct.
    """

    def __init__(self, path: Path) -> None:
        """The file exists. Errors: ``OSError``."""
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._used = 0  # bytes that the owner uses
        self._end = os.fstat(self._fd).st_size
        self._short = threading.Event()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def fill(self, used: int) -> None:
        """Have all the room there is to be, now and in this thread: before the work begins. Errors: ``OSError``."""
        self._used = used
        while self._append_slice(durable=False):
            pass
        os.fdatasync(self._fd)

    def keep(self, used: int) -> None:
        """The owner uses so many bytes by now. Never waits; errors are of no consequence but for speed."""
        self._used = used
        if self._end - used > AHEAD_BYTES - SLICE_BYTES:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="room ahead", daemon=True)
            self._thread.start()
        self._short.set()

    def close(self) -> None:
        """Waits for the slice that is under way."""
        self._ending.set()
        self._short.set()
        if self._thread is not None:
            self._thread.join()
        os.close(self._fd)

    def _run(self) -> None:
        while not self._ending.is_set():
            self._short.wait()
            self._short.clear()
            try:
                while not self._ending.is_set() and self._append_slice():
                    pass
            except OSError:
                self._ending.wait(AGAIN_S)

    def _append_slice(self, *, durable: bool = True) -> bool:
        """False: there is enough. Errors: ``OSError``."""
        self._end = os.fstat(self._fd).st_size
        if self._end - self._used > AHEAD_BYTES - SLICE_BYTES:
            return False
        written = os.write(self._fd, bytes(SLICE_BYTES))
        if durable:
            os.fdatasync(self._fd)
        self._end += written
        return True
