"""The files of a node go to another one, all at once, while clients on all mounts use them: no error, and nothing is lost."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from registry import ObjectKind, ObjectRecord, ObjectState, RegistryView
from tests.cluster.records import record_in
from tests.cluster.running import vpool
from tests.cluster.test_failover import node_id
from tests.cluster.test_three_nodes import Daemon, three
from tests.mounted_pool import wait_until

pytestmark = pytest.mark.mount

SEED = int(os.environ.get("VPOOL_SEED", "1"))
MANY = 1000


def logs_of(node: Daemon, owner: Daemon) -> list[ObjectRecord]:
    """Logs of files that ``owner`` has, as ``node`` sees it."""
    with RegistryView(node.directory / "registry") as view:
        return [
            record
            for record in view.objects_with_log()
            if record.kind is ObjectKind.FILE_LOG and record.owner == node_id(owner) and record.state is ObjectState.LIVE
        ]


def drained(asked: Daemon, node: Daemon) -> dict[str, list[dict[str, str]]]:
    ran = vpool("node", "drain", node_id(node), "--dir", asked.directory, "--json", seconds=120)
    assert ran.code == 0, (ran.out, ran.err)
    found: dict[str, list[dict[str, str]]] = json.loads(ran.out)
    return found


def undone(asked: Daemon, node: Daemon) -> None:
    ran = vpool("node", "drain", node_id(node), "--undo", "--dir", asked.directory)
    assert ran.code == 0, ran.err


class Editor:
    """Changes one file through one mount, as a program does that keeps it open, and compares it with what it must be."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.random = path, random.Random(seed)
        self.model = bytearray()
        self.steps = 0
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._edit, daemon=True)

    def start(self) -> Editor:
        self._thread.start()
        return self

    def _edit(self) -> None:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while not self._stop.is_set() and not self.errors:
                self._step(fd)
                self.steps += 1
        except OSError as error:
            self.errors.append(repr(error))
        finally:
            os.close(fd)

    def _step(self, fd: int) -> None:
        size, what = len(self.model), self.random.random()
        if what < 0.5:
            at, length = self.random.randrange(200_000), self.random.randrange(1, 20_000)
            data = self.random.randbytes(length)
            os.pwrite(fd, data, at)
            self.model.extend(bytes(max(0, at + length - size)))
            self.model[at : at + length] = data
        elif what < 0.65:
            to = self.random.randrange(200_000)
            os.ftruncate(fd, to)
            self.model.extend(bytes(max(0, to - size)))
            del self.model[to:]
        elif what < 0.8:
            os.fsync(fd)
        else:
            found = os.pread(fd, 1 << 20, 0)
            if found != bytes(self.model):
                self.errors.append(f"step {self.steps}: {len(found)} bytes, not the {size} that were written")

    def goes_on(self) -> None:
        seen = self.steps
        wait_until(lambda: self.steps > seen + 20 or bool(self.errors), "the program goes on", 60)
        assert not self.errors, self.errors

    def stop(self) -> bytes:
        self._stop.set()
        self._thread.join(60)
        assert not self.errors, self.errors
        return bytes(self.model)


def test_files_go_with_a_drain_while_they_are_used(tmp_path: Path) -> None:
    """To and fro, under programs on all mounts; then the node is removed, and everything is there."""
    print(f"VPOOL_SEED={SEED}")
    with three(tmp_path) as (first, second, third):
        nodes = (first, second, third)
        editors = []
        for number, node in enumerate(nodes):
            (first.mount / f"edited-{number}").write_bytes(b"")
            editors.append(Editor(node.mount / f"edited-{number}", SEED * 10 + number).start())
        (first.mount / "dir").mkdir()
        for number in range(50):
            (first.mount / "dir" / f"{number}").write_bytes(b"%d" % number * 3000)
        os.link(first.mount / "dir" / "0", first.mount / "link")
        os.setxattr(first.mount / "link", "user.note", b"kept")
        with (first.mount / "sparse").open("wb") as file:
            file.truncate(1 << 30)
            file.seek(900 << 20)
            file.write(b"far")
        nameless = os.open(first.mount / "nameless", os.O_RDWR | os.O_CREAT)
        os.write(nameless, b"still here")
        os.unlink(first.mount / "nameless")
        assert logs_of(second, first)
        for source in (first, second, first, third):
            for editor in editors:
                editor.goes_on()
            asked = nodes[SEED % 3]
            moved = drained(asked, source)
            assert all(not each["problem"] for each in moved["files"]), moved
            assert not logs_of(asked, source)
            for editor in editors:
                editor.goes_on()
            (source.mount / f"made on {source.mount.name}").write_text("while drained")
            assert not logs_of(asked, source), "a drained node is given no files"
            undone(asked, source)
        os.pwrite(nameless, b"!", 10)
        assert os.pread(nameless, 100, 0) == b"still here!"
        os.close(nameless)
        for number, editor in enumerate(editors):
            content = editor.stop()
            for node in nodes:
                assert (node.mount / f"edited-{number}").read_bytes() == content
        for node in nodes:
            for number in range(50):
                assert (node.mount / "dir" / f"{number}").read_bytes() == b"%d" % number * 3000
            assert (node.mount / "link").stat().st_nlink == 2
            assert os.getxattr(node.mount / "dir" / "0", "user.note") == b"kept"
            assert (node.mount / "sparse").stat().st_size == 1 << 30
            with (node.mount / "sparse").open("rb") as file:
                file.seek(900 << 20)
                assert file.read() == b"far" + bytes((124 << 20) - 3)
            assert (node.mount / "made on m0").read_text() == "while drained"
        drained(third, first)
        assert first.stop() == 0
        removed = vpool("cluster", "remove", node_id(first), "--dir", third.directory)
        assert removed.code == 0, removed.err
        for number in range(50):
            assert (second.mount / "dir" / f"{number}").read_bytes() == b"%d" % number * 3000


def file_moved(asked: Daemon, name: str, to: Daemon) -> None:
    ran = vpool("file", "move", name, "--to", node_id(to), "--dir", asked.directory, "--json", seconds=120)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["node"] == node_id(to)


def owner_of(node: Daemon, name: str) -> str:
    with RegistryView(node.directory / "registry") as view:
        owning = view.object(record_in(view, name).log)
        assert owning is not None
        return owning.owner


def test_single_files_move_while_they_are_used(tmp_path: Path) -> None:
    """Others of the same node stay; what cannot be is refused with a reason."""
    print(f"VPOOL_SEED={SEED}")
    with three(tmp_path) as (first, second, third):
        nodes = (first, second, third)
        (first.mount / "stays").write_text("here")
        (first.mount / "disk.raw").write_bytes(bytes(8192))
        (first.mount / "d").mkdir()
        editors = []
        for number, node in enumerate(nodes):
            (first.mount / f"edited-{number}").write_bytes(b"")
            editors.append(Editor(node.mount / f"edited-{number}", SEED * 10 + number).start())
        with (first.mount / "large").open("wb") as file:
            file.truncate(1 << 30)
            file.seek(64 << 20)
            file.write(os.urandom(20 << 20))
        large = (first.mount / "large").open("rb")
        os.link(first.mount / "large", first.mount / "link")
        os.setxattr(first.mount / "link", "user.note", b"kept")

        def refused(code: int, said: str, name: str, to: str) -> None:
            ran = vpool("file", "move", name, "--to", to, "--dir", third.directory)
            assert (ran.code, said in ran.err) == (code, True), (ran.code, ran.err)

        refused(5, "there already", "stays", node_id(first))
        refused(3, "no node", "stays", "0000")
        refused(3, "none", "none", node_id(second))
        refused(2, "is a volume, not a file", "disk.raw", node_id(second))
        refused(2, "directory", "d", node_id(second))
        for number, editor in enumerate(editors):
            editor.goes_on()
            for to in ((second, third), (third, first), (second,))[number]:
                file_moved(nodes[(SEED + number) % 3], f"edited-{number}", to)
                assert owner_of(second, f"edited-{number}") == node_id(to)
                editor.goes_on()
        file_moved(third, "large", third)
        assert owner_of(first, "stays") == node_id(first)
        with (first.mount / "large").open("rb") as there:
            assert there.read() == large.read()
        large.close()
        assert os.getxattr(second.mount / "large", "user.note") == b"kept"
        assert (second.mount / "link").stat().st_nlink == 2
        os.unlink(second.mount / "link")
        for number, editor in enumerate(editors):
            content = editor.stop()
            for node in nodes:
                assert (node.mount / f"edited-{number}").read_bytes() == content
        drained(third, second)
        assert owner_of(third, "edited-2") != node_id(second)


def test_the_owner_is_killed_while_a_file_gets_a_log_of_its_own(tmp_path: Path) -> None:
    """Wherever the file is then, everything that was flushed is in it, and it can be moved."""
    print(f"VPOOL_SEED={SEED}")
    chance = random.Random(SEED)
    with three(tmp_path) as (first, second, third):
        content = chance.randbytes(24 << 20)
        for turn in range(2):
            name = f"file-{turn}"
            with (first.mount / name).open("wb") as file:
                file.write(content)
                os.fsync(file.fileno())
            moving = subprocess.Popen(
                [sys.executable, "-m", "vpool", "file", "move", name, "--to", node_id(second), "--dir", str(third.directory)],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            time.sleep(chance.uniform(0.5, 2.5))
            first.kill()
            first.start()
            moving.wait(120)
            wait_until(lambda name=name: owner_of(third, name) != "", "somebody owns it", 60)  # type: ignore[misc]
            assert (third.mount / name).read_bytes() == content
            with (third.mount / name).open("r+b", buffering=0) as file:
                file.write(b"goes on")
                os.fsync(file.fileno())
            assert (first.mount / name).read_bytes() == b"goes on" + content[7:]
