"""Where log lines go: standard error, or a file that rotates by itself. A log that cannot be written never stops the daemon."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from pathlib import Path

from vpool.errors import Denied, NoSpace

MODE = 0o640


class StandardError:
    """Standard error. Whoever reads it may go away: lines are then lost, and counted (``lost``)."""

    def __init__(self) -> None:
        self.lost = 0

    def write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
        except (OSError, ValueError):
            self.lost += 1

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # counted when it was written
            sys.stderr.flush()


class RotatedFile:
    """A file of lines; past ``size_bytes`` it becomes ``NAME.1``, which becomes ``NAME.2``, and so on, ``files`` in all.

    Lines that the disk refuses are dropped and counted; the next line that is taken is preceded by one that tells how many.
    May be used by several threads. A file that somebody else moves away is begun anew.
    """

    def __init__(self, path: Path, size_bytes: int, files: int) -> None:
        """Open the file, or make it (mode 0640).

        Raises:
            Denied: it cannot be written.
            NoSpace: its disk is full.
        """
        self.path = path
        self.lost = 0
        self._size_bytes = size_bytes
        self._files = files
        self._lock = threading.Lock()
        try:
            self._descriptor = self._open()
        except FileNotFoundError:
            raise Denied(f"log.file {path} cannot be made; its directory {path.parent} must exist") from None
        except OSError as error:
            kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else Denied
            raise kind(f"log.file {path} cannot be written: {error.strerror}") from None

    def write(self, text: str) -> None:
        """Append whole lines; reaches the kernel before it returns."""
        data = text.encode("utf-8", "surrogateescape")
        with self._lock:
            try:
                self._rotate_if_full(len(data))
                if self.lost:
                    self._append(b'{"event": "log_lines_lost", "level": "warning", "count": %d}\n' % self.lost)
                    self.lost = 0
                self._append(data)
            except OSError:
                self.lost += 1

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        os.close(self._descriptor)

    def _append(self, data: bytes) -> None:
        """All of it, or (a full disk) nothing: half a line would spoil the next one."""
        before = os.fstat(self._descriptor).st_size
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            os.ftruncate(self._descriptor, before)
            raise

    def _rotate_if_full(self, more: int) -> None:
        status = os.fstat(self._descriptor)
        if not self._is_ours(status):
            self._reopen()
        elif status.st_size and status.st_size + more > self._size_bytes:
            for number in range(self._files - 1, 0, -1):
                older = self._numbered(number)
                newer = self._numbered(number - 1)
                with contextlib.suppress(FileNotFoundError):
                    newer.replace(older)
            if self._files == 1:
                os.ftruncate(self._descriptor, 0)
            else:
                self._reopen()

    def _is_ours(self, status: os.stat_result) -> bool:
        try:
            return os.path.samestat(status, os.stat(self.path))
        except FileNotFoundError:
            return False

    def _reopen(self) -> None:
        descriptor = self._open()
        os.close(self._descriptor)
        self._descriptor = descriptor

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path
