"""Makes docs/settings.md from the settings: ``python -m vpool.settings_page --write|--check FILE``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vpool.settings import sections
from vpool.sizes import show_size

_HEAD = """# Settings

This page is made from `vpool/settings.py` by `make docs`; do not edit it.

Settings are read from the file given with `--config` (TOML, one table per section below); `VPOOL_<SECTION>__<KEY>` in the
environment overrides the file, as in `VPOOL_CACHE__SIZE_BYTES=20GiB`. They do not change while the daemon runs. Keys that are not
listed here are refused. `vpool config check FILE` explains what is wrong with a file, by line; `vpool config show` prints what is
in force.

The end of a name is its unit: `_bytes` (a number, or text like `"8GiB"`), `_s` (seconds); others are counts or words.
"""


def _default(name: str, field: FieldInfo) -> str:
    value = field.default
    if value is None:
        return "unset"
    if name.endswith("_bytes"):
        return show_size(value)
    if isinstance(value, tuple):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{value}`"


def allowed(name: str, field: FieldInfo) -> str:
    """What a setting may be, for people; empty if its type says all."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(field.annotation))
    words = []
    for limit in field.metadata:
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if (value := getattr(limit, attribute, None)) is not None:
                words.append(f"{sign} {show_size(value) if name.endswith('_bytes') else format(value, ',')}")
    return ", ".join(words)


def _table(section: str, model: type[BaseModel]) -> str:
    lines = [
        f"## [{section}]",
        "",
        (model.__doc__ or "").split("\n")[0],
        "",
        "| key | default | allowed | meaning; consequence |",
        "| --- | --- | --- | --- |",
    ]
    for name, field in model.model_fields.items():
        lines.append(f"| `{name}` | {_default(name, field)} | {allowed(name, field)} | {field.description} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_table(section, model) for section, model in sections().items())])


def main(arguments: list[str]) -> int:
    """Write the page, or say whether it is current."""
    if len(arguments) != 2 or arguments[0] not in ("--write", "--check"):
        print("usage: python -m vpool.settings_page --write|--check FILE", file=sys.stderr)
        return 2
    path = Path(arguments[1])
    if arguments[0] == "--write":
        path.write_text(page(), encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != page():
        print(f"{path} is not what vpool/settings.py says now; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
