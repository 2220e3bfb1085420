"""``vpool files``: the log that all plain files of a node share."""

from __future__ import annotations

import json

import typer

from vpool.cli.options import AsJson, Directory
from vpool.cli.volume import AcceptLoss

app = typer.Typer(help="The log of this node's plain files.", no_args_is_help=True)


@app.callback()
def files() -> None:
    """The log of this node's plain files."""


@app.command(name="open")
def open_again(accept_loss: AcceptLoss = False, directory: Directory = None, as_json: AsJson = False) -> None:
    """Open the halted log of files again, after its cause was mended or by accepting a loss."""
    from vpool.cli.client import Client

    Client.find(directory).post("/v1/openings", {"path": None, "accept_loss": accept_loss})
    print(json.dumps({"opened": "files"})) if as_json else print("the log of files is open")
