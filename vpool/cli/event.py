"""``vpool event``: what has happened on a node."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from vpool.cli.options import AsJson, Directory

app = typer.Typer(help="What has happened on a node.", no_args_is_help=True)

FOLLOW_WAIT_S = 20


@app.callback()
def event() -> None:
    """What has happened on a node."""


@app.command(name="list")
def list_events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens from now, until Ctrl-C.")] = False,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only later ones: how long ago, as in 90s, 10m, 7d, or 2026-03-01T12:00.")
    ] = None,
    after: Annotated[int, typer.Option(metavar="NUMBER", min=0, help="Only those with a higher number.")] = 0,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="The newest so many.")] = 100,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """List events, oldest first; also those of a DIR whose daemon does not run."""
    from vpool.cli.client import Client
    from vpool.durations import parse_moment
    from vpool.errors import NotFound

    oldest = 0.0 if since is None else parse_moment(since, now=time.time())
    try:
        client = Client.find(directory)
        report = client.get(f"/v1/events?after={after}&since={oldest}&limit={limit}")
    except NotFound:
        if directory is None or follow:
            raise
        _show_stored(directory, after, oldest, limit, as_json)
        return
    if not follow and as_json:
        print(json.dumps(report, indent=2))
        return
    for found in report["events"]:
        _show(found, as_json)
    if follow:
        for found in _coming(client, report["last"]):
            _show(found, as_json)


def _coming(client: Any, last: int) -> Iterator[dict[str, Any]]:
    """Events behind a number as they come, for ever."""
    while True:
        report = client.get(f"/v1/events?after={last}&limit=10000&wait_s={FOLLOW_WAIT_S}")
        yield from report["events"]
        last = max([last, *(found["number"] for found in report["events"])])


def _show_stored(directory: Path, after: int, since: float, limit: int, as_json: bool) -> None:
    from admin.watching.event_ring import stored_events
    from vpool.errors import NotFound

    if not (directory / "events").is_dir():
        raise NotFound(f"no vPool daemon answers in {directory}, and no events are stored there")
    events = stored_events(directory / "events", after=after, since=since, limit=limit)
    if as_json:
        print(json.dumps({"events": events, "last": events[-1]["number"] if events else after}, indent=2))
        return
    for found in events:
        _show(found, as_json)


def _show(found: dict[str, Any], as_json: bool) -> None:
    from vpool.durations import show_moment

    if as_json:
        print(json.dumps(found), flush=True)
        return
    fields = " ".join(
        f"{key}={value if isinstance(value, str) and value and ' ' not in value else json.dumps(value)}"
        for key, value in found.items()
        if key not in ("number", "at", "event", "level")
    )
    print(f"{found['number']:>6}  {show_moment(found['at'])}  {found['level']:<7}  {found['event']}  {fields}", flush=True)
