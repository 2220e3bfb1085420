"""Running the command as a user would: what it said, and what it left."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str


def vpool(*arguments: str | Path, environment: dict[str, str] | None = None, seconds: float = 60) -> Ran:
    """``vpool`` with these arguments, until it ends by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "vpool", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def picture(directory: Path) -> dict[str, str]:
    """Everything below a directory, with a digest of each file: to see that nothing has changed."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_symlink():
            found[str(path)] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[str(path)] = "directory" if path.is_dir() else "other"
    return found
