"""Every command with bad input: a message, an exit code, and nothing changed.

All commands are walked, so one without its cases here fails. If one of these fails, a slip of an operator changes something,
or is answered with a riddle.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.running import picture
from tests.conftest import SMALL_CACHE
from tests.mounted_pool import MountedPool
from vpool.cli import main
from vpool.command_tree import Command, command_tree
from vpool.errors import Conflict, Corrupt, Exists, Invalid, NoSpace, NotFound, Unavailable
from vpool.exitcodes import EXIT_CODES

pytestmark = pytest.mark.mount

USAGE = 2
INVALID, NOT_FOUND, EXISTS, CONFLICT, UNAVAILABLE, CORRUPT = (
    EXIT_CODES[kind] for kind in (Invalid, NotFound, Exists, Conflict, Unavailable, Corrupt)
)


@dataclass(frozen=True)
class Case:
    """Arguments after the command's name, the exit code, and what the message must contain.

    ``{pool}`` is the DIR of a running node with the volume ``there.raw`` and the file ``file``; ``{mount}`` its mount; ``{top}``
    a directory with ``empty/``, ``text.txt``, ``bad.toml``, ``empty.toml``, ``image.raw`` and ``bad.qcow2``. ``--dir {pool}`` is
    added where the command takes it.
    """

    arguments: str
    code: int
    words: str


CASES: dict[str, list[Case]] = {
    "up": [
        Case("{top}/text.txt {top}/empty", INVALID, "text.txt"),
        Case("{top}/new {top}/none", INVALID, "does not exist"),
        Case("{top}/new {top}/empty --backend ftp://x", INVALID, "unknown kind of store"),
        Case("{top}/new {top}/empty --config {top}/bad.toml", INVALID, "bad.toml:2: unknown key 'cache.sise_bytes'"),
        Case("{top}/new {top}/empty --config {top}/none.toml", INVALID, "no such file"),
        Case("{pool} {top}/empty", CONFLICT, "in use by a running daemon"),
        Case("{top}/new {mount}", CONFLICT, "a running vPool is mounted there"),
    ],
    "serve": [
        Case("", USAGE, "Missing option"),
        Case("--config {top}/none.toml", INVALID, "no such file"),
        Case("--config {top}/bad.toml", INVALID, "bad.toml:2"),
        Case("--config {top}/empty.toml", INVALID, "[node] is not complete"),
    ],
    "umount": [
        Case("", INVALID, "which mount?"),
        Case("{mount}", CONFLICT, "--force"),
        Case("--config {top}/empty.toml", INVALID, "which mount?"),
    ],
    "cluster init": [
        Case("", INVALID, "cannot be found by others"),
        Case("--listen nonsense", INVALID, "is not an address"),
        Case("--listen 127.0.0.1:9470", CONFLICT, "in use by a running daemon"),
    ],
    "cluster token": [Case("--minutes 0", USAGE, "--minutes"), Case("", CONFLICT, "no cluster")],
    "cluster join": [
        Case("--token hello", INVALID, "no join token"),
        Case("--token vpool1.hello", INVALID, "cut short"),
    ],
    "node list": [],
    "node show": [
        Case("nobody", NOT_FOUND, "there is no node 'nobody'"),
        Case("a/b", INVALID, "is not a node"),
    ],
    "node maintenance": [
        Case("nobody on", NOT_FOUND, "there is no node 'nobody'"),
        Case("nobody perhaps", INVALID, "on or off"),
        Case("nobody", USAGE, "on|off"),
    ],
    "node remove": [Case("x", CONFLICT, "no cluster")],
    "cluster role": [Case("x voter", CONFLICT, "no cluster"), Case("x king", CONFLICT, "no cluster")],
    "cluster remove": [Case("x", CONFLICT, "no cluster")],
    "cluster leave": [Case("", CONFLICT, "no cluster")],
    "cluster rotate": [Case("", CONFLICT, "no cluster")],
    "cluster status": [Case("", CONFLICT, "no cluster")],
    "cluster witness": [Case("", INVALID, "no witness")],
    "status": [],
    "top": [Case("--interval 0", USAGE, "interval"), Case("--sort beauty", USAGE, "beauty")],
    "doctor": [
        Case("{top}/text.txt", INVALID, "text.txt"),
        Case("{top}/new --backend nonsense", INVALID, "unknown kind of store"),
        Case("{top}/new --config {top}/bad.toml", INVALID, "bad.toml:2"),
    ],
    "inspect": [
        Case("{top}/none", NOT_FOUND, "none"),
        Case("{top}/text.txt", INVALID, "text.txt"),
        Case("{top}/empty", INVALID, "empty"),
    ],
    "recover": [
        Case("{pool}", INVALID, "is a vPool; recover into an empty DIR"),
        Case("{top}/new", INVALID, "--backend"),
        Case("{top}/new --backend nonsense", INVALID, "unknown kind of store"),
        Case("{top}/new --backend dir:{top}/empty", NOT_FOUND, "there is nothing in"),
        Case("{top}/new --backend dir:{top}/none", NOT_FOUND, "there is nothing in"),
        Case("{top}/text.txt --backend dir:{top}/empty", INVALID, "text.txt"),
    ],
    "volume create": [
        Case("a.raw 1000", INVALID, "not a multiple of 512"),
        Case("a.raw -1G", INVALID, "greater than 0"),
        Case("a.raw much", INVALID, "is not a size"),
        Case("a.txt 1G", INVALID, "would be a file"),
        Case("there.raw 1G", EXISTS, ""),
        Case("none/a.raw 1G", NOT_FOUND, "none"),
        Case("file/a.raw 1G", INVALID, ""),
    ],
    "volume list": [],
    "volume show": [Case("none.raw", NOT_FOUND, "none.raw"), Case("file", INVALID, "file")],
    "volume open": [Case("none.raw", NOT_FOUND, "none.raw"), Case("file", INVALID, "file")],
    "volume steal": [
        Case("none.raw", NOT_FOUND, "none.raw"),
        Case("file", INVALID, "file"),
        Case("there.raw", CONFLICT, "one node"),
        Case("there.raw --powered-off", INVALID, "--accept-loss"),
    ],
    "volume move": [
        Case("none.raw --to 0123", CONFLICT, "one node"),
        Case("there.raw --to 0123", CONFLICT, "one node"),
        Case("there.raw", USAGE, "--to"),
    ],
    "file move": [
        Case("none --to 0123", CONFLICT, "one node"),
        Case("there.raw --to 0123", CONFLICT, "one node"),
        Case("none", USAGE, "--to"),
    ],
    "node drain": [Case("0123", CONFLICT, "one node"), Case("0123 --undo", CONFLICT, "one node"), Case("", USAGE, "NODE")],
    "node remains": [
        Case("--drop there.raw", INVALID, "--of"),
        Case("--drop there.raw --of zz", NOT_FOUND, "no node 'zz'"),
        Case("--drop none.raw --of zz", NOT_FOUND, "none.raw"),
    ],
    "volume dtl": [
        Case("none.raw", NOT_FOUND, "none.raw"),
        Case("file --sync", INVALID, "file"),
        Case("there.raw --sync", CONFLICT, "one node"),
        Case("there.raw --sync --off", INVALID, "exclude each other"),
        Case("there.raw --off", CONFLICT, "one node"),
        Case("there.raw --peer zz", NOT_FOUND, "no node 'zz'"),
    ],
    "node steal": [Case("0123", CONFLICT, "one node"), Case("0123 --powered-off", INVALID, "--accept-loss")],
    "volume delete": [Case("none.raw", NOT_FOUND, "none.raw"), Case("file", INVALID, "file"), Case("/", INVALID, "path")],
    "volume resize": [
        Case("none.raw 2G", NOT_FOUND, "none.raw"),
        Case("there.raw 1M", INVALID, "--shrink"),
        Case("there.raw 1000", INVALID, "not a multiple of 512"),
        Case("there.raw 99T", INVALID, "64 TiB"),
        Case("there.raw -1", INVALID, "greater than 0"),
        Case("file 2G", INVALID, "file"),
    ],
    "volume verify": [Case("none.raw", NOT_FOUND, "none.raw"), Case("there.raw --patience -1", USAGE, "patience")],
    "volume copy": [
        Case("none.raw b.raw", NOT_FOUND, "none.raw"),
        Case("there.raw there.raw", EXISTS, ""),
        Case("there.raw b.txt", INVALID, "would be a file"),
        Case("there.raw none/b.raw", NOT_FOUND, "none"),
    ],
    "volume import": [
        Case("{top}/none.raw b.raw", NOT_FOUND, "none.raw"),
        Case("{top}/empty b.raw", INVALID, "empty"),
        Case("{top}/image.raw there.raw", EXISTS, ""),
        Case("{top}/image.raw b.txt", INVALID, "would be a file"),
        Case("{top}/image.raw none/b.raw", NOT_FOUND, "none"),
        Case("{top}/bad.qcow2 b.raw", INVALID, "qcow2"),
        Case("{top}/image.raw b.raw --format vmdk", INVALID, "vmdk"),
    ],
    "volume export": [
        Case("none.raw {top}/out.raw", NOT_FOUND, "none.raw"),
        Case("there.raw {top}/none/out.raw", NOT_FOUND, "none"),
        Case("there.raw {top}/text.txt", INVALID, "text.txt"),
        Case("there.raw {top}/out.raw --format vmdk", INVALID, "vmdk"),
        Case("file {top}/out.raw", INVALID, "file"),
    ],
    "file list": [Case("none", NOT_FOUND, "none")],
    "file show": [Case("none", NOT_FOUND, "none"), Case("../x", INVALID, "..")],
    "files open": [],
    "object list": [Case("no-such-bucket", NOT_FOUND, "no-such-bucket"), Case("--state beautiful", INVALID, "beautiful")],
    "object show": [Case("no-such-bucket x", NOT_FOUND, "no-such-bucket")],
    "cache evacuate": [],
    "cache replace": [],
    "config check": [
        Case("{top}/none.toml", INVALID, "no such file"),
        Case("{top}/bad.toml", INVALID, "bad.toml:2"),
        Case("{top}/image.raw", INVALID, "image.raw"),
        Case("{top}/empty", INVALID, "empty"),
    ],
    "config show": [Case("--config {top}/bad.toml", INVALID, "bad.toml:2")],
    "event list": [
        Case("--since yesterdayish", INVALID, "yesterdayish"),
        Case("--limit 0", USAGE, "limit"),
        Case("--after -5", USAGE, "after"),
    ],
    "health": [],
    "health mute": [Case("NO_SUCH_CODE", INVALID, "NO_SUCH_CODE"), Case("WRITERS_WAIT --for soon", INVALID, "soon")],
    "health unmute": [Case("NO_SUCH_CODE", NOT_FOUND, "NO_SUCH_CODE")],
    "health codes": [],
    "slow list": [],
    "registry backup": [
        Case("{top}/text.txt", EXISTS, "text.txt"),
        Case("{top}/none/b", INVALID, "none"),
        Case("{top}/empty", INVALID, "empty"),
    ],
    "registry restore": [
        Case("{top}/text.txt", CONFLICT, "is in use by a running daemon"),
    ],
    "verify status": [],
    "verify start": [],
    "verify lost": [],
    "verify accept": [
        Case("none.raw", NOT_FOUND, "none.raw"),
        Case("there.raw --offset -1", USAGE, "offset"),
        Case("there.raw --length 0", USAGE, "length"),
    ],
}  # fmt: skip


def leaves(command: Command) -> Iterator[Command]:
    """Commands that do something: those without further ones, and ``health``, which does by itself, too."""
    if not command.commands or command.path == ("vpool", "health"):
        yield command
    for below in command.commands:
        yield from leaves(below)


COMMANDS = {" ".join(command.path[1:]): command for command in leaves(command_tree())}


def takes(command: str, option: str) -> bool:
    return any(option in each.names for each in COMMANDS[command].options)


@dataclass(frozen=True)
class Place:
    pool: MountedPool
    top: Path

    def filled(self, text: str) -> list[str]:
        return text.format(pool=self.pool.directory, mount=self.pool.mount, top=self.top).split()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    top = tmp_path_factory.mktemp("commands")
    work = top / "work"
    (work / "empty").mkdir(parents=True)
    (work / "text.txt").write_text("a text that is none of ours\n" * 500)
    (work / "bad.toml").write_text("[cache]\nsise_bytes = 1\n")
    (work / "empty.toml").write_text("")
    (work / "image.raw").write_bytes(bytes(1 << 20))
    (work / "bad.qcow2").write_bytes(b"QFI\xfb" + bytes(1 << 16))
    with MountedPool(top / "pool", top / "mount", environment=SMALL_CACHE) as pool:
        pool.make_volume("there.raw", 1 << 30)
        (pool.mount / "file").write_text("content")
        yield Place(pool, work)


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """``vpool`` in this process: there are many cases."""

    def ran(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["vpool", *arguments])
        capfd.readouterr()
        mask = os.umask(0o022)  # a daemon that begins to start sets its own
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            os.umask(mask)
        captured = capfd.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, captured.out, captured.err)

    return ran


def names(place: Place) -> dict[str, tuple[int, int]]:
    """What the vPool has: everything that a command could have changed is a name, a size, or a file beside it."""
    found = {path.name: (path.lstat().st_size, path.lstat().st_ino) for path in place.pool.mount.iterdir()}
    return {**found, **{str(path): (len(digest), hash(digest)) for path, digest in picture(place.top).items()}}


def test_a_registry_is_restored_from_nothing_but_a_backup(tmp_path: Path, run: Any) -> None:
    """Of a stopped node: the daemon of ``place`` is in the way of that."""
    with MountedPool(tmp_path / "pool", tmp_path / "mount", environment=SMALL_CACHE) as pool:
        assert pool.stop() == 0
    backup, other = tmp_path / "backup", tmp_path / "text.txt"
    assert run("registry", "backup", str(backup), "--dir", str(pool.directory)).code == 0
    assert run("registry", "backup", str(backup), "--dir", str(pool.directory)).code == 0, "an older backup is replaced"
    other.write_text("a text that is none of ours\n" * 500)
    (tmp_path / "damaged").write_bytes(backup.read_bytes()[:-100])
    before = {str(path): path.stat().st_size for path in sorted(tmp_path.rglob("*"))}
    for file, code in (("none", INVALID), ("text.txt", INVALID), ("damaged", CORRUPT), ("pool", INVALID)):
        said = run("registry", "restore", str(tmp_path / file), "--dir", str(pool.directory))
        assert said.code == code, said
        assert file in said.err
    assert {str(path): path.stat().st_size for path in sorted(tmp_path.rglob("*"))} == before


@pytest.mark.parametrize("arguments", ["--help", "config show", "config show --json"])
def test_output_that_finds_no_room(arguments: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vpool", *arguments.split()], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (EXIT_CODES[NoSpace], "vpool: standard output: No space left on device\n")


def test_every_command_has_its_cases() -> None:
    assert set(CASES) == set(COMMANDS)
    needing = {
        name for name, command in COMMANDS.items() if command.arguments and any(item.required for item in command.arguments)
    }
    assert not [name for name in needing if not CASES[name]], "a command that takes an argument takes bad ones"


@pytest.mark.parametrize("name", COMMANDS)
def test_words_that_a_command_does_not_know(place: Place, run: Any, name: str) -> None:
    """An option there is not, an argument too many, one too few: the answer is how it is used."""
    command, before = COMMANDS[name], names(place)
    spare = ["x"] * len(command.arguments)
    tries = [[*spare, "--no-such-option"], [*spare, "one-too-many"]]
    if any(argument.required for argument in command.arguments):
        tries.append([])
    if name == "health":
        tries = [["--no-such-option"], ["no-such-command"]]
    for arguments in tries:
        said = run(*name.split(), *arguments)
        assert said.code == USAGE, (arguments, said)
        assert f"{' '.join(command.path)} " in said.err.partition("\n")[0]
        assert said.out == ""
    assert names(place) == before


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in CASES.items() for case in cases])
def test_what_cannot_be(place: Place, run: Any, name: str, case: Case) -> None:
    before = names(place)
    arguments = [*name.split(), *place.filled(case.arguments)]
    if takes(name, "--dir"):
        arguments += ["--dir", str(place.pool.directory)]
    said = run(*arguments)
    assert (said.code, said.out) == (case.code, ""), said
    assert case.words in said.err
    assert "Traceback" not in said.err
    assert len(said.err) > 20, "a sentence"
    if takes(name, "--json") and case.code != USAGE:
        again = run(*arguments, "--json")
        report = json.loads(again.err)
        assert (again.code, EXIT_CODES[getattr(sys.modules["vpool.errors"], report["error"])]) == (case.code, case.code)
        assert case.words in report["message"] + str(report["details"])
    assert names(place) == before


MAKERS = ("registry restore", "cluster init", "cluster join")  # of what is not there yet


@pytest.mark.parametrize("name", [name for name in COMMANDS if takes(name, "--dir") and name not in MAKERS])
def test_a_directory_without_a_daemon(place: Place, run: Any, name: str) -> None:
    before = names(place)
    arguments = ["there.raw", "1G"] if name in ("volume create", "volume resize") else ["x"] * len(COMMANDS[name].arguments)
    if name == "node maintenance":
        arguments[1] = "on"
    if name in ("volume move", "file move"):
        arguments += ["--to", "0123"]
    if name == "volume import":
        arguments[0] = str(place.top / "image.raw")
    if name == "volume export":
        arguments[1] = str(place.top / "out.raw")
    offline = name in ("registry backup", "cache replace", "cluster witness")  # need no daemon, but a vPool
    for directory in (place.top / "none", place.top / "empty"):
        said = run(*name.split(), *arguments, "--dir", str(directory))
        assert said.code in ((INVALID,) if offline else (NOT_FOUND, UNAVAILABLE)), said
        assert str(directory) in said.err
        assert "Traceback" not in said.err
    assert names(place) == before
