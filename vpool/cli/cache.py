"""``vpool cache``: the disk below DIR/cache, made redundant and replaced."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpool.cli.options import AsJson, Directory
from vpool.errors import NotFound
from vpool.exitcodes import LEFT_IN_CACHE

if TYPE_CHECKING:
    from vpool.cli.client import Client

app = typer.Typer(help="The disk of DIR/cache.", no_args_is_help=True)

EVACUATION = "/v1/cache/evacuation"
POLL_S = 0.5
MARGIN_S = 600.0  # for opening all volumes again

WaitS = Annotated[float | None, typer.Option("--wait-s", min=0, help="Give up after so many seconds; by default never.")]


@app.callback()
def cache() -> None:
    """The disk of DIR/cache."""


@app.command()
def evacuate(wait_s: WaitS = None, directory: Directory = None, as_json: AsJson = False) -> None:
    """Send everything to the backend that only the cache has, and say what is left. Ends with exit code 14 if that is something.

    What clients write meanwhile is left, too. To take the disk away, stop the daemon or replace the cache.
    """
    from vpool.cli.client import Client

    report = _evacuated(Client.find(directory), wait_s)
    print(json.dumps(report, indent=2)) if as_json else _show(report)
    if report["running"] or report["bytes_left"] or report["unopened"]:
        raise typer.Exit(LEFT_IN_CACHE)


@app.command()
def replace(
    new: Annotated[
        Path | None, typer.Argument(metavar="[NEWDIR]", help="Where the cache is from now on; by default where it is, emptied.")
    ] = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Also when the backend has not got everything; that is gone then.")
    ] = False,
    send_s: Annotated[
        float, typer.Option("--send-s", min=1, max=3600, help="How long clients may wait while the rest is sent.")
    ] = 30.0,
    configuration: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings, as TOML; needed only without a daemon.")
    ] = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Stop using the cache directory and begin with an empty one, there or elsewhere.

    A running daemon does it without a restart: its clients wait for some seconds. Without a daemon --dir is needed.
    """
    from vpool.cli.client import Client

    wanted = new.absolute() if new is not None else None
    try:
        client = Client.find(directory)
        client.get(EVACUATION)
    except NotFound:
        if directory is None:
            raise
        report = _offline(directory, wanted, configuration, accept_loss)
    else:
        body: dict[str, object] = {"path": str(wanted) if wanted else None, "accept_loss": accept_loss, "send_s": send_s}
        client.post("/v1/cache/replacements/check", body)
        if not accept_loss:
            _evacuated(client, None)  # the most of it while clients go on
        report = client.post("/v1/cache/replacements", body, timeout_s=send_s + MARGIN_S)
    print(json.dumps(report, indent=2)) if as_json else _show_replaced(report)


def _evacuated(client: Client, wait_s: float | None) -> dict[str, Any]:
    """Begin, and follow it to its end, or for ``wait_s``."""
    from vpool.cli.progress import progress_bar

    report: dict[str, Any] = client.post(EVACUATION, {})
    size, began = report["bytes_at_start"], time.monotonic()
    with progress_bar("sending", size) as advance:
        while report["running"] and (wait_s is None or time.monotonic() - began < wait_s):
            reasons = sorted({each["reason"] for each in report["left"]})
            advance(max(0, size - report["bytes_left"]), reasons[0] if reasons else "")
            time.sleep(POLL_S)
            report = client.get(EVACUATION)
    return report


def _offline(directory: Path, new: Path | None, configuration: Path | None, accept_loss: bool) -> dict[str, Any]:
    from vpool.cache_offline import replace_offline
    from vpool.settings_file import load_settings

    settings = load_settings(configuration)
    made = replace_offline(directory.absolute(), new, needed_bytes=settings.cache.size_bytes, accept_loss=accept_loss)
    lost = [{"path": "", "object": each.object, "bytes": each.bytes, "reason": each.reason} for each in made.lost]
    return {"path": str(made.path), "old": str(made.old or ""), "lost": lost, "unreadable": made.unreadable}


def _show(report: dict[str, Any]) -> None:
    from vpool.sizes import show_size

    if not (report["running"] or report["bytes_left"] or report["unopened"]):
        print("everything in DIR/cache is in the backend, too")
        return
    print(f"{show_size(report['bytes_left'])} are nowhere but in DIR/cache:")
    _show_left(report["left"])
    for object_id in report["unopened"]:
        print(f"  {object_id}: it could not be opened, what it has is not known; see vpool status")


def _show_left(left: list[dict[str, Any]]) -> None:
    from vpool.sizes import show_size

    for each in left:
        print(f"  {each['path'] or each['object']}: {show_size(each['bytes'])}, {each['reason']}")


def _show_replaced(report: dict[str, Any]) -> None:
    print(f"the cache is empty now, in {report['path']}")
    if report["old"]:
        print(f"what was in the old one is in {report['old']}; it may be removed")
    if report["lost"]:
        print("given up, and gone back to what the backend has:", file=sys.stderr)
        _show_left(report["lost"])
