"""Random sequences of changes of the namespace, on the mount and on tmpfs side by side: every outcome and the trees must agree.

Hypothesis makes the sequences and shortens one that fails; it prints how to repeat it (``@reproduce_failure``).
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.clients.posix.names import EXCHANGE, NOREPLACE, renameat2
from tests.clients.posix.observing import kind_of, outcome, tree
from tests.clients.test_posix_against_local import SMALL_CACHE
from tests.mounted_pool import MountedPool

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="device nodes need root")]

NAMES = st.sampled_from(["a", "b", "c", "ü\udcff", "n" * 255])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
SMALL = st.integers(0, 20_000)
STEP = st.one_of(
    st.tuples(st.just("mkdir"), PATHS),
    st.tuples(st.just("create"), PATHS, st.integers(0, 3)),
    st.tuples(st.just("create"), PATHS, st.integers(0, 3)),
    st.tuples(st.just("node"), PATHS, st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFREG])),
    st.tuples(st.just("symlink"), PATHS, PATHS),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("unlink"), PATHS),
    st.tuples(st.just("rmdir"), PATHS),
    st.tuples(st.just("rename"), PATHS, PATHS, st.sampled_from([0, 0, 0, NOREPLACE, EXCHANGE])),
    st.tuples(st.just("write"), st.integers(0, 3), SMALL, st.integers(1, 9000)),
    st.tuples(st.just("cut"), st.integers(0, 3), SMALL),
    st.tuples(st.just("close"), st.integers(0, 3)),
    st.tuples(st.just("chmod"), PATHS, st.integers(0, 0o7777)),
    st.tuples(st.just("attribute"), PATHS, st.sampled_from(["user.x", "trusted.y"]), st.binary(max_size=20)),
    st.tuples(st.just("plain"), PATHS, st.sampled_from(["user.x", "trusted.y"])),
)


class Side:
    """One of the two directories, with up to four descriptors that stay open over what happens to their names."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.top.mkdir()
        self.open: dict[int, int] = {}

    def do(self, name: str, *args: Any) -> Any:
        """The outcome of a step."""
        function: Callable[..., Any] = getattr(self, f"_{name}")
        return outcome(function, *args)

    def state(self) -> Any:
        """Everything that can be seen, without what depends on the place."""
        return tree(self.top), {number: self._seen(descriptor) for number, descriptor in self.open.items()}

    def close(self) -> None:
        for descriptor in self.open.values():
            os.close(descriptor)
        shutil.rmtree(os.fsencode(self.top))

    def _seen(self, descriptor: int) -> Any:
        status = os.fstat(descriptor)
        return status.st_nlink, oct(status.st_mode), status.st_size, os.pread(descriptor, 40_000, 0)

    def _at(self, path: str) -> str:
        return f"{self.top}/{path}"

    def _mkdir(self, path: str) -> None:
        os.mkdir(self._at(path))

    def _create(self, path: str, number: int) -> None:
        with suppress(OSError):
            if kind_of(self._at(path)) == "character":  # the mount opens no devices
                return
        descriptor = os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW, 0o644)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return
        self._close(number)
        self.open[number] = descriptor

    def _node(self, path: str, kind: int) -> None:
        os.mknod(self._at(path), kind | 0o600, os.makedev(1, 5) if kind == stat.S_IFCHR else 0)

    def _symlink(self, target: str, path: str) -> None:
        os.symlink(target, self._at(path))

    def _link(self, old: str, new: str) -> None:
        os.link(self._at(old), self._at(new), follow_symlinks=False)

    def _unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def _rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def _rename(self, old: str, new: str, flags: int) -> None:
        renameat2(Path(self._at(old)), Path(self._at(new)), flags)

    def _write(self, number: int, offset: int, length: int) -> Any:
        return os.pwrite(self.open[number], bytes([offset % 251]) * length, offset) if number in self.open else None

    def _cut(self, number: int, size: int) -> None:
        if number in self.open:
            os.ftruncate(self.open[number], size)

    def _close(self, number: int) -> None:
        descriptor = self.open.pop(number, None)
        if descriptor is not None:
            os.close(descriptor)

    def _chmod(self, path: str, mode: int) -> None:
        if kind_of(self._at(path)) != "symlink":
            os.chmod(self._at(path), mode | 0o700)

    def _attribute(self, path: str, name: str, value: bytes) -> Any:
        os.setxattr(self._at(path), name, value, follow_symlinks=False)
        names = [each for each in os.listxattr(self._at(path), follow_symlinks=False) if not each.startswith("security.")]
        return {each: os.getxattr(self._at(path), each, follow_symlinks=False) for each in sorted(names)}

    def _plain(self, path: str, name: str) -> None:
        os.removexattr(self._at(path), name, follow_symlinks=False)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], tuple[Side, Side]]]:
    """Makes two empty sides: the mount's and one in memory."""
    top = tmp_path_factory.mktemp("random")
    with tempfile.TemporaryDirectory(prefix="vpool-random-", dir="/dev/shm") as memory:
        environment = {**SMALL_CACHE, "VPOOL_FUSE__ENTRY_TIMEOUT_S": "0", "VPOOL_FUSE__ATTRIBUTES_TIMEOUT_S": "0"}
        with MountedPool(top / "pool", top / "mount", environment=environment) as pool:
            numbers = count()

            def make() -> tuple[Side, Side]:
                name = f"example-{next(numbers)}"
                return Side(pool.mount / name), Side(Path(memory) / name)

            yield make


def compare(sides: Callable[[], tuple[Side, Side]], steps: list[tuple[Any, ...]]) -> None:
    mount, memory = sides()
    try:
        for number, (name, *args) in enumerate(steps):
            assert mount.do(name, *args) == memory.do(name, *args), f"step {number}: {name} {args}"
        assert mount.state() == memory.state()
    finally:
        mount.close()
        with suppress(FileNotFoundError):
            memory.close()


common = settings(
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)


@settings(common, max_examples=60)
@given(steps=st.lists(STEP, min_size=10, max_size=60))
def test_as_in_memory(sides: Callable[[], tuple[Side, Side]], steps: list[tuple[Any, ...]]) -> None:
    compare(sides, steps)


@pytest.mark.long
@settings(common, max_examples=1500)
@given(steps=st.lists(STEP, min_size=20, max_size=120))
def test_as_in_memory_for_long(sides: Callable[[], tuple[Side, Side]], steps: list[tuple[Any, ...]]) -> None:
    compare(sides, steps)
