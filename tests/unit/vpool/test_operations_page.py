"""The operator's pages name only what there is: every command with its options, every setting; no section is empty.

If this fails, somebody types at three in the morning what a page says, and is told that there is no such thing.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vpool.command_tree import Command, command_tree
from vpool.settings import sections

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ["operations.md", "recovery.md", "verification.md", "backends.md", "health.md"]
CODE = re.compile(r"```(?:\w*)\n(.*?)```|`([^`\n]+)`", re.DOTALL)


def code_in(page: str) -> list[str]:
    """Lines of blocks and pieces within lines."""
    found = CODE.findall((DOCS / page).read_text(encoding="utf-8"))
    return [re.split(r"#|\s{2,}", line.strip())[0].strip() for block, inline in found for line in (block or inline).splitlines()]


def commands_in(page: str) -> list[list[str]]:
    """``vpool a b|c …``, one for each that is meant."""
    meant = []
    for line in code_in(page):
        words = line.partition("||")[0].split()
        if words[:1] != ["vpool"]:
            continue
        spread = [[]]  # type: list[list[str]]
        for word in words[1:]:
            choices = word.split("|") if not word.startswith("-") else [word]
            spread = [[*before, choice] for before in spread for choice in choices]
        meant += spread
    return meant


def problem_with(words: list[str]) -> str:
    """Why there is no such command; "" if there is."""
    command: Command = command_tree()
    rest = list(words)
    while rest and command.commands and not rest[0].startswith("-"):
        below = {each.name: each for each in command.commands}
        if rest[0] not in below:
            return f"{' '.join(command.path)} has no {rest[0]}"
        command = below[rest.pop(0)]
    known = {name for option in command.options for name in option.names} | (
        {"--version"} if command.path == ("vpool",) else set()
    )
    for word in rest:
        option = word.partition("=")[0].rstrip(",…")
        if option.startswith("--") and option not in known:
            return f"{' '.join(command.path)} has no option {option}"
    given = [word for word in rest if not word.startswith("-")]
    if given and not command.arguments and not any(option.value for option in command.options if f"{option.names[-1]}" in rest):
        return f"{' '.join(command.path)} takes nothing"
    return ""


@pytest.mark.parametrize("page", PAGES)
def test_every_command_on_a_page_is_one(page: str) -> None:
    problems = {" ".join(words): problem_with(words) for words in commands_in(page)}
    assert not {words: problem for words, problem in problems.items() if problem}


def test_the_page_has_commands_and_wrong_ones_are_found() -> None:
    assert len(commands_in("operations.md")) > 40
    for wrong in ("volume shrink x", "volume resize x --smaller", "status now"):
        assert problem_with(wrong.split()), wrong


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_on_a_page_is_one(page: str) -> None:
    known = {f"{section}.{key}" for section, model in sections().items() for key in model.model_fields}
    named = {
        word
        for line in code_in(page)
        for word in re.findall(r"(?<![\w/.-])([a-z]+\.[a-z_]+)(?![\w./-])", line)
        if word.split(".")[0] in sections()
        and word.split(".")[1] not in ("md", "toml", "json", "raw", "service", "img", "vpool")  # the last is a type of mount
    }
    assert sorted(named - known) == []


def test_no_section_is_empty() -> None:
    lines = [line for line in (DOCS / "operations.md").read_text(encoding="utf-8").splitlines() if line]
    followed = zip(lines, [*lines[1:], "# end"], strict=True)
    empty = [
        one for one, two in followed if one.startswith("#") and two.startswith("#") and len(one.split()[0]) >= len(two.split()[0])
    ]
    assert not empty
