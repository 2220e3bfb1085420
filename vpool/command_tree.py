"""The commands of ``vpool`` as data, taken from what the command line itself is made of: for man pages and completion."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from vpool.cli import app

# Of the command line's library, not of vPool: a package brings completion as files.
_NOT_OURS = {"--install-completion", "--show-completion"}


@dataclass(frozen=True, slots=True)
class Option:
    """``--name VALUE`` or a flag."""

    names: tuple[str, ...]
    value: str  # "" for a flag
    help: str
    required: bool
    variable: str  # of the environment, that sets it too; "" for none
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Argument:
    """What stands without a name."""

    value: str
    help: str
    required: bool
    many: bool


@dataclass(frozen=True, slots=True)
class Command:
    """A verb, or a noun with verbs below."""

    path: tuple[str, ...]  # ("vpool", "volume", "create")
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]
    commands: tuple[Command, ...]

    @property
    def name(self) -> str:
        return self.path[-1]

    @property
    def synopsis(self) -> str:
        """How it is written, in one line."""
        options = [_bracketed(_written(option), option.required) for option in self.options if "--help" not in option.names]
        arguments = [_bracketed(item.value + ("…" if item.many else ""), item.required) for item in self.arguments]
        return " ".join([*self.path, *options, *arguments, *(["COMMAND …"] if self.commands else [])])


def command_tree() -> Command:
    """All commands, hidden ones left out, in the order of ``--help``."""
    return _command(typer.main.get_command(app), ("vpool",))


def _command(found: Any, path: tuple[str, ...]) -> Command:
    shown = [item for item in found.params if not getattr(item, "hidden", False) and not _NOT_OURS & set(item.opts)]
    below = getattr(found, "commands", {})
    return Command(
        path=path,
        help=inspect.cleandoc(found.help or ""),
        options=(*(_option(item) for item in shown if item.param_type_name == "option"), _HELP),
        arguments=tuple(_argument(item) for item in shown if item.param_type_name == "argument"),
        commands=tuple(_command(item, (*path, name)) for name, item in below.items() if not item.hidden),
    )


_HELP = Option(("-h", "--help"), "", "Say how the command is used, and end.", False, "", ())


def _option(found: Any) -> Option:
    names = tuple(sorted((*found.opts, *found.secondary_opts), key=len))
    kind = found.type_descriptor.annotation
    choices = tuple(str(choice) for choice in get_args(kind)) if get_origin(kind) is Literal else ()
    if not choices and "|" in (found.metavar or ""):
        choices = tuple(found.metavar.split("|"))
    named = {Path: "FILE", int: "NUMBER", float: "NUMBER"}.get(kind, "TEXT")
    value = "" if found.is_flag or found.count else found.metavar or "|".join(choices) or named
    variable = found.envvar if isinstance(found.envvar, str) else ""
    return Option(names, value, found.help or "", bool(found.required), variable, choices)


def _argument(found: Any) -> Argument:
    value = (found.metavar or found.name.upper()).strip("[]")
    return Argument(value, getattr(found, "help", "") or "", bool(found.required), found.nargs == -1)


def _written(option: Option) -> str:
    return f"{option.names[-1]} {option.value}".strip()


def _bracketed(text: str, required: bool) -> str:
    return text if required else f"[{text}]"
