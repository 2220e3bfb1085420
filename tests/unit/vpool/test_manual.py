"""Man pages and completion are made from the commands: none may be missing there, and what is made must be taken."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vpool import exitcodes
from vpool.command_tree import Command, command_tree
from vpool.completion import script
from vpool.manual import main, pages
from vpool.settings import sections


def every(command: Command) -> Iterator[Command]:
    yield command
    for below in command.commands:
        yield from every(below)


def readable(page: str) -> str:
    return re.sub(r"\\f.", "", page).replace("\\-", "-").replace("\\&", "")


def test_every_command_option_and_exit_code_has_its_place() -> None:
    found = {name: readable(text) for name, text in pages().items()}
    for command in every(command_tree()):
        if command.commands:
            continue
        page = found[f"vpool-{command.path[1]}.1" if len(command.path) > 2 else "vpool.1"]
        assert f".SS\n{command.synopsis}\n" in page.replace("\\[u2026]", "…")
        for option in command.options:
            assert option.names[-1] in page
    others = {value for name, value in vars(exitcodes).items() if name.isupper() and isinstance(value, int)}
    for code in {*exitcodes.EXIT_CODES.values(), *others}:
        assert f".B {code}\n" in found["vpool.1"]
    for name, model in sections().items():
        for key in model.model_fields:
            assert f".B {key}\n" in found["vpool.toml.5"].partition(f".SH [{name}]")[2]


def test_every_command_and_option_says_what_it_is() -> None:
    silent = [" ".join(command.path) for command in every(command_tree()) if not command.help]
    silent += [f"{' '.join(c.path)} {o.names[-1]}" for c in every(command_tree()) for o in c.options if not o.help]
    assert not silent


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_pages_are_taken_without_a_warning(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 0
    for page in sorted(tmp_path.iterdir()):
        done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", page], capture_output=True, text=True, check=True)
        assert done.stderr == "", page.name


def completed(line: str, directory: Path) -> list[str]:
    """What bash offers after a line; its last word is the one under way."""
    (directory / "script").write_text(script("bash"), encoding="utf-8")
    ask = 'source ./script; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _vpool; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", ask, "bash", *line.split(" ")], capture_output=True, text=True, check=True, cwd=directory
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes(tmp_path: Path) -> None:
    assert {"up", "serve", "umount", "volume", "config"} <= set(completed("vpool ", tmp_path))
    assert completed("vpool ser", tmp_path) == ["serve"]
    assert {"create", "list"} <= set(completed("vpool volume ", tmp_path))
    assert completed("vpool volume create --j", tmp_path) == ["--json"]
    assert completed("vpool volume create --dir volume -", tmp_path).count("--dir") == 1
    assert completed("vpool volume create ", tmp_path) == []  # then a file, which is bash's own
    assert completed("vpool serve --config ", tmp_path) == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_their_scripts(shell: str) -> None:
    text = script(shell)
    assert "umount" in text
    if shutil.which(shell) is not None:
        done = subprocess.run(
            [shell, "--no-execute" if shell == "fish" else "-n"], input=text, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
