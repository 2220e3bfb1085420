"""A kill before every step of create, unlink, rename, truncate: afterwards the change has happened or not, and nothing else has.

Once more with the loss of ``DIR/cache``: then contents go back to what the backend has, but no file ever shows the bytes of
another one, also where an address was given again. ``VPOOL_SEED`` chooses the sample of the short test.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from objectrouter import ROOT_INODE
from tests.crash.rounds import chosen_seed
from tests.crash.steps import NEW, OLD, OPERATIONS, OTHER, prepare, reaped, started, write_file
from tests.parts import Parts
from vpool.errors import NotFound

Contents = dict[str, bytes | None]

# What each name may be after the operation was killed: of the content, all that it was or became (None: there is no such name).
ALLOWED: dict[str, dict[str, list[bytes | None]]] = {
    "create": {"new": [None, b"", NEW]},
    "unlink": {"old": [OLD, None]},
    "rename_over": {"old": [OLD, NEW], "new": [None, b"", NEW]},
    "exchange": {"old": [OLD, OTHER], "other": [OLD, OTHER]},
    "cut": {"old": [OLD, OLD[:3_000] + bytes(7_000), OLD[:3_000]]},
    "rewrite": {"old": [OLD, bytes(10_000), b"", NEW]},
    "replace_at_the_same_address": {"old": [OLD, None], "new": [None, b"", NEW], "newer": [None, b"", NEW]},
}
DONE: dict[str, Contents] = {
    "create": {"new": NEW},
    "unlink": {"old": None},
    "rename_over": {"old": NEW, "new": None},
    "exchange": {"old": OTHER, "other": OLD},
    "cut": {"old": OLD[:3_000]},
    "rewrite": {"old": NEW},
    "replace_at_the_same_address": {"old": None, "new": NEW, "newer": NEW},
}
NAMES = ("old", "other", "new", "newer")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DIR to begin with."""
    directory = tmp_path_factory.mktemp("steps") / "pool"
    directory.mkdir()
    trio.run(prepare, directory)
    return directory


def run(directory: Path, operation: str, fatal: int) -> int | None:
    """The number of steps of an operation that came to its end; None if it was killed before."""
    command = [sys.executable, "-m", "tests.crash.steps", str(directory), operation, str(fatal)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == -9, f"{operation} has failed by itself"
    return int(output.split()[-1]) if output.split() and output.split()[-1].isdigit() else None


async def content_of(parts: Parts, name: str) -> bytes | None:
    try:
        inode = await parts.router.lookup(ROOT_INODE, name)
    except NotFound:
        return None
    content = await parts.router.read(inode.number, 0, 1 << 20)
    assert len(content) == (await parts.router.attributes(inode.number)).size
    return content


async def look(directory: Path, operation: str, *, lost_cache: bool, completed: bool) -> None:
    """All that must hold in the next life."""
    async with started(directory) as parts:
        found = {name: await content_of(parts, name) for name in NAMES}
        expected: dict[str, list[bytes | None]] = {"old": [OLD], "other": [OTHER], "new": [None], "newer": [None]}
        expected.update(ALLOWED[operation])
        for name, content in found.items():
            allowed = list(expected[name])
            if lost_cache and content is not None:  # as the backend has it: what was there before, or nothing yet
                allowed += [b"", OLD if name in ("old", "other") else b"", OTHER if operation == "exchange" else b""]
            assert content in allowed, f"{operation}: {name} has {len(content or b'')} bytes: {(content or b'')[:20]!r}"
        if completed and not lost_cache:
            assert {**found, **DONE[operation]} == found
        if operation == "exchange":
            assert sorted([found["old"] or b"", found["other"] or b""]) == [OLD, OTHER]
        await reaped(parts)
        addresses(parts)
        await new_files_are_empty(parts)


def addresses(parts: Parts) -> None:
    """Every address is some file's, or free, or was never given."""
    with parts.registry.view.snapshot() as tables:
        log = parts.files.log_id
        used, free = dict(tables.files_in(log)), [address for address, _ in tables.free_addresses(log)]
    assert not set(used) & set(free)
    assert sorted([*used, *free]) == list(range(1, len(used) + len(free) + 1))


async def new_files_are_empty(parts: Parts) -> None:
    """Also those that get an address that was used before."""
    for number in range(4):
        inode = await write_file(parts.router, f"fresh-{number}", b"f")
        await parts.router.set_attributes(inode, size=20_000)
        assert await parts.router.read(inode, 0, 30_000) == b"f" + bytes(19_999)


def check(prepared: Path, work: Path, operation: str, fatal: int, *, lost_cache: bool) -> bool:
    """Kill one operation at one step, and look. False when there was no such step."""
    shutil.copytree(prepared, work)
    try:
        completed = run(work, operation, fatal) is not None
        if lost_cache:
            shutil.rmtree(work / "cache")
        trio.run(lambda: look(work, operation, lost_cache=lost_cache, completed=completed))
        return not completed
    except BaseException:
        print(f"{operation}, step {fatal}, cache {'lost' if lost_cache else 'kept'}", flush=True)
        raise
    finally:
        shutil.rmtree(work)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_at_some_steps(prepared: Path, tmp_path: Path, operation: str) -> None:
    dice = random.Random(f"{chosen_seed()}{operation}")
    assert not check(prepared, tmp_path / "pool", operation, 0, lost_cache=False)
    for lost_cache in (False, True):
        check(prepared, tmp_path / "pool", operation, dice.randint(1, 8), lost_cache=lost_cache)


@pytest.mark.long
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_at_every_step(prepared: Path, tmp_path: Path, operation: str) -> None:
    for lost_cache in (False, True):
        steps = 1
        while check(prepared, tmp_path / "pool", operation, steps, lost_cache=lost_cache):
            steps += 1
        assert steps > 1
        print(f"{operation}: {steps - 1} steps, cache {'lost' if lost_cache else 'kept'}")


def test_every_operation_says_what_may_be() -> None:
    assert set(ALLOWED) == set(DONE) == set(OPERATIONS)
