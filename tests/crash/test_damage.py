"""A flipped or cut byte in every local file and every object: refused, repaired or halted, never returned as data (promise 9).

A template of a crashed node is damaged in one place, started, and everything is read: each cluster must be right or an error.
What was not flushed may also be an older prefix. Then the tail goes to the backend, the local state is deleted, and everything
is read once more: damage must not have been carried on under a new checksum.

The long ones hit every field that a format gives to a file, in every file: some 600 damages to local files and 500 to objects, at
about two a second: ten minutes together on two cores.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from tests.crash.damage import Damage, Matrix, every_damage, in_child, in_children, sample_of
from tests.crash.damage_template import NODE, VOLUME, VPOOL, Operations, build, files_below, node, read_everything
from tests.crash.memory_registry import MemoryRegistry
from vpool.errors import Corrupt, Halted, VPoolError

READ_S = 20.0
DRAIN_S = 3.0
LOCAL_PARTS = {
    "cache/log": {"header", "seal", "no seal", "write", "zero", "mark", "data", "behind", "free"},
    "cache/map/map.tree": {"head", "branch", "branch_pointer", "leaf", "leaf_record", "value"},
    "cache/read/index": {"header", "slot", "free"},
    "cache/read/data": {"block", "free"},
}
OBJECT_PARTS = {
    "object sco": {"data", "tlog_header", "tlog_table", "tlog_write", "tlog_footer", "trailer"},
    "object tlog": {"header", "table", "write", "zero", "footer"},
    "object map": {"header", "map_leaf", "map_inner", "live_leaf", "live_inner", "index", "root", "root_lineage", "trailer"},
    "object volume.json": {"text"},
}


@dataclass(frozen=True, slots=True)
class Template:
    """What a crash has left, and what may be read of it."""

    directory: Path
    items: dict[bytes, bytes]
    operations: Operations


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A directory that is quick to copy."""
    place = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="vpool-damage-", dir=place if place.is_dir() else None))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def seed() -> int:
    return int(os.environ.get("VPOOL_SEED", "3"))


@pytest.fixture(scope="module")
def template(memory: Path, seed: int) -> Template:
    directory = memory / "template"
    directory.mkdir()

    def work(answer: Callable[[Any], None]) -> None:
        _quiet()
        trio.run(build, directory, seed, lambda items, operations: answer((items, operations)))

    answer = in_child(work)
    if isinstance(answer, Exception):
        raise answer
    return Template(directory, *answer)


def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _copy(template: Template, to: Path, *, cold: bool) -> None:
    to.mkdir()
    parts = [str(template.directory / part) for part in (("backend",) if cold else ("backend", "cache"))]
    subprocess.run(["cp", "-a", "--sparse=always", *parts, str(to)], check=True)


async def _look(directory: Path, registry: MemoryRegistry, operations: Operations, oldest: int) -> tuple[str, str]:
    """Open and read: (outcome, detail); outcomes in capitals are failures."""
    try:
        with trio.fail_after(READ_S):
            async with node(directory, registry) as driver:
                try:
                    volume = await driver.attach(VOLUME)
                except (Halted, Corrupt) as error:
                    return ("halted", str(error)) if error.message else ("NO REASON", repr(error))
                found, errors = await read_everything(volume.read)
                outcome = _judged(operations, found, errors, oldest)
                if not outcome[0].isupper():
                    with trio.move_on_after(DRAIN_S):
                        await driver.drain(VOLUME)
                return outcome
    except trio.TooSlowError:
        return "HANGS", f"longer than {READ_S} s"
    except VPoolError as error:
        return ("refused", str(error)) if error.message else ("NO REASON", repr(error))


def _judged(operations: Operations, found: dict[int, bytes], errors: list[str], oldest: int) -> tuple[str, str]:
    possible = operations.prefixes(found, oldest)
    if not possible:
        older = operations.prefixes(found, 0)
        if older:
            return "LOST", f"the state after operation {max(older)} of {operations.count}, {oldest} were safe"
        return "WRONG DATA", f"{len(found)} clusters are no state of the disk; {len(errors)} errors"
    if errors:
        return "I/O errors", errors[0]
    return ("right", "") if operations.count in possible else ("older prefix", f"{max(possible)}")


def _check(template: Template, work: Path, damage: Damage | None, cold: bool, answer: Callable[[Any], None]) -> None:
    """In a child: damage a copy, look; then what the backend has got of it."""
    _quiet()
    operations = template.operations
    shutil.rmtree(work, ignore_errors=True)
    _copy(template, work, cold=cold)
    if damage is not None:
        damage.apply(work)
    registry = MemoryRegistry(NODE, VPOOL, template.items, incarnation=3)
    outcome, detail = trio.run(_look, work, registry, operations, operations.safe if cold else operations.flushed)
    if not outcome.isupper():
        shutil.rmtree(work / "cache", ignore_errors=True)
        registry = MemoryRegistry(NODE, VPOOL, registry.items, incarnation=4)
        after, what = trio.run(_look, work, registry, operations, operations.safe)
        if after.isupper():
            outcome, detail = after, f"{what} (from the backend, after: {outcome} {detail})"
    shutil.rmtree(work, ignore_errors=True)
    answer((outcome, detail))


def _run(memory: Path, template: Template, chosen: list[Damage], *, cold: bool) -> Matrix:
    matrix = Matrix()
    works = [partial(_check, template, memory / f"work-{number}", damage, cold) for number, damage in enumerate(chosen)]
    for damage, answer in zip(chosen, in_children(works), strict=True):
        if isinstance(answer, Exception):
            matrix.add(damage, "CRASHED", str(answer))
        else:
            matrix.add(damage, *answer)
    print(f"\n{matrix}")
    return matrix


def _local(template: Template) -> list[Path]:
    return [path for path in files_below(template.directory / "cache") if path.name != "lock.mdb"]


def _objects(template: Template) -> list[Path]:
    return [path for path in files_below(template.directory / "backend") if path.parts[-2][0] != "." and path.name[0] != "."]


def _assert_all_right(matrix: Matrix, seed: int) -> None:
    assert not matrix.wrong, f"seed {seed}, {len(matrix.wrong)} failures:\n" + "\n".join(matrix.wrong[:30])


@pytest.mark.parametrize("cold", [False, True], ids=["after a crash", "with the cache lost"])
def test_the_template_itself_is_right(memory: Path, template: Template, cold: bool) -> None:
    answer = in_child(partial(_check, template, memory / "work", None, cold))
    assert not isinstance(answer, Exception), answer
    assert answer[0] == ("older prefix" if cold else "right"), answer


def _every(template: Template, files: list[Path], parts: dict[str, set[str]], seed: int) -> list[Damage]:
    """All of it; every part of a format that is worth the name must be there, or the template shows too little."""
    chosen = list(every_damage(template.directory, files, random.Random(seed)))
    for kind, wanted in parts.items():
        missing = wanted - {damage.part for damage in chosen if damage.kind == kind}
        assert not missing, f"{kind}: no file has {missing}"
    return chosen


def _is_of_structure(damage: Damage) -> bool:
    """Whether it hits what the local map's file itself lives by: heads, pages and keys."""
    return damage.kind == "cache/map/map.tree" and not damage.cut and damage.part != "value"


def _of_local_files(template: Template, seed: int) -> tuple[list[Damage], list[Damage]]:
    """Damage to the structure of the local map, and all other."""
    every = _every(template, _local(template), LOCAL_PARTS, seed)
    return [damage for damage in every if _is_of_structure(damage)], [damage for damage in every if not _is_of_structure(damage)]


def test_damage_to_local_files_is_never_returned_as_data(memory: Path, template: Template, seed: int) -> None:
    structure, others = _of_local_files(template, seed)
    chosen = sample_of(others, random.Random(seed), flips=5, cuts=1)
    chosen += sample_of(structure, random.Random(seed), flips=10, cuts=0)
    _assert_all_right(_run(memory, template, chosen, cold=False), seed)


def test_damage_to_objects_is_never_returned_as_data(memory: Path, template: Template, seed: int) -> None:
    chosen = sample_of(_every(template, _objects(template), OBJECT_PARTS, seed), random.Random(seed), flips=5, cuts=2)
    _assert_all_right(_run(memory, template, chosen, cold=True), seed)


@pytest.mark.long
def test_damage_to_every_field_of_every_local_file(memory: Path, template: Template, seed: int) -> None:
    _, others = _of_local_files(template, seed)
    _assert_all_right(_run(memory, template, others, cold=False), seed)


@pytest.mark.long
def test_damage_to_the_structure_of_the_local_map(memory: Path, template: Template, seed: int) -> None:
    structure, _ = _of_local_files(template, seed)
    _assert_all_right(_run(memory, template, structure, cold=False), seed)


@pytest.mark.long
def test_damage_to_every_field_of_every_object(memory: Path, template: Template, seed: int) -> None:
    chosen = _every(template, _objects(template), OBJECT_PARTS, seed)
    _assert_all_right(_run(memory, template, chosen, cold=True), seed)
