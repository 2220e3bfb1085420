"""``vpool volume``: make, list, show and delete virtual disks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vpool.cli import takeover
from vpool.cli.options import AsJson, Directory

app = typer.Typer(help="Virtual disks.", no_args_is_help=True)

FormatOption = Annotated[
    str | None, typer.Option("--format", metavar="raw|qcow2", help="Of the image; by default what its name says.")
]
WhileOpen = Annotated[
    bool, typer.Option("--while-open", help="Also while clients have the volume open; the result may then be of no one moment.")
]
TrustSource = Annotated[
    bool, typer.Option("--trust-source", help="Go on although the daemon was restarted since; nothing has written meanwhile.")
]
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
    from vpool.cli.client import Client, contents_path, volume_path

    client = Client.find(directory)
    report = client.get(volume_path(path))
    report["filling"] = client.get(contents_path(path))["filling"] if report["state"] == "serving" else None
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
def steal(
    path: PathArgument,
    accept_loss: takeover.AcceptLoss = False,
    powered_off: takeover.PoweredOff = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Take a volume over from a node that is dead: one whose lease is over. Run it where the volume is to be served."""
    takeover.run({"path": path}, accept_loss, powered_off, directory, as_json=as_json)


@app.command()
def move(
    path: PathArgument,
    to: Annotated[str, typer.Option("--to", metavar="NODE", help="Id of the node that is to have it, or the id's beginning.")],
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Have another node own a volume, while it is in use. Ctrl-C gives the move up, if it is not decided yet."""
    from vpool.cli import moving

    moving.move(path, to, directory, as_json=as_json)


@app.command()
def dtl(
    path: PathArgument,
    sync: Annotated[bool, typer.Option("--sync", help="A flush waits until a second node has it, too.")] = False,
    asynchronous: Annotated[
        bool, typer.Option("--async", help="A second node follows, behind by dtl.lag_bytes and dtl.lag_s at most.")
    ] = False,
    off: Annotated[bool, typer.Option("--off", help="No second node: a lost host loses what the backend lacks.")] = False,
    peer: Annotated[str, typer.Option(metavar="NODE", help="Who is to be the second node; by default one is chosen.")] = "",
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show or change whether, and by whom, a volume's tail is kept a second time. Changed on the node that owns the volume."""
    from vpool.cli import show
    from vpool.cli.client import Client, volume_path
    from vpool.errors import Invalid

    if sync + asynchronous + off > 1:
        raise Invalid("--sync, --async and --off exclude each other")
    client = Client.find(directory)
    mode = "off" if off else "sync" if sync else "async" if asynchronous else None
    order: dict[str, object] = {"path": path, "mode": mode, "peer": peer}
    report = client.post("/v1/dtl", order) if mode or peer else client.get(volume_path(path))
    print(json.dumps(report, indent=2)) if as_json else show.dtl(report)


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


@app.command(context_settings={"ignore_unknown_options": True})
def resize(
    path: PathArgument,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="The new size; as for create.")],
    shrink: Annotated[bool, typer.Option("--shrink", help="A smaller size is meant: what lies beyond it is lost.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Make a volume larger or, with --shrink, smaller; durable when the command ends."""
    from vpool.cli import show
    from vpool.cli.client import Client
    from vpool.sizes import parse_size

    wanted = {"path": path, "size": parse_size(size), "shrink": shrink}
    report = Client.find(directory).post("/v1/resizings", wanted)
    print(json.dumps(report, indent=2)) if as_json else show.volume(report)


@app.command()
def verify(
    path: PathArgument,
    patience: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="How long a 404 is not believed; by default volumes.lost_object_s."),
    ] = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Read every live cluster again, here and in the backend, and say what is damaged or lost. Exit code 9 if anything is."""
    from vpool.cli import verifying
    from vpool.cli.client import Client

    verifying.verify(Client.find(directory), path, patience, as_json=as_json)


@app.command()
def copy(
    path: PathArgument,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Path of the new volume.")],
    while_open: WhileOpen = False,
    trust_source: TrustSource = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Copy a whole volume; holes and zeros cost nothing. Interrupted, the same command goes on where it was."""
    from vpool.cli.client import Client
    from vpool.cli.contents import events
    from vpool.cli.progress import progress_bar
    from vpool.sizes import show_size

    client = Client.find(directory)
    wanted: dict[str, object] = {"path": path, "target": target, "while_open": while_open, "trust_source": trust_source}
    with progress_bar(f"copy {path}", 0) as advance:
        for event in events(client.directory, "/v1/copies", wanted):
            if event["event"] == "progress":
                advance(event["position"], event["waiting_for"], event["size"])
    outcome = {key: value for key, value in event.items() if key != "event"}
    said = f"copied {path} to {outcome['path']}: {show_size(outcome['size'])}, {show_size(outcome['copied_bytes'])} not zeros"
    print(json.dumps(outcome)) if as_json else print(said)


@app.command(name="import")
def import_volume(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A raw or qcow2 file, or a block device.")],
    path: Annotated[str, typer.Argument(metavar="PATH", help="Of the new volume, as in machines/web.raw.")],
    format_: FormatOption = None,
    with_backing: Annotated[
        bool, typer.Option("--with-backing", help="Follow the backing files that a qcow2 image names; only if you trust it.")
    ] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Make a volume from an image. Interrupted, the same command goes on where it was; until it ends the volume is marked."""
    from vpool.cli.client import Client
    from vpool.cli.transfer import import_image
    from vpool.sizes import show_size

    outcome = import_image(Client.find(directory), image, path, format_, with_backing=with_backing)
    said = f"imported {outcome['path']}: {show_size(outcome['size'])}, {show_size(outcome['sent_bytes'])} not zeros"
    print(json.dumps(outcome)) if as_json else print(said)


@app.command(name="export")
def export_volume(
    path: PathArgument,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The file to make.")],
    format_: FormatOption = None,
    while_open: WhileOpen = False,
    trust_source: TrustSource = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Make an image from a volume. Until it is complete it is named IMAGE.part; interrupted, the same command goes on."""
    from vpool.cli.client import Client
    from vpool.cli.transfer import export_image
    from vpool.sizes import show_size

    client = Client.find(directory)
    outcome = export_image(client, path, image, format_, while_open=while_open, trust_source=trust_source)
    said = f"exported {path} to {image}: {show_size(outcome['size'])}, {outcome['format']}"
    print(json.dumps(outcome)) if as_json else print(said)
