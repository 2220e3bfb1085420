"""Reading settings: a TOML file and the environment, and what is wrong with them, by line and key."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_origin

from pydantic import ValidationError

from vpool.errors import Invalid
from vpool.settings import Settings, sections

# Variables of ours that are no settings.
OTHER_VARIABLES = frozenset({"VPOOL_DIR", "VPOOL_RUNTIME_DIR"})

_TABLE = re.compile(r"\s*\[\s*([A-Za-z0-9_.-]+)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")


def load_settings(path: Path | None) -> Settings:
    """The settings of a file (None: the defaults), overridden by the environment.

    Raises:
        Invalid: one line for each thing that is wrong.
    """
    text = _read(path) if path is not None else ""
    values = _parse(text, path)
    _check_environment(os.environ)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise Invalid("\n".join(_explain(error, text, path, os.environ))) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise Invalid(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise Invalid(f"{path}: is not text in UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise Invalid(f"{path}: cannot be read: {error.strerror}") from None


def _parse(text: str, path: Path | None) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{path}: is not TOML: {error}") from None


def _variables() -> dict[str, tuple[str, str]]:
    return {
        f"VPOOL_{section}__{key}".upper(): (section, key) for section, model in sections().items() for key in model.model_fields
    }


def _check_environment(environment: Mapping[str, str]) -> None:
    known = _variables()
    for name in environment:
        if name.upper().startswith("VPOOL_") and name.upper() not in known and name not in OTHER_VARIABLES:
            raise Invalid(f"environment: {name} is no setting{_similar(name.upper(), known)}; see `vpool config show`")
    for name, value in environment.items():
        section, key = known.get(name.upper(), ("", ""))
        if section and get_origin(sections()[section].model_fields[key].annotation) is tuple and not _is_list(value):
            raise Invalid(f'environment, {name}: {section}.{key}: is not a list in JSON, like ["one", "two"] (is {value!r})')


def _is_list(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False


def _explain(error: ValidationError, text: str, path: Path | None, environment: Mapping[str, str]) -> Iterable[str]:
    for problem in error.errors(include_url=False, include_context=False, include_input=True):
        location = tuple(str(part) for part in problem["loc"])
        key = ".".join(location[:2])
        message = problem["msg"].removeprefix("Value error, ")
        variable = "__".join(("VPOOL_" + location[0], *location[1:2])).upper() if location else ""
        if problem["type"] == "extra_forbidden":
            yield f"{_place(location, text, path)}: unknown key {key!r}{_similar_key(location)}"
            continue
        value = f" (is {problem['input']!r})" if location and not isinstance(problem["input"], dict) else ""
        where = f"environment, {variable}" if variable in environment else _place(location, text, path)
        yield f"{where}: {key + ': ' if key else ''}{message}{value}"


def _place(location: tuple[str, ...], text: str, path: Path | None) -> str:
    if path is None:
        return "settings"
    line = _line_of(location, text)
    return f"{path}:{line}" if line else str(path)


def _line_of(location: tuple[str, ...], text: str) -> int | None:
    """Line of a key of a table, or of the table where the key is not written; None if neither is."""
    table, found = "", None
    for number, line in enumerate(text.splitlines(), 1):
        if heading := _TABLE.match(line):
            table = heading[1]
            if location and table == location[0]:
                found = found or number
        elif (key := _KEY.match(line)) and len(location) > 0:
            if len(location) > 1 and (table, key[1]) == location[:2]:
                return number
            if not table and key[1] == location[0]:
                return number
    return found


def _similar_key(location: tuple[str, ...]) -> str:
    known = sections()
    if len(location) == 1 or location[0] not in known:
        return _similar(location[0], known, "; known tables are " + ", ".join(known))
    return _similar(
        location[1], known[location[0]].model_fields, "; known keys are " + ", ".join(known[location[0]].model_fields)
    )


def _similar(name: str, known: Iterable[str], otherwise: str = "") -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; do you mean {close[0]!r}?" if close else otherwise
