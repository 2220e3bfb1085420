"""``vpool slow``: the last requests that took too long, and what they waited for."""

from __future__ import annotations

import json

import typer

from vpool.cli.options import AsJson, Directory

app = typer.Typer(help="Requests that took too long.", no_args_is_help=True)


@app.callback()
def slow() -> None:
    """Requests that took too long."""


@app.command(name="list")
def list_slow(directory: Directory = None, as_json: AsJson = False) -> None:
    """List the last requests that took longer than the setting watch.slow_s, oldest first, with what they waited for."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from vpool.cli.client import Client
    from vpool.durations import show_duration, show_moment
    from vpool.sizes import show_size

    report = Client.find(directory).get("/v1/slow")
    if as_json:
        print(json.dumps(report, indent=2))
        return
    console = Console(highlight=False)
    requests = report["requests"]
    console.print(
        f"{report['seen']} requests took {show_duration(report['threshold_s'])} or longer since the start"
        + (f"; the last {len(requests)}:" if requests else "")
    )
    if not requests:
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("ended", "request", "path", "offset", "length", "took", "waited for", ""):
        table.add_column(heading, justify="right" if heading in ("offset", "length", "took") else "left", no_wrap=True)
    for request in requests:
        waited = ", ".join(f"{phase} {show_duration(seconds)}" for phase, seconds in request["waited_s"].items())
        table.add_row(
            show_moment(request["at"]),
            request["operation"],
            escape(request["path"] or f"inode {request['inode']}"),
            str(request["offset"]),
            show_size(request["length"]),
            show_duration(request["seconds"]),
            waited or "engine",
            f"[red]{escape(request['error'])}[/red]" if request["error"] else "",
        )
    console.print(table, soft_wrap=True)
