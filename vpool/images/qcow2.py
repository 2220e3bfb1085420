"""qcow2 images, by way of ``qemu-img`` and ``qemu-nbd`` (Debian's qemu-utils), which know all of that format."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vpool.errors import Denied, Invalid, Unavailable
from vpool.images.nbd import NbdClient
from vpool.images.raw import failure, fingerprint, rename_durably

START_S = 20.0
POLL_S = 0.01
RUN_S = 600.0
STATUS_AHEAD_BYTES = 1 << 30


def tool(name: str) -> str:
    """Where a program of qemu-utils is. Invalid: it is not installed."""
    found = shutil.which(name)
    if found is None:
        raise Invalid(f"qcow2 needs {name}, which is not installed here; install Debian's qemu-utils, or use a raw image")
    return found


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)  # noqa: S603 (our own command)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise Invalid(f"{Path(command[0]).name} refuses: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout


class _Server:
    """A ``qemu-nbd`` of our own for one image, on a socket that only we can reach."""

    def __init__(self, path: Path, *options: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="vpool-nbd-")
        address = Path(self._directory.name) / "socket"
        command = [tool("qemu-nbd"), "--format=qcow2", "--persistent", "--shared=1", f"--socket={address}", *options]
        self._said = Path(self._directory.name) / "said"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(  # noqa: S603 (our own command)
                [*command, "--", str(path.absolute())],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,  # Ctrl-C is ours: it ends when we have flushed
            )
        try:
            self.client = NbdClient(self._connect(address))
        except BaseException:
            self._end()
            raise

    def _connect(self, address: Path) -> socket.socket:
        deadline = time.monotonic() + START_S
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(address))
            except OSError:
                connection.close()
            else:
                return connection
            if self._process.poll() is not None:
                said = self._said.read_text(errors="replace").strip().splitlines()
                raise Invalid(f"qemu-nbd refuses: {said[-1] if said else self._process.returncode}")
            if time.monotonic() > deadline:
                raise Unavailable(f"qemu-nbd did not answer within {START_S:g} s")
            time.sleep(POLL_S)

    def close(self) -> None:
        """Let go of the image."""
        self.client.close()
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._directory.cleanup()


class Qcow2Source:
    """A qcow2 file, read only."""

    def __init__(self, path: Path, *, with_backing: bool) -> None:
        """NotFound, Denied; Invalid: no qcow2, a damaged one, or one with a backing file that is not allowed."""
        tool("qemu-nbd")
        chain = _chain(path, with_backing=with_backing)
        self._files = [Path(image["filename"]) for image in chain]
        facts = [_stat(file) for file in self._files]
        for image in chain:
            _check(image)
        self._server = _Server(path, "--read-only")
        self._client = self._server.client
        self.size = self._client.size
        self.description = f"{path} (qcow2)"
        self.fingerprint = fingerprint("qcow2", self.size, facts, b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()

    def is_unchanged(self) -> bool:
        """Whether the image and those that it is based on are what was opened."""
        return fingerprint("qcow2", self.size, [_stat(file) for file in self._files], b"") == self.fingerprint

    def extents(self, offset: int) -> Iterator[tuple[int, int]]:
        """What the image has allocated and does not read as zeros."""
        while offset < self.size:
            for start, length, zeros in self._client.status(offset, min(self.size, offset + STATUS_AHEAD_BYTES)):
                if not zeros:
                    yield start, length
                offset = start + length

    def read(self, offset: int, length: int) -> bytes:
        """Bytes within the size."""
        return self._client.read(offset, length)


class Qcow2Target:
    """A qcow2 file that is written beside its final name; what is not written takes no space."""

    def __init__(self, path: Path, part: Path, size: int, *, resumed: bool) -> None:
        """NotFound, Denied, Invalid."""
        tool("qemu-nbd")
        self._path = path
        self._part = part
        if not resumed:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()
            before = os.umask(0o077)
            try:
                _run(tool("qemu-img"), "create", "-q", "-f", "qcow2", "--", str(part.absolute()), str(size))
            finally:
                os.umask(before)
        self._server = _Server(part, "--discard=unmap", "--detect-zeroes=unmap")
        self._client = self._server.client
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def write(self, offset: int, data: bytes) -> None:
        """Write a range. NoSpace, Unavailable."""
        self._client.write(offset, data)

    def flush(self) -> None:
        """Durable on return."""
        self._client.flush()

    def finish(self) -> None:
        """Close the image and give it its name, durably."""
        self.flush()
        self._close()
        rename_durably(self._part, self._path)

    def _close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._server.close()


def _chain(path: Path, *, with_backing: bool) -> list[dict[str, Any]]:
    """What ``qemu-img`` says of an image and those that it is based on."""
    _stat(path)
    command = [tool("qemu-img"), "info", "--force-share", "--output=json", "-f", "qcow2"]
    first = json.loads(_run(*command, "--", str(path.absolute())))
    backing = first.get("full-backing-filename") or first.get("backing-filename")
    if backing is None:
        return [first]
    if not with_backing:
        raise Invalid(
            f"{path} is based on {backing}, whose content would become part of the volume; allow that with --with-backing, if "
            "you trust the image"
        )
    chain: list[dict[str, Any]] = json.loads(_run(*command, "--backing-chain", "--", str(path.absolute())))
    return chain


def _check(image: dict[str, Any]) -> None:
    """Invalid: an image is not whole in itself, or cannot be read. What is cut off reads as zeros otherwise, without an error."""
    path = image["filename"]
    if image.get("format") != "qcow2":
        return
    if image.get("encrypted"):
        raise Invalid(f"{path} is encrypted; decrypt it with qemu-img convert first")
    elsewhere = image.get("format-specific", {}).get("data", {}).get("data-file")
    if elsewhere is not None:  # it may be any file of this host, and who has made the image says which
        raise Invalid(f"{path} has its data in another file, {elsewhere}; if you trust it, join them with qemu-img convert first")
    command = [tool("qemu-img"), "check", "--force-share", "--output=json", "-f", "qcow2", "--", path]
    # What it has to say of each cluster, it says on standard error, without an end.
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)  # noqa: S603
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise Invalid(f"qemu-img cannot check {path} (exit code {done.returncode})") from None
    if found.get("check-errors") or found.get("corruptions"):
        raise Invalid(f"{path} is damaged, or not all of it is there; qemu-img check {path} says what is wrong")


def _stat(path: Path) -> os.stat_result:
    try:
        facts = path.stat()
    except OSError as error:
        raise failure(error, path) from None
    if not os.access(path, os.R_OK):
        raise Denied(f"{path} cannot be read")
    if path.is_dir():
        raise Invalid(f"{path} is a directory")
    return facts
