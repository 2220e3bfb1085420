"""Man pages, from what ``--help`` says and from the settings: ``python -m vpool.manual DIRECTORY``.

One page per noun, ``vpool(1)`` for the verbs without one, ``vpool.toml(5)`` for the settings. The language is that of man(7).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from vpool.command_tree import Command, command_tree
from vpool.exitcodes import (
    EXIT_CODES,
    HEALTH_CRITICAL,
    HEALTH_WARNING,
    INTERRUPTED,
    LEFT_IN_CACHE,
    REGISTRY_UNTOLD,
    STOP_TIMED_OUT,
)
from vpool.settings import sections
from vpool.settings_page import allowed
from vpool.settings_text import default_of
from vpool.version import VERSION

_CODES = {
    0: "Done. For `vpool up` and `vpool serve`: stopped cleanly.",
    **{code: (kind.__doc__ or "").split("\n")[0] for kind, code in EXIT_CODES.items()},
    INTERRUPTED: "A second signal cut a daemon's stop short. Nothing acknowledged is lost.",
    LEFT_IN_CACHE: "`vpool serve` has stopped, but not everything is in the backend; the log says what and why.",
    STOP_TIMED_OUT: "The stop of `vpool serve` took longer than its limit and was ended. Nothing acknowledged is lost.",
    HEALTH_WARNING: "`vpool health`: a problem stands that is a warning, and none that is worse.",
    HEALTH_CRITICAL: "`vpool health`: a problem stands that is critical.",
    REGISTRY_UNTOLD: "A daemon has stopped, but a registry without majority was not told everything. Nothing is lost.",
    130: "A command was interrupted with Ctrl-C.",
}
_FILES = {
    "/etc/vpool/vpool.toml": "Settings of the service: vpool.toml(5).",
    "/etc/vpool/environment": "Credentials of the backend, as variables; read by systemd, for root only.",
    "DIR/vpool.json": "Marks a directory as a node's, and names its vPool.",
    "DIR/registry": "Who owns what, and all names. Must not be lost.",
    "DIR/cache": "Write log and caches. May be lost at the cost of what is not in the backend yet.",
    "DIR/admin.sock": "Where commands reach the daemon.",
    "/run/vpool": "Links to the directories of the daemons that run on this machine.",
}


def pages() -> dict[str, str]:
    """Every page by its file name."""
    tree = command_tree()
    nouns = [command for command in tree.commands if command.commands]
    found = {"vpool.1": _overview(tree, nouns)}
    for noun in nouns:
        found[f"vpool-{noun.name}.1"] = _of_noun(noun)
    found["vpool.toml.5"] = _settings()
    return found


def _overview(tree: Command, nouns: list[Command]) -> str:
    verbs = [command for command in tree.commands if not command.commands]
    lines = [
        *_head("vpool", "1", tree.help),
        ".SH SYNOPSIS",
        *(f".B {_plain(verb.synopsis)}\n.br" for verb in verbs),
        *(f".B vpool {noun.name}\n.I COMMAND ...\n.br" for noun in nouns),
        ".SH DESCRIPTION",
        "A vPool is a directory in which each virtual disk is a file.",
        "Its bytes are acknowledged by a write log on the host's disk and live in an object store.",
        ".SH COMMANDS",
        *(line for verb in verbs for line in _entry(verb)),
        *(line for noun in nouns for line in (".TP", f".BR vpool\\-{noun.name} (1)", _text(noun.help))),
        ".SH EXIT STATUS",
        *(line for code, meaning in sorted(_CODES.items()) for line in (".TP", f".B {code}", _text(meaning))),
        ".SH FILES",
        *(line for name, meaning in _FILES.items() for line in (".TP", f".I {_plain(name)}", _text(meaning))),
        ".SH SEE ALSO",
        ", ".join([*(f"vpool\\-{noun.name}(1)" for noun in nouns), "vpool.toml(5)", "systemctl(1)"]),
    ]
    return "\n".join(lines) + "\n"


def _of_noun(noun: Command) -> str:
    lines = [
        *_head(f"vpool-{noun.name}", "1", noun.help),
        ".SH SYNOPSIS",
        *(f".B {_plain(verb.synopsis)}\n.br" for verb in noun.commands),
        ".SH COMMANDS",
        *(line for verb in noun.commands for line in _entry(verb)),
        ".SH EXIT STATUS",
        "As of every command: see vpool(1).",
        ".SH SEE ALSO",
        "vpool(1), vpool.toml(5)",
    ]
    return "\n".join(lines) + "\n"


def _settings() -> str:
    lines = [
        *_head("vpool.toml", "5", "Settings of a vPool node."),
        ".SH DESCRIPTION",
        "A file in TOML, one table for each section below, read when a daemon starts.",
        "Keys that are not listed here are refused;",
        ".B vpool config check FILE",
        "explains what is wrong with a file, by line and key,",
        ".B vpool config show \\-\\-docs",
        "prints a file with every setting in it.",
        ".PP",
        ".I VPOOL_<SECTION>__<KEY>",
        "in the environment overrides the file.",
        "The end of a name is its unit: _bytes (a number, or text like \\(dq8GiB\\(dq), _s (seconds);",
        "others are counts or words.",
    ]
    for name, model in sections().items():
        lines += [f".SH [{name}]", _text((model.__doc__ or "").split("\n")[0])]
        for key, field in model.model_fields.items():
            limits = allowed(key, field)
            facts = default_of(key, field) + (f"; allowed: {limits}" if limits else "") + "."
            lines += [".TP", f".B {_plain(key)}", _text(f"{field.description}."), ".br", _text(facts)]
    lines += [".SH SEE ALSO", "vpool(1), vpool\\-config(1)"]
    return "\n".join(lines) + "\n"


def _head(name: str, section: str, purpose: str) -> list[str]:
    summary = purpose.split("\n")[0].rstrip(".")
    summary = summary[:1].lower() + summary[1:]
    return [
        f'.TH "{name.upper()}" "{section}" "" "vPool {VERSION}" "vPool"',
        ".SH NAME",
        f"{_plain(name)} \\- {_plain(summary)}",
    ]


def _entry(command: Command) -> Iterator[str]:
    yield from (".SS", _plain(command.synopsis))
    for part in re.split(r"\n\s*\n", command.help):
        yield from (_text(part), ".PP")
    for argument in command.arguments:
        yield from (".TP", f".I {_plain(argument.value)}", _text(argument.help or "See above."))
    for option in command.options:
        names = ", ".join(option.names) + (f" {option.value}" if option.value else "")
        also = f" Also by {option.variable} in the environment." if option.variable else ""
        yield from (".TP", f".B {_plain(names)}", _text(option.help + also))


def _text(text: str) -> str:
    """A paragraph; what stands in backquotes is set in bold."""
    lines = [_plain(" ".join(line.split())) for line in text.splitlines() if line.strip()]
    return re.sub(r"`([^`]+)`", r"\\fB\1\\fP", "\n".join(lines)) or "\\&"


def _plain(text: str) -> str:
    """Text that roff takes as it is: a hyphen stays one that can be copied, and no line begins with a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    escaped = "".join(sign if sign.isascii() else f"\\[u{ord(sign):04X}]" for sign in escaped)
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def main(arguments: list[str]) -> int:
    """Write all pages into a directory."""
    if len(arguments) != 1:
        print("usage: python -m vpool.manual DIRECTORY", file=sys.stderr)
        return 2
    directory = Path(arguments[0])
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (directory / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
