"""``vpool node``: the nodes of a vPool, and what becomes of what they own."""

from __future__ import annotations

from typing import Annotated

import typer

from vpool.cli import takeover
from vpool.cli.options import AsJson, Directory

app = typer.Typer(help="The nodes of a vPool, and what they own.", no_args_is_help=True)

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Id, or its beginning.")]


@app.callback()
def node() -> None:
    """The nodes of a vPool, and what they own."""


@app.command()
def steal(
    member: NodeArgument,
    accept_loss: takeover.AcceptLoss = False,
    powered_off: takeover.PoweredOff = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Take over all that a dead node owned, volumes and files: one whose lease is over. Run it where they are to be served."""
    takeover.run({"node": member}, accept_loss, powered_off, directory, as_json=as_json)


@app.command()
def drain(
    member: NodeArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Give it volumes again; what has moved stays where it is.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Have all volumes of a node move to others, while they are in use, and give it none. Ctrl-C leaves the rest where it is."""
    from vpool.cli import moving

    moving.drain(member, directory, undo=undo, as_json=as_json)
