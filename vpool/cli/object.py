"""``vpool object``: what is in the backend, and why."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from vpool.cli.options import AsJson, Directory

app = typer.Typer(help="Buckets and objects in the backend, and why they are there.", no_args_is_help=True)

STATES = ("live", "garbage", "history", "uploading", "stale", "unknown")


@app.command(name="list")
def list_objects(
    place: Annotated[
        str | None, typer.Argument(metavar="BUCKET", help="A bucket, a volume's UUID or its path; without one: all buckets.")
    ] = None,
    state: Annotated[str | None, typer.Option(metavar="STATE", help=f"Only those that are {', '.join(STATES)}.")] = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """List buckets, or the objects of one with what they are for. The look at a volume's map opens the volume."""
    from vpool.cli.client import Client
    from vpool.errors import Invalid

    if state is not None and state not in STATES:
        raise Invalid(f"there is no state {state!r}; choose one of {', '.join(STATES)}")
    client = Client.find(directory)
    if place is None:
        report = client.get("/v1/buckets")
        print(json.dumps(report, indent=2)) if as_json else _show_buckets(report["buckets"])
        return
    _list_objects(client, place, state, as_json)


def _show_buckets(buckets: list[dict[str, Any]]) -> None:
    for bucket in buckets:
        print(f"{bucket['bucket']:<44} {bucket['what']:<8} {bucket['why']}")
    if not buckets:
        print("no buckets yet")


def _list_objects(client: Any, place: str, state: str | None, as_json: bool) -> None:
    from vpool.cli.contents import events
    from vpool.cli.progress import progress_bar
    from vpool.sizes import show_size

    found: list[dict[str, Any]] = []
    with progress_bar(f"look at {place}", 0) as advance:
        for event in events(client.directory, "/v1/listings", {"place": place}):
            fields = {key: value for key, value in event.items() if key != "event"}
            if event["event"] == "progress":
                advance(fields["position"], "", fields["size"])
            elif event["event"] == "listed" and state in (None, fields["state"]):
                found.append(fields) if as_json else print(_line(fields))
    if as_json:
        print(json.dumps({**fields, "listed": found}, indent=2))
        return
    for kind, count in sorted(fields["objects"].items()):
        print(f"# {kind}: {count} objects, {show_size(fields['bytes'][kind])}")
    if not fields["objects"]:
        print(f"{fields['bucket']} is empty")


def _line(listed: dict[str, Any]) -> str:
    return f"{listed['state']:<9} {listed['size']:>9} {listed['name']:<39} {listed['why']}"


@app.command()
def show(
    bucket: Annotated[str, typer.Argument(metavar="BUCKET", help="As vpool object list shows it.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the object.")],
    all_rows: Annotated[bool, typer.Option("--all", help="All rows of every table, not only the first.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show why an object is there and what it says; checks its checksums. Exit code 9 if it is damaged."""
    from vpool.cli import inspect as inspecting
    from vpool.cli.client import Client
    from vpool.cli.contents import Contents
    from vpool.errors import Invalid
    from vpool.inspecting import Findings, inspect_bytes

    client = Client.find(directory)
    address = f"{quote(bucket, errors='surrogateescape')}/{quote(name, errors='surrogateescape')}"
    judged = client.get(f"/v1/judgements/{address}")
    with Contents(client.directory) as contents:
        data = contents.object(address)
    try:
        findings = inspect_bytes(data, name, rows_max=1 << 60 if all_rows else 20)
    except Invalid:
        findings = Findings("no format that vPool writes")
    findings.fields = {"bucket": bucket, "object": name, "bytes": len(data), "state": judged["state"], "why": judged["why"]} | {
        f"says {key}" if key in ("object", "state") else key: value for key, value in findings.fields.items()
    }
    inspecting.show(findings, name, as_json=as_json)
