"""``vpool config``: look at settings without starting anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vpool.cli.options import AsJson

app = typer.Typer(help="Settings.", no_args_is_help=True)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Settings, as TOML.")],
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a file of settings, by line and key."""
    from vpool.settings_file import load_settings

    load_settings(file)
    print(json.dumps({"file": str(file), "valid": True})) if as_json else print(f"{file} is right")


@app.command()
def show(
    file: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings, as TOML.")] = None,
    docs: Annotated[
        bool, typer.Option("--docs", help="Every setting with its meaning, default and limits; fit to be a file of settings.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the settings that a daemon would have: defaults, file and environment together."""
    from vpool.settings_file import load_settings

    settings = load_settings(file)
    values = settings.model_dump(mode="json")
    if as_json:
        print(json.dumps(_with_docs() if docs else values, indent=2))
        return
    if docs:
        from vpool.settings_text import documented

        print(documented(settings), end="")
        return
    for section, keys in values.items():
        print(f"[{section}]")
        for key, value in keys.items():
            print(f"# {key} is unset" if value is None else f"{key} = {json.dumps(value)}")
        print()


def _with_docs() -> dict[str, dict[str, dict[str, object]]]:
    from vpool.settings import Settings, sections

    defaults = Settings.model_construct().model_dump(mode="json")
    return {
        section: {
            key: {"meaning": field.description, "default": defaults[section][key]} for key, field in model.model_fields.items()
        }
        for section, model in sections().items()
    }
