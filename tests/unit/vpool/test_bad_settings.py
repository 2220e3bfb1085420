"""Every setting there is, with every kind of bad value: refused, with file, line and key.

The settings are walked, so a new one is tried without anybody thinking of it. If this fails, a slip in a file of settings is
taken for something else, or an operator has to guess which line it is in.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import annotated_types
import pytest
from pydantic.fields import FieldInfo

from tests.cluster.running import picture, vpool
from vpool.errors import Invalid
from vpool.exitcodes import EXIT_CODES
from vpool.settings import sections
from vpool.settings_file import load_settings

SETTINGS = [(section, key) for section, model in sections().items() for key in model.model_fields]
LINE = 4  # of the setting in the files below
NUMBERS = (int, float)


def field_of(section: str, key: str) -> FieldInfo:
    return sections()[section].model_fields[key]


def types_of(field: FieldInfo) -> set[object]:
    """What a value may be, without None."""
    if typing.get_origin(field.annotation) in (typing.Literal, tuple):
        return {field.annotation}
    kinds = typing.get_args(field.annotation) or (field.annotation,)
    return {typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind for kind in kinds}


def limits_of(field: FieldInfo) -> list[Any]:
    """Constraints, also those within ``… | None``."""
    found = list(field.metadata)
    for kind in typing.get_args(field.annotation):
        found += getattr(kind, "__metadata__", ())
    return found


def takes_units(field: FieldInfo) -> bool:
    return any(getattr(getattr(limit, "func", None), "__name__", "") == "_bytes" for limit in limits_of(field))


def beyond(field: FieldInfo) -> Iterator[float | int]:
    """Numbers just outside the limits."""
    for limit in limits_of(field):
        match limit:
            case annotated_types.Ge(ge=bound):
                yield bound - 1  # type: ignore[operator]
            case annotated_types.Gt(gt=bound):
                yield bound  # type: ignore[misc]
            case annotated_types.Le(le=bound):
                yield bound + 1  # type: ignore[operator]
            case annotated_types.Lt(lt=bound):
                yield bound  # type: ignore[misc]


def bad_values(field: FieldInfo) -> Iterator[str]:
    """As TOML."""
    kinds = types_of(field)
    is_number = bool(kinds & set(NUMBERS))
    yield "{ table = 1 }"
    yield "1979-05-27"
    if tuple not in {typing.get_origin(kind) for kind in kinds}:
        yield "[]"
    if is_number:
        yield from map(str, beyond(field))
        yield from ('"plenty"', '""', '"10 parsecs"', "nan")
    if is_number and float not in kinds:
        yield "1.5"
    if takes_units(field):
        yield from ('"5XiB"', '"-1GiB"', '"1e400"')
    if not is_number and bool not in kinds:
        yield from ("true", "-1", "3.5")
    if bool in kinds:
        yield from ('"perhaps"', "7")
    if typing.get_origin(field.annotation) is typing.Literal:
        yield '"something-else"'


def written(path: Path, section: str, line: str) -> Path:
    path.write_text(f"# a comment\n\n[{section}]\n{line}\n", encoding="utf-8")
    return path


def refusal(path: Path | None) -> str:
    """What is said, or "" where it is taken."""
    try:
        load_settings(path)
    except Invalid as error:
        return error.message
    return ""


@pytest.mark.parametrize(("section", "key"), SETTINGS)
def test_a_bad_value_is_refused_with_its_place(tmp_path: Path, section: str, key: str) -> None:
    for value in bad_values(field_of(section, key)):
        path = written(tmp_path / "s.toml", section, f"{key} = {value}")
        assert f"{path}:{LINE}: {section}.{key}: " in refusal(path), f"{value} is not refused so, but: {refusal(path)}"


@pytest.mark.parametrize(("section", "key"), SETTINGS)
def test_a_bad_variable_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, section: str, key: str) -> None:
    name = f"VPOOL_{section}__{key}".upper()
    is_text = str in types_of(field_of(section, key))  # then what TOML has other types for is a value like any other
    for value in bad_values(field_of(section, key)):
        text = value.strip('"')
        if is_text and text in ("true", "-1", "3.5", "1979-05-27"):
            continue
        monkeypatch.setenv(name, text)
        assert name in refusal(None) or f"{section}.{key}" in refusal(None), f"{value} is not refused so, but: {refusal(None)}"


@pytest.mark.parametrize("section", sections())
def test_an_unknown_key_is_refused_in_every_table(tmp_path: Path, section: str) -> None:
    path = written(tmp_path / "s.toml", section, "no_such_key = 1")
    with pytest.raises(Invalid) as caught:
        load_settings(path)
    assert f"{path}:{LINE}: unknown key '{section}.no_such_key'" in caught.value.message


@pytest.mark.parametrize("value", ["*.raw", '"*.raw"', "{}", "", "[1]", '["a/b"]', "[]"])
def test_a_list_in_a_variable_is_json(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("VPOOL_NAMESPACE__VOLUME_RULES", value)
    with pytest.raises(Invalid, match=r"VPOOL_NAMESPACE__VOLUME_RULES|namespace\.volume_rules"):
        load_settings(None)


@pytest.mark.parametrize(
    ("section", "line", "words"),
    [
        ("node", 'directory = "relative"', "is not an absolute path"),
        ("node", 'backend = "ftp://host"', "unknown kind of store"),
        ("node", 'backend = "s3:https://user:pass@host/p"', "credentials do not belong into the address"),
        ("log", 'file = "vpool.log"', "is not an absolute path"),
        ("watch", 'metrics_address = "0.0.0.0:9420"', "loopback"),
        ("watch", 'metrics_address = "127.0.0.1"', "is not an address; write one like 127.0.0.1:9420"),
        ("watch", 'metrics_address = "127.0.0.1:99999"', "is not an address"),
        ("namespace", "volume_rules = []", "at least 1"),
        ("namespace", "volume_rules = [1]", "string"),
    ],
)
def test_what_is_text_and_still_wrong(tmp_path: Path, section: str, line: str, words: str) -> None:
    path = written(tmp_path / "s.toml", section, line)
    with pytest.raises(Invalid) as caught:
        load_settings(path)
    assert f"{path}:{LINE}: {section}.{line.split()[0]}" in caught.value.message
    assert words in caught.value.message


@pytest.mark.parametrize("section", sections())
def test_every_command_that_takes_settings_says_the_same_and_changes_nothing(tmp_path: Path, section: str) -> None:
    """One setting of each table; the message is the one of the tests above."""
    key = next(iter(sections()[section].model_fields))
    path = written(tmp_path / "s.toml", section, f"{key} = {{ table = 1 }}")
    before = picture(tmp_path)
    for command in (("config", "check", path), ("serve", "--config", path)):
        ran = vpool(*command)
        assert ran.code == EXIT_CODES[Invalid]
        assert f"{path}:{LINE}: {section}.{key}: " in ran.err
        assert "Traceback" not in ran.err
    ran = vpool("config", "check", path, "--json")
    assert json.loads(ran.err)["error"] == "Invalid"
    assert picture(tmp_path) == before
