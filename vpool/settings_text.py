"""Settings as a file that explains itself: what each means and what follows, its default, and what it may be."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vpool.errors import Invalid
from vpool.settings import Settings, sections
from vpool.settings_page import allowed
from vpool.sizes import parse_size, show_size

WIDTH = 100
HEAD = (
    "Settings of vPool, as TOML. A line like #key = value shows a default; take the '#' away to change it. "
    'Sizes are numbers of bytes, or text like "8GiB"; the end of a name is its unit. VPOOL_<SECTION>__<KEY> in the environment '
    "overrides the file. After a change: vpool config check FILE, then start the daemon again."
)


def documented(settings: Settings) -> str:
    """The text of a file that says the same as ``settings``; what is not its default is set, the rest is shown."""
    tables = [_table(name, model, getattr(settings, name)) for name, model in sections().items()]
    return "\n".join([*_comment(HEAD), "", *tables])


def _table(name: str, model: type[BaseModel], values: BaseModel) -> str:
    lines = [f"[{name}]", *_comment((model.__doc__ or "").split("\n")[0]), ""]
    for key, field in model.model_fields.items():
        lines += [
            *_comment(f"{field.description}."),
            *_comment(_limits(key, field)),
            _setting(key, field, getattr(values, key)),
            "",
        ]
    return "\n".join(lines)


def default_of(key: str, field: FieldInfo) -> str:
    """What a setting is when it is not set, for people."""
    return "Unset by default" if field.default is None else f"Default: {_toml(key, field.default)}"


def _limits(key: str, field: FieldInfo) -> str:
    default = default_of(key, field)
    limits = allowed(key, field).replace("`", "")
    return f"{default}; allowed: {limits}." if limits else f"{default}."


def _setting(key: str, field: FieldInfo, value: object) -> str:
    if value is None:
        return f"#{key} ="
    line = f"{key} = {_toml(key, value)}"
    return line if value != field.default else f"#{line}"


def _toml(key: str, value: Any) -> str:
    if key.endswith("_bytes") and isinstance(value, int):
        return json.dumps(show_size(value)) if _is_round(value) else str(value)
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(list(value) if isinstance(value, tuple) else str(value), ensure_ascii=False)


def _is_round(size: int) -> bool:
    """Whether a size is shown without a loss."""
    try:
        return parse_size(show_size(size)) == size
    except Invalid:  # not a whole number of bytes
        return False


def _comment(text: str) -> list[str]:
    return [f"# {line}" for part in text.splitlines() for line in textwrap.wrap(part, WIDTH - 2, break_long_words=False)]
