"""``vpool cluster``: several nodes with one vPool."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vpool.cli.options import AsJson

app = typer.Typer(help="Several nodes with one vPool.", no_args_is_help=True)

Directory = Annotated[Path, typer.Option("--dir", metavar="DIR", envvar="VPOOL_DIR", help="The node's directory.")]
Listen = Annotated[str, typer.Option(help="Address and port where the node listens for the others; the next port is taken too.")]
Advertise = Annotated[str | None, typer.Option(help="Where the others find it, if not at --listen.")]
Configuration = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings, as TOML.")]
LISTEN = "0.0.0.0:9470"  # a node is there to be reached by others; who may is decided by certificates


def _say(found: object, as_json: bool, text: str) -> None:
    print(json.dumps(found) if as_json else text)


@app.command()
def init(
    directory: Directory,
    listen: Listen = LISTEN,
    advertise: Advertise = None,
    backend: Annotated[str | None, typer.Option(help="Address of the shared backend, for a vPool that is new.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the vPool in DIR, or a new one, the first node of a cluster. No daemon may run there."""
    from vpool.clustering import initialise

    made = initialise(directory, backend=backend, listen=listen, advertise=advertise)
    _say(
        {"vpool": made.vpool, "node": made.node},
        as_json,
        f"vPool {made.vpool} is a cluster; this is node {made.node}. Start it, then let others join with a token "
        f"(`vpool cluster token --dir {directory}`).",
    )


@app.command()
def token(
    directory: Directory,
    minutes: Annotated[int, typer.Option(min=1, max=43_200, help="How long it is good.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Print a token that lets one node join, once."""
    from vpool.clustering import ask

    text = ask(directory, "token", minutes * 60)
    _say({"token": text}, as_json, text)


@app.command()
def join(
    directory: Directory,
    given: Annotated[str, typer.Option("--token", metavar="TOKEN", help="As `vpool cluster token` prints it; - reads it.")],
    listen: Listen = LISTEN,
    advertise: Advertise = None,
    witness: Annotated[bool, typer.Option("--witness", help="Vote only: no storage, no mount.")] = False,
    replica: Annotated[bool, typer.Option("--replica", help="Serve, but do not vote, even if a voter is wanted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make DIR, which must be new or empty, a node of the vPool that the token is for."""
    from vpool.clustering import join as run
    from vpool.errors import Invalid

    if witness and replica:
        raise Invalid("--witness and --replica exclude each other")
    text = sys.stdin.read() if given == "-" else given
    role = "witness" if witness else "replica" if replica else ""
    made = run(directory, text, role=role, listen=listen, advertise=advertise)
    next_step = f"`vpool cluster witness --dir {directory}`" if witness else "`vpool up` or `vpool serve`"
    _say(
        {"vpool": made.vpool, "node": made.node, "role": made.role, "backend": made.backend},
        as_json,
        f"node {made.node} has joined vPool {made.vpool} as {made.role}; start it with {next_step}",
    )


@app.command()
def witness(directory: Directory, configuration: Configuration = None) -> None:
    """Run a witness in the foreground until Ctrl-C or SIGTERM."""
    from vpool.clustering import run_witness
    from vpool.settings_file import load_settings

    settings = load_settings(configuration)
    raise typer.Exit(run_witness(directory, settings.cluster, lambda: print(f"witness ready: {directory}", flush=True)))


@app.command()
def status(directory: Directory, as_json: AsJson = False) -> None:
    """Show the members, who leads, and who is connected with this node."""
    from vpool.clustering import ask

    found = ask(directory, "status")
    if as_json:
        print(json.dumps(found))
        return
    leads = found["leader"]
    print(f"vPool {found['vpool']}, authority {found['authority'][:16]}…")
    print(f"leader {leads or 'none: a majority of the voters is needed'}, term {found['term']}, applied {found['applied']}")
    for member in found["members"]:
        marks = [
            mark for mark, holds in (("this node", member["id"] == found["node"]), ("leads", member["id"] == leads)) if holds
        ]
        link = "connected" if member["connected"] else f"not connected ({member['problem']})"
        name = f" ({member['name']})" if member["name"] else ""
        print(f"  {member['id']}{name}  {member['address']}  {member['role']}, {member['state']}, {', '.join([*marks, link])}")
    voters = sum(member["role"] != "replica" for member in found["members"])
    if voters and voters % 2 == 0:
        print(f"{voters} voters bear the loss of no more of them than {voters - 1} would: let another join, perhaps as --witness")


@app.command()
def role(
    member: Annotated[str, typer.Argument(metavar="NODE", help="Id, its beginning, or the host's name.")],
    wanted: Annotated[str, typer.Argument(metavar="voter|replica")],
    directory: Directory,
) -> None:
    """Let a member vote, or not."""
    from vpool.clustering import ask

    ask(directory, "role", member, wanted)


@app.command()
def remove(
    member: Annotated[str, typer.Argument(metavar="NODE", help="Id, its beginning, or the host's name.")],
    directory: Directory,
) -> None:
    """Take a member out; it need not be there, and cannot come back without a token."""
    from vpool.clustering import ask

    ask(directory, "remove", member)


@app.command()
def leave(directory: Directory) -> None:
    """Take this node out of the cluster; stop it then."""
    from vpool.clustering import ask

    ask(directory, "remove", ask(directory, "status")["node"])
    print("the node has left the vPool; stop it, and remove its DIR")


@app.command()
def rotate(directory: Directory, as_json: AsJson = False) -> None:
    """Give this node another key and certificate; the old one is taken back."""
    from vpool.clustering import ask

    serial = ask(directory, "rotate")
    _say({"serial": serial}, as_json, f"this node's certificate is {serial} now")
