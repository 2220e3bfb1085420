"""``vpool node``: the nodes of a vPool, and what becomes of what they own."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vpool.cli import takeover
from vpool.cli.options import AsJson, Directory

app = typer.Typer(help="The nodes of a vPool, and what they own.", no_args_is_help=True)

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Id, its beginning, or the host's name.")]


@app.callback()
def node() -> None:
    """The nodes of a vPool, and what they own."""


@app.command(name="list")
def list_all(directory: Directory = None, as_json: AsJson = False) -> None:
    """List all nodes as this one sees them."""
    from vpool.cli import show_nodes
    from vpool.cli.client import Client

    report = Client.find(directory).get("/v1/nodes")
    print(json.dumps(report["nodes"], indent=2)) if as_json else show_nodes.nodes(report["nodes"])


@app.command()
def show(member: NodeArgument, directory: Directory = None, as_json: AsJson = False) -> None:
    """Show one node: its part in the registry, its lease, and what it owns."""
    from vpool.cli import show_nodes
    from vpool.cli.client import Client

    report = Client.find(directory).get(_path(member))
    print(json.dumps(report, indent=2)) if as_json else show_nodes.node(report)


@app.command()
def maintenance(
    member: NodeArgument,
    state: Annotated[str, typer.Argument(metavar="on|off")],
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Say that a node will be away for a while on purpose: it keeps what it owns, is given nothing, and does not lead."""
    from vpool.cli.client import Client
    from vpool.errors import Invalid

    if state not in ("on", "off"):
        raise Invalid(f"maintenance is on or off, not {state!r}")
    report: dict[str, Any] = Client.find(directory).post(f"{_path(member)}/maintenance", {"on": state == "on"})
    if as_json:
        print(json.dumps(report, indent=2))
    elif state == "on":
        print(
            f"node {report['id']} is in maintenance: stop and start it as you like. What it owns waits for it, for "
            "cluster.maintenance_s at most; switch it off afterwards"
        )
    else:
        print(f"node {report['id']} is {report['status']}")


@app.command()
def remove(member: NodeArgument, directory: Directory = None) -> None:
    """Take a node out of the vPool, as `vpool cluster remove` does; it need not be there."""
    from vpool.cli.client import Client
    from vpool.clustering import ask

    ask(Client.find(directory).directory, "remove", member)


@app.command()
def remains(
    drop: Annotated[str, typer.Option(metavar="PATH", help="What --of is to let go of: a volume, or a log by its id.")] = "",
    of: Annotated[str, typer.Option(metavar="NODE", help="Whose; id, or its beginning.")] = "",
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """List what nodes still have of objects that others own now; with --drop, have one let go of it, for ever."""
    takeover.remains(directory, drop, of, as_json=as_json)


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
    undo: Annotated[
        bool, typer.Option("--undo", help="Give it volumes and files again; what has moved stays where it is.")
    ] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Have all volumes and files of a node move to others, while they are in use, and give it none. Ctrl-C leaves the rest."""
    from vpool.cli import moving

    moving.drain(member, directory, undo=undo, as_json=as_json)


def _path(member: str) -> str:
    from urllib.parse import quote

    from vpool.errors import Invalid

    if not member.strip() or "/" in member:
        raise Invalid(f"{member!r} is not a node; `vpool node list` shows all")
    return f"/v1/nodes/{quote(member.strip(), safe='')}"
