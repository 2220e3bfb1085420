"""Progress of long work: a bar on a terminal, nothing elsewhere. It goes to standard error, so that output stays output."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Moves a bar: bytes done, a remark, and the whole size where it was not known."""

    def __call__(self, done: int, remark: str = "", size: int | None = None) -> None: ...


@contextmanager
def progress_bar(what: str, size: int, done: int = 0) -> Iterator[Advance]:
    """A bar over ``size`` bytes; the block calls what it gets with bytes done so far and a remark."""
    if not sys.stderr.isatty():
        yield lambda done, remark="", size=None: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("[yellow]{task.fields[remark]}[/yellow]"),
    )
    with Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as bar:
        task = bar.add_task(escape(what), total=size, completed=done, remark="")
        yield lambda done, remark="", size=None: bar.update(task, completed=done, total=size, remark=escape(remark))
