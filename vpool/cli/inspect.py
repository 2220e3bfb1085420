"""``vpool inspect``: any file of a DIR or of a bucket, field by field."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vpool.errors import Corrupt

if TYPE_CHECKING:
    from vpool.inspecting import Findings


def show(findings: Findings, name: str, *, as_json: bool) -> None:
    """Print findings. Corrupt: there are problems."""
    if as_json:
        print(json.dumps({"file": name, **asdict(findings)}, indent=2))
    else:
        _print(findings)
    if findings.problems:
        count = len(findings.problems)
        raise Corrupt(f"{name} is damaged: {findings.problems[0]}" + (f", and {count - 1} more" if count > 1 else ""))


def _print(findings: Findings) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{escape(findings.kind)}[/bold]")
    grid = Table.grid(padding=(0, 2))
    for key, value in findings.fields.items():
        grid.add_row(f"[dim]{escape(key)}[/dim]", escape(str(value)))
    console.print(grid)
    for found in findings.tables:
        if not found.rows:
            continue
        table = Table(title=escape(found.title), title_justify="left", box=None, pad_edge=False)
        for column in found.columns:
            table.add_column(escape(column), overflow="fold")
        for row in found.rows:
            table.add_row(*("–" if value is None else escape(str(value)) for value in row))
        console.print(table)
        if found.left_out:
            console.print(f"[dim]… and {found.left_out} more; --all shows them[/dim]")
    for note in findings.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)
    for problem in findings.problems:
        console.print(f"[red]damaged:[/red] {escape(problem)}", soft_wrap=True)
    if not findings.problems:
        console.print("nothing is damaged, as far as it has checksums")


def run(path: Path, *, all_rows: bool, as_json: bool) -> None:
    """Look at a file and print what it is."""
    from vpool.inspecting import inspect

    show(inspect(path, rows_max=1 << 60 if all_rows else 20), str(path), as_json=as_json)
