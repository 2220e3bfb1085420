"""``make run``: a vPool under ./run, tried out before your eyes, then yours until Ctrl-C.

Without a terminal it does the same and ends by itself, with exit code 0 if everything went well.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vpool.cli.client import Client
from vpool.errors import Conflict, Internal, Unavailable, VPoolError
from vpool.exitcodes import exit_code
from vpool.sizes import show_size

MIB = 1 << 20
VOLUME = "demo.raw"
VOLUME_BYTES = 64 * MIB
WRITTEN_BYTES = 8 * MIB
START_S = 60.0
UPLOAD_S = 60.0
SETTINGS = """# Settings of `make run`: small, so that it fits anywhere. All settings: docs/settings.md
[cache]
size_bytes = "1GiB"

[volumes]
soft_bytes = "256MiB"
hard_bytes = "512MiB"
tlog_age_s = 2
"""


class _Daemon:
    """``vpool up`` in a process group of its own, so that Ctrl-C reaches it through us only."""

    def __init__(self, top: Path) -> None:
        self.directory, self.mountpoint, self.log = top / "pool", top / "mount", top / "daemon.log"
        settings = top / "vpool.toml"
        top.mkdir(exist_ok=True)
        if not settings.exists():
            settings.write_text(SETTINGS, encoding="utf-8")
        with suppress(FileExistsError):  # also as the dead mount of a demo that was killed, which cannot be looked at
            self.mountpoint.mkdir()
        command = [sys.executable, "-m", "vpool", "up", str(self.directory), str(self.mountpoint), "--config", str(settings)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, process_group=0
            )

    def wait_until_ready(self) -> str:
        """The line that it prints when it is ready."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        if line:
            return line.strip()
        code = self.process.wait(START_S)
        said = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
        raise _Ended("\n".join(said) or "the daemon said nothing", code)

    def stop(self) -> int:
        """Ask it to stop, and wait until it has."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait()


class _Ended(Exception):
    """The daemon did not start; it has said why."""

    def __init__(self, said: str, code: int) -> None:
        super().__init__(said)
        self.code = code


@contextmanager
def _running(top: Path) -> Iterator[_Daemon]:
    daemon = _Daemon(top)
    try:
        yield daemon
    finally:
        daemon.stop()


def _say(text: str) -> None:
    print(text, flush=True)


def _try_out(daemon: _Daemon) -> None:
    client = Client(daemon.directory)
    if not any(volume["path"] == VOLUME for volume in client.get("/v1/volumes")["volumes"]):
        _say(f"$ vpool volume create {VOLUME} {VOLUME_BYTES // MIB}M")
        client.post("/v1/volumes", {"path": VOLUME, "size": VOLUME_BYTES})
    disk = daemon.mountpoint / VOLUME
    content = os.urandom(WRITTEN_BYTES)
    began = time.monotonic()
    with disk.open("r+b", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())
    _say(f"wrote and synced {show_size(WRITTEN_BYTES)} to {disk} in {time.monotonic() - began:.2f} s")
    with disk.open("rb", buffering=0) as file:
        read = b""
        while len(read) < WRITTEN_BYTES and (part := file.read(WRITTEN_BYTES - len(read))):
            read += part
    if read != content:
        raise Internal("what was read is not what was written", volume=VOLUME)
    _say(f"read it back: the same, SHA-256 {hashlib.sha256(read).hexdigest()[:16]}…")
    _wait_for_uploads(client)
    _show_buckets(daemon.directory / "backend")


def _wait_for_uploads(client: Client) -> None:
    """Until nothing is left that only the cache has."""
    end = time.monotonic() + UPLOAD_S
    while True:
        report: dict[str, Any] = client.get("/v1/status")
        if not report["dirty_bytes"]:
            return
        if time.monotonic() > end:
            raise Unavailable("the uploads take too long", dirty_bytes=report["dirty_bytes"])
        time.sleep(0.1)


def _show_buckets(backend: Path) -> None:
    _say(f"\nwhat the backend has ({backend}):")
    for bucket in sorted(path for path in backend.iterdir() if path.is_dir() and not path.name.startswith(".")):
        _say(f"  bucket {bucket.name}")
        objects = sorted(path for path in bucket.rglob("*") if path.is_file())
        for path in objects[:12]:
            _say(f"    {path.stat().st_size:>10,}  {path.relative_to(bucket)}")
        if len(objects) > 12:
            _say(f"    … and {len(objects) - 12} more")


NEXT_STEPS = """
It runs. In another terminal, try:

  {vpool} status
  {vpool} volume create machine.raw 10G
  qemu-system-x86_64 -drive file={mount}/machine.raw,format=raw,cache=none -cdrom YOUR-INSTALLER.iso
  mkdir {mount}/iso && cp YOUR-FILES {mount}/iso/

On object storage:  {vpool} up DIR MOUNT --backend s3:https://HOST/PREFIX   (see README.md)

Ctrl-C stops it; what is in it stays under {top}.
"""


def run(top: Path) -> int:
    """Start, try out, and stay until Ctrl-C if there is a terminal."""
    top = top.absolute()
    with _running(top) as daemon:
        _say(daemon.wait_until_ready())
        _try_out(daemon)
        if sys.stdin.isatty() and sys.stdout.isatty():
            _say(NEXT_STEPS.format(vpool=Path(sys.executable).with_name("vpool"), mount=daemon.mountpoint, top=top))
            if (code := daemon.process.wait()) != 0:
                raise Conflict(f"the daemon ended with exit code {code}; see {daemon.log}")
            return 0
        return daemon.stop()


def main(arguments: list[str]) -> int:
    """``python -m vpool.demo DIRECTORY``."""
    if len(arguments) != 1:
        print("usage: python -m vpool.demo DIRECTORY", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(Path(arguments[0]))
    except KeyboardInterrupt:
        _say("stopped")
        return 0
    except _Ended as ended:
        print(ended, file=sys.stderr)
        return ended.code
    except VPoolError as error:
        print(f"vpool: {error}", file=sys.stderr)
        return exit_code(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
