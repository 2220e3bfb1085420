"""How editors save: beside and over, in place, with and without a backup; and what of it a kill of the daemon leaves.

If this fails: a saved text is empty or half old, half new, or has lost its mode, its owner or its links.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted_pool import MountedPool

pytestmark = pytest.mark.mount
TEXT = "".join(f"line {number}\n" for number in range(2000))


def run(*command: str | Path, given: str | None = None) -> None:
    done = subprocess.run([str(part) for part in command], input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"


def vim(path: Path, settings: str) -> None:
    run("vim.tiny", "-u", "NONE", "-i", "NONE", "-n", "-es", "-c", f"set {settings}", "-c", "1s/line/LINE/", "-c", "wq", path)


def over(path: Path) -> None:
    """As most editors and configuration tools do: write beside, sync, rename over, sync the directory."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w") as file:
        file.write(path.read_text().replace("line 0", "LINE 0", 1))
        file.flush()
        os.fsync(file.fileno())
    beside.chmod(path.stat().st_mode & 0o7777)
    beside.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def in_place(path: Path) -> None:
    """As nano does: truncate and write anew."""
    text = path.read_text().replace("line 0", "LINE 0", 1)
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def with_backup_by_link(path: Path) -> None:
    """As Emacs may: the old one keeps living under another name."""
    backup = path.with_name(f"{path.name}~")
    os.link(path, backup)
    over(path)
    assert backup.read_text() == TEXT
    backup.unlink()


SAVES: dict[str, Callable[[Path], None]] = {
    "vim, a copy as backup": lambda path: vim(path, "writebackup backupcopy=yes fsync"),
    "vim, renamed as backup": lambda path: vim(path, "writebackup backupcopy=no fsync"),
    "vim, no backup": lambda path: vim(path, "nowritebackup nobackup fsync"),
    "sed -i": lambda path: run("sed", "-i", "1s/line/LINE/", path),
    "perl -i": lambda path: run("perl", "-i", "-pe", "s/line/LINE/ if $. == 1", path),
    "ex": lambda path: run("vim.tiny", "-u", "NONE", "-i", "NONE", "-n", "-e", "-s", path, given="1s/line/LINE/\nwq\n"),
    "write beside, rename over": over,
    "truncate and write": in_place,
    "a hard link as backup": with_backup_by_link,
}


def test_saves_are_whole_and_survive_a_kill(pool: MountedPool) -> None:
    wanted = TEXT.replace("line 0", "LINE 0", 1)
    saved = []
    for number, (how, save) in enumerate(SAVES.items()):
        path = pool.mount / f"texts{number}" / "notes.txt"
        path.parent.mkdir()
        path.write_text(TEXT)
        path.chmod(0o640)
        save(path)
        saved.append((how, path))

    def check() -> None:
        for how, path in saved:
            assert path.read_text() == wanted, how
            assert path.stat().st_mode & 0o7777 == 0o640, how
            assert os.listdir(path.parent) == ["notes.txt"], f"{how}: something is left beside"

    check()
    pool.kill()
    pool.start()
    check()


def test_a_symbolic_link_stays_one_when_its_target_is_saved(pool: MountedPool) -> None:
    target, link = pool.mount / "real.txt", pool.mount / "link.txt"
    target.write_text(TEXT)
    link.symlink_to("real.txt")
    vim(link, "writebackup backupcopy=auto")
    assert link.is_symlink()
    assert target.read_text().startswith("LINE 0\n")


def test_appending_shells_do_not_overwrite_each_other(pool: MountedPool) -> None:
    log = pool.mount / "app.log"
    script = 'for i in $(seq 200); do echo "$0 $i" >> "$1"; done'
    writers = [subprocess.Popen(["sh", "-c", script, f"w{number}", str(log)]) for number in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    lines = log.read_text().splitlines()
    assert sorted(lines) == sorted(f"w{number} {i}" for number in range(4) for i in range(1, 201))
