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
    as_json: AsJson = False,
) -> None:
    """Print the settings that a daemon would have: defaults, file and environment together."""
    from vpool.settings_file import load_settings

    values = load_settings(file).model_dump(mode="json")
    if as_json:
        print(json.dumps(values, indent=2))
        return
    for section, keys in values.items():
        print(f"[{section}]")
        for key, value in keys.items():
            print(f"# {key} is unset" if value is None else f"{key} = {json.dumps(value)}")
        print()
