"""``vpool volume``: make, list, show and delete virtual disks."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vpool.cli.options import AsJson, Directory

app = typer.Typer(help="Virtual disks.", no_args_is_help=True)

PathArgument = Annotated[str, typer.Argument(metavar="PATH", help="In the vPool, as in machines/web.raw.")]


@app.command(context_settings={"ignore_unknown_options": True})  # so that a negative size is a size
def create(
    path: PathArgument,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="Bytes, or with K, M, G or T (powers of 1,024): 10G, 512MiB.")],
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Make a volume full of zeros; takes no space until it is written."""
    from vpool.cli import show
    from vpool.cli.client import Client
    from vpool.sizes import parse_size

    wanted = {"path": path, "size": parse_size(size)}
    report = Client.find(directory).post("/v1/volumes", wanted)
    print(json.dumps(report, indent=2)) if as_json else show.created(report)


@app.command(name="list")
def list_volumes(directory: Directory = None, as_json: AsJson = False) -> None:
    """List all volumes."""
    from vpool.cli import show
    from vpool.cli.client import Client

    report = Client.find(directory).get("/v1/volumes")
    print(json.dumps(report, indent=2)) if as_json else show.volumes(report["volumes"])


@app.command(name="show")
def show_volume(path: PathArgument, directory: Directory = None, as_json: AsJson = False) -> None:
    """Show one volume."""
    from vpool.cli import show
    from vpool.cli.client import Client, volume_path

    report = Client.find(directory).get(volume_path(path))
    print(json.dumps(report, indent=2)) if as_json else show.volume(report)


AcceptLoss = Annotated[
    bool, typer.Option("--accept-loss", help="Go on without what lies behind the damage in the local log; it cannot come back.")
]


@app.command(name="open")
def open_again(path: PathArgument, accept_loss: AcceptLoss = False, directory: Directory = None, as_json: AsJson = False) -> None:
    """Open a halted volume again, after its cause was mended or by accepting a loss."""
    from vpool.cli import show
    from vpool.cli.client import Client

    report = Client.find(directory).post("/v1/openings", {"path": path, "accept_loss": accept_loss})
    print(json.dumps(report, indent=2)) if as_json else show.volume(report)


@app.command()
def delete(
    path: PathArgument,
    force: Annotated[bool, typer.Option("--force", help="Even while it is open; its data go with the last handle.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Delete a volume and its data, for ever."""
    from vpool.cli.client import Client, volume_path

    Client.find(directory).delete(volume_path(path), force="true" if force else "false")
    print(json.dumps({"deleted": path})) if as_json else print(f"deleted {path}")
