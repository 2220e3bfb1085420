"""Finding daemons: commands must reach the one that runs, never guess between several, and ignore what killed ones left."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from vpool.errors import Conflict, NotFound
from vpool.runtime import announced, connect, find_directory


def listener(directory: Path) -> socket.socket:
    directory.mkdir(parents=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(directory / "admin.sock"))
    made.listen()
    return made


def test_without_a_daemon_the_message_says_how_to_start_one() -> None:
    with pytest.raises(NotFound, match="vpool up DIR MOUNT"):
        find_directory()


def test_the_only_daemon_is_found(tmp_path: Path) -> None:
    with listener(tmp_path / "a"), announced(tmp_path / "a", "node-a"):
        assert find_directory() == tmp_path / "a"


def test_several_daemons_are_not_guessed_between(tmp_path: Path) -> None:
    with (
        listener(tmp_path / "a"),
        announced(tmp_path / "a", "a"),
        listener(tmp_path / "b"),
        announced(tmp_path / "b", "b"),
        pytest.raises(Conflict, match="--dir"),
    ):
        find_directory()


def test_what_a_killed_daemon_left_is_ignored(tmp_path: Path) -> None:
    listener(tmp_path / "dead").close()
    with announced(tmp_path / "dead", "dead"), listener(tmp_path / "a"), announced(tmp_path / "a", "a"):
        assert find_directory() == tmp_path / "a"


def test_a_link_goes_with_its_daemon(tmp_path: Path, runtime_directory: Path) -> None:
    with announced(tmp_path, "a"):
        assert [path.name for path in runtime_directory.iterdir()] == ["a"]
    assert not list(runtime_directory.iterdir())


def test_directories_with_long_paths_are_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path.joinpath(*["long-name-of-a-directory"] * 8)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("admin.sock")
        made.listen()
        connect(deep).close()
