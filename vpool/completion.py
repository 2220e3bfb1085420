"""Completion for bash, zsh and fish, from what ``--help`` says: ``python -m vpool.completion bash|zsh|fish``.

The scripts know all commands and options by themselves, so that a Tab starts no program; what is neither is completed as a file.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator

from vpool.command_tree import Command, Option, command_tree

_BASH = """\
# bash completion for vpool; made from its commands.
_vpool() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} path=vpool word
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$path $word" in
            {steps}) path="$path $word" ;;
        esac
    done
    case "$path $previous" in
{values}
    esac
    local words=
    case "$path" in
{words}
    esac
    [[ $current == -* || $words != -* ]] && COMPREPLY=($(compgen -W "$words" -- "$current"))
    return 0
}}
complete -o bashdefault -o default -F _vpool vpool
"""

_ZSH = """\
#compdef vpool
# zsh completion for vpool; made from its commands.
local path_='vpool' word
for word in "${{(@)words[2,CURRENT-1]}}"; do
    case "$path_ $word" in
        {steps}) path_="$path_ $word" ;;
    esac
done
local -a found
case "$path_ ${{words[CURRENT-1]}}" in
{values}
esac
case "$path_" in
{words}
esac
if [[ ${{words[CURRENT]}} == -* || ${{found[1]}} != -* ]]; then
    _describe 'vpool' found
else
    _files
fi
"""


def script(shell: str) -> str:
    """The completion for one shell: ``bash``, ``zsh`` or ``fish``."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](list(_all(command_tree())))


def _all(command: Command) -> Iterator[Command]:
    yield command
    for below in command.commands:
        yield from _all(below)


def _steps(commands: list[Command]) -> str:
    """Patterns of a command's path with one more word, where that is a command again."""
    return "|".join(f'"{" ".join(command.path)}"' for command in commands[1:])


def _with_value(commands: list[Command]) -> Iterator[tuple[str, Option]]:
    for command in commands:
        for option in command.options:
            if option.value:
                yield "|".join(f'"{" ".join(command.path)} {name}"' for name in option.names), option


def _bash(commands: list[Command]) -> str:
    values = []
    for pattern, option in _with_value(commands):
        found = f'($(compgen -W "{" ".join(option.choices)}" -- "$current"))' if option.choices else "()"
        values.append(f"        {pattern}) COMPREPLY={found}; return 0 ;;")
    words = [f'        "{" ".join(command.path)}") words="{" ".join(_words(command))}" ;;' for command in commands]
    return _BASH.format(steps=_steps(commands), values="\n".join(values), words="\n".join(words))


def _zsh(commands: list[Command]) -> str:
    values = []
    for pattern, option in _with_value(commands):
        what = f"compadd -- {' '.join(option.choices)}" if option.choices else "_files"
        values.append(f"    {pattern}) {what}; return ;;")
    words = []
    for command in commands:
        meant = [(below.name, below.help) for below in command.commands] or [
            (name, option.help) for option in command.options for name in option.names
        ]
        described = " ".join(shlex.quote(f"{word}:{_first_line(text)}") for word, text in meant)
        words.append(f'    "{" ".join(command.path)}") found=({described}) ;;')
    return _ZSH.format(steps=_steps(commands), values="\n".join(values), words="\n".join(words))


def _fish(commands: list[Command]) -> str:
    lines = [
        "# fish completion for vpool; made from its commands.",
        "function __vpool_at",
        "    set -l path vpool",
        "    for word in (commandline -opc)[2..-1]",
        '        switch "$path $word"',
        f"            case {' '.join(shlex.quote(' '.join(command.path)) for command in commands[1:])}",
        '                set path "$path $word"',
        "        end",
        "    end",
        '    test "$path" = "$argv[1]"',
        "end",
    ]
    for command in commands:
        at = f"complete -c vpool -n {shlex.quote('__vpool_at ' + shlex.quote(' '.join(command.path)))}"
        for below in command.commands:
            lines.append(f"{at} -f -a {below.name} -d {shlex.quote(_first_line(below.help))}")
        for option in command.options:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            takes = f" -x -a {shlex.quote(' '.join(option.choices))}" if option.choices else " -r" if option.value else ""
            lines.append(f"{at} {names}{takes} -d {shlex.quote(_first_line(option.help))}")
    return "\n".join(lines) + "\n"


def _words(command: Command) -> list[str]:
    return [below.name for below in command.commands] or [name for option in command.options for name in option.names]


def _first_line(text: str) -> str:
    return text.split("\n")[0]


def main(arguments: list[str]) -> int:
    """Print a script."""
    if len(arguments) != 1 or arguments[0] not in ("bash", "zsh", "fish"):
        print("usage: python -m vpool.completion bash|zsh|fish", file=sys.stderr)
        return 2
    print(script(arguments[0]), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
