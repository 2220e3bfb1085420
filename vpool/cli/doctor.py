"""``vpool doctor``: prints an examination."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vpool.errors import Unavailable

if TYPE_CHECKING:
    from vpool.doctor import Report

COLOURS = {"good": "green", "note": "dim", "warning": "yellow", "problem": "red"}


def run(directory: Path, backend: str | None, configuration: Path | None, *, as_json: bool) -> None:
    """Examine and print. Unavailable: there are problems."""
    import logging

    import structlog

    from vpool.doctor import examine
    from vpool.settings_file import load_settings

    settings = load_settings(configuration)
    # What goes wrong is in the report, and the log of the settings is the daemon's.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.ERROR)

    def say(what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[Klooking at {what} …", end="", file=sys.stderr, flush=True)

    try:
        report = examine(directory, backend, settings, say=say)
    finally:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if as_json:
        figures = {name: round(value, 6) for name, value in report.figures.items()}
        print(json.dumps({"checks": [asdict(check) for check in report.checks], "figures": figures}, indent=2))
    else:
        _print(report)
    if report.problems:
        raise Unavailable(f"{len(report.problems)} problems: {', '.join(f'{each.area} {each.name}' for each in report.problems)}")


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    area = ""
    for check in report.checks:
        if check.area != area:
            area = check.area
            console.print(f"[bold]{area}[/bold]")
        colour = COLOURS[check.verdict.value]
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=8)
        grid.add_column(width=24)
        grid.add_column(overflow="fold")
        found = escape(check.found) + (f"\n[italic]{escape(check.advice)}[/italic]" if check.advice else "")
        grid.add_row(f"[{colour}]{check.verdict.value}[/{colour}]", escape(check.name), found)
        console.print(grid)
