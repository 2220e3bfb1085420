"""``vpool verify``: the background verification of everything in the backend."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from vpool.cli.options import AsJson, Directory

app = typer.Typer(help="The background verification of everything in the backend.", no_args_is_help=True)

PathArgument = Annotated[str, typer.Argument(metavar="PATH", help="Of a volume or file in the vPool.")]
SECTOR_BYTES = 512


@app.command()
def status(directory: Directory = None, as_json: AsJson = False) -> None:
    """Show where it stands, and what it has found."""
    from vpool.cli.client import Client

    report = Client.find(directory).get("/v1/patrol")
    print(json.dumps(report, indent=2)) if as_json else _show(report)


@app.command()
def start(
    gently: Annotated[bool, typer.Option("--gently", help="At the pace of verify.days, not at verify.bytes_per_s_max.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Begin a pass now, or hurry with the one that runs: only verify.bytes_per_s_max holds it back."""
    from vpool.cli.client import Client

    report = Client.find(directory).post("/v1/patrol", {"hurry": not gently})
    print(json.dumps(report, indent=2)) if as_json else print("a pass runs; see how far it is with: vpool verify status")


@app.command()
def lost(directory: Directory = None, as_json: AsJson = False) -> None:
    """List what has no good copy any more: reads of it fail until it is overwritten, or accepted to be zeros."""
    from vpool.cli.client import Client

    report = Client.find(directory).get("/v1/patrol/lost")
    print(json.dumps(report, indent=2)) if as_json else _show_lost(report)


@app.command()
def accept(
    path: PathArgument,
    offset: Annotated[int, typer.Option(min=0, help="Where to begin, in bytes of the volume or file.")] = 0,
    length: Annotated[int | None, typer.Option(min=1, help="How many bytes; by default to the end.")] = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Let what is lost of a volume or file be zeros from now on; what can be read is not touched."""
    from vpool.cli.client import Client
    from vpool.sizes import show_size

    report = Client.find(directory).post("/v1/patrol/acceptances", {"path": path, "offset": offset, "length": length})
    print(json.dumps(report, indent=2)) if as_json else print(f"{show_size(report['zeroed_bytes'])} are zeros now")


def _when(time_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns / 1e9)) if time_ns else "never"


def _show(report: dict[str, Any]) -> None:
    from vpool.sizes import show_size

    if report["running"]:
        done = f"{report['objects_done']} of {report['objects']} objects, {show_size(report['pass_bytes'])}"
        rate = f"{show_size(report['bytes_per_s'])}/s"
        print(f"pass {report['number']} runs since {_when(report['started_ns'])}: {done}, at {rate}")
    elif report["number"]:
        print(f"pass {report['number']} ended {_when(report['ended_ns'])}: {show_size(report['pass_bytes'])} compared")
    if not report["running"]:
        print(f"next pass: {_when(report['next_start_ns'])}" if report["enabled"] else "passes run only when they are asked for")
    if report["waiting_for"]:
        print(f"waits for: {report['waiting_for']}")
    if report["rewritten_clusters"]:
        print(f"{report['rewritten_clusters']} clusters written again from copies on this host since the start")
    lost = f"{report['lost_ranges']} ranges, {show_size(report['lost_bytes'])}; see: vpool verify lost"
    print(f"lost: {lost if report['lost_ranges'] else 'nothing'}")
    if report["needed_objects"]:
        print(f"{report['needed_objects']} objects that a restart without the cache needs are damaged or missing")


def _show_lost(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not report["lost"] and not report["needed"]:
        print("nothing is lost")
        return
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("path", "what", "first sector", "sectors", "object in the bucket", "why"):
        table.add_column(heading, overflow="fold")
    for one in report["lost"]:
        first, count = one["offset"] // SECTOR_BYTES, one["length"] // SECTOR_BYTES
        table.add_row(one["path"] or one["object"], one["kind"], str(first), str(count), one["name"], one["reason"])
    for one in report["needed"]:
        table.add_row(one["path"] or one["object"], "needed by a restart", "–", "–", one["name"], one["reason"])
    console.print(table)
