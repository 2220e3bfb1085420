"""git, tar, make and rsync on the mount, each compared with what it leaves on a local disk.

If this fails: a checkout is damaged, a build does too much or too little because times are wrong, a backup is not what it was
made of.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.clients.source_tree import git, make_history, make_source_tree
from tests.crash.rounds import chosen_seed
from tests.mounted_pool import MountedPool

pytestmark = pytest.mark.mount
FILES = 120


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, int]:
    """A source tree on the local disk, and what its program prints."""
    tree = tmp_path / "sources"
    tree.mkdir()
    return tree, make_source_tree(tree, seed=chosen_seed(), files=FILES)


def test_git_clones_works_and_finds_nothing_wrong(pool: MountedPool, sources: tuple[Path, int]) -> None:
    origin, _ = sources
    make_history(origin, seed=1, commits=30)
    clone = pool.mount / "clone"
    git(pool.mount, "clone", "--quiet", "--no-local", str(origin), str(clone))
    assert git(clone, "rev-parse", "HEAD^{tree}") == git(origin, "rev-parse", "HEAD^{tree}")
    run("diff", "-r", "--no-dereference", "--exclude=.git", origin, clone)
    assert git(clone, "status", "--porcelain") == ""
    git(clone, "switch", "--quiet", "-c", "work", "HEAD~10")
    (clone / "kernel/core/new.c").write_text("int new_thing;\n")
    (clone / "main.c").chmod(0o755)
    git(clone, "mv", "include/h0.h", "include/zero.h")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "-m", "work")
    git(clone, "rebase", "--quiet", "main")
    git(clone, "stash", "list")
    git(clone, "worktree", "add", "--quiet", str(pool.mount / "beside"), "v1")
    run("diff", "-r", "--no-dereference", "--exclude=.git", origin, pool.mount / "beside")
    git(clone, "gc", "--quiet", "--prune=now")
    assert git(clone, "fsck", "--strict", "--no-dangling") == ""
    git(origin, "fetch", "--quiet", str(clone), "work")
    assert git(origin, "log", "-1", "--format=%s", "FETCH_HEAD") == "work"
    assert git(clone, "status", "--porcelain") == ""


def test_git_finds_everything_after_the_daemon_was_killed(pool: MountedPool, sources: tuple[Path, int]) -> None:
    """Every commit that git has said is made, with core.fsync as it comes for objects, is there."""
    origin, _ = sources
    make_history(origin, seed=2, commits=5)
    clone = pool.mount / "clone"
    git(pool.mount, "clone", "--quiet", "--no-local", str(origin), str(clone))
    for number in range(10):
        (clone / "main.c").write_text(f"/* {number} */\n")
        git(clone, "commit", "--quiet", "-a", "-m", f"on the mount {number}")
    head = git(clone, "rev-parse", "HEAD")
    pool.kill()
    pool.start()
    assert git(clone, "rev-parse", "HEAD") == head
    assert git(clone, "fsck", "--strict", "--no-dangling") == ""
    assert git(clone, "status", "--porcelain") == ""
    assert (clone / "main.c").read_text() == "/* 9 */\n"


def test_a_tree_is_unpacked_and_built(pool: MountedPool, sources: tuple[Path, int], tmp_path: Path) -> None:
    origin, printed = sources
    archive = tmp_path / "sources.tar"
    run("tar", "-C", origin.parent, "-cf", archive, origin.name)
    run("tar", "-C", pool.mount, "-xf", archive)
    tree = pool.mount / origin.name
    run("tar", "-C", pool.mount, "--compare", "-f", archive)  # content, modes, owners and times, one by one
    run("make", "-j4", "--silent", cwd=tree)
    assert run(tree / "program") == f"{printed}\n"
    assert "cc " not in run("make", cwd=tree), "a second make builds something: times are wrong"
    objects = {path: path.stat().st_mtime_ns for path in tree.rglob("*.o")}
    assert len(objects) == FILES + 1
    users = [path.with_suffix(".o") for path in tree.rglob("*.c") if '"h3.h"' in path.read_text()]
    time.sleep(0.02)  # the next tick of the clock that the kernel stamps files with
    (tree / "include/h3.h").write_text("#pragma once\n#define H3 1004\n")
    run("make", "-j4", "--silent", cwd=tree)
    changed = {path for path, before in objects.items() if path.stat().st_mtime_ns != before}
    assert changed == set(users)
    assert run(tree / "program") == f"{printed + 1000 * len(users)}\n"
    run("make", "clean", "--silent", cwd=tree)
    assert not list(tree.rglob("*.[oad]"))
    shutil.rmtree(tree)
    assert os.listdir(pool.mount) == []


def itemized(source: Path, target: Path, *options: str) -> list[str]:
    """What rsync would still have to do."""
    return run("rsync", "-n", "-i", "-aHX", "--delete", *options, f"{source}/", f"{target}/").splitlines()


def test_rsync_makes_and_keeps_a_copy(pool: MountedPool, sources: tuple[Path, int]) -> None:
    origin, _ = sources
    os.link(origin / "main.c", origin / "kernel/hard.c")
    os.setxattr(origin / "Makefile", "user.origin", b"here")
    os.utime(origin / "main.c", ns=(1_000_000_001, 1_234_567_890_123_456_789))
    # It is changed below, which rsync sees by the second alone: that must be another one.
    os.utime(origin / "drivers/core/file0.c", (1_000_000_000, 1_000_000_000))
    copy = pool.mount / "copy"
    run("rsync", "-aHX", f"{origin}/", f"{copy}/")
    assert itemized(origin, copy, "--checksum") == []
    assert itemized(origin, copy) == []  # sizes and times alone say the same
    assert (copy / "main.c").stat().st_ino == (copy / "kernel/hard.c").stat().st_ino
    assert (copy / "main.c").stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert os.getxattr(copy / "Makefile", "user.origin") == b"here"
    shutil.rmtree(origin / "fs/net")
    (origin / "fs/net").write_text("a file where a directory was\n")
    with (origin / "drivers/core/file0.c").open("r+b") as file:
        file.write(b"//")
    (origin / "include").rename(origin / "headers")
    run("rsync", "-aHX", "--delete", "--fsync", f"{origin}/", f"{copy}/")
    assert itemized(origin, copy, "--checksum") == []
    large = origin / "large.img"
    large.write_bytes(os.urandom(5 << 20))
    run("rsync", "-aHX", "--inplace", "--no-whole-file", f"{origin}/", f"{copy}/")
    with large.open("r+b") as file:
        file.seek(3 << 20)
        file.write(b"changed")  # within the same second: only a look at the content tells
    run("rsync", "-aHX", "--checksum", "--inplace", "--no-whole-file", f"{origin}/", f"{copy}/")
    assert itemized(origin, copy, "--checksum") == []
    sparse = origin / "sparse.img"
    with sparse.open("wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
    run("rsync", "-aHXS", f"{origin}/", f"{copy}/")
    assert itemized(origin, copy, "--checksum") == []
    pool.kill()
    pool.start()
    assert itemized(origin, copy, "--checksum") == []
