"""``vpool volume move`` and ``vpool node drain``: volumes and files go to other nodes while they are in use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vpool.errors import Conflict


def move(path: str, node: str, directory: Path | None, *, as_json: bool, route: str = "/v1/moves") -> None:
    """Have a volume (a file: ``/v1/file-moves``) move, and show how far it is. Ctrl-C gives it up, if it is not decided yet."""
    from vpool.cli.client import Client
    from vpool.cli.contents import events
    from vpool.cli.progress import progress_bar

    client = Client.find(directory)
    with progress_bar(f"move {path}", 0) as advance:
        for event in events(client.directory, route, {"path": path, "node": node}):
            if event["event"] == "moving":
                advance(event["came"], event["state"], max(event["wanted"], event["came"]))
    outcome = {key: value for key, value in event.items() if key != "event"}
    print(json.dumps(outcome)) if as_json else print(f"{outcome['path']} is node {outcome['node']}'s now")


def drain(node: str, directory: Path | None, *, undo: bool, as_json: bool) -> None:
    """Have all volumes and files of a node move to others; or end that.

    Raises:
        Conflict: some could not be moved.
    """
    from vpool.cli.client import Client
    from vpool.cli.contents import events

    client = Client.find(directory)
    if undo:
        report = client.post("/v1/drains/end", {"node": node})
        print(json.dumps(report, indent=2)) if as_json else print(f"node {report['node']} is given volumes and files again")
        return
    for event in events(client.directory, "/v1/drains", {"node": node}):
        if event["event"] == "drained" and not as_json:
            print(_said(event))
    outcome = {key: value for key, value in event.items() if key != "event"}
    left = [each for each in (*outcome["volumes"], *outcome["files"]) if each["problem"]]
    if as_json:
        print(json.dumps(outcome))
    elif not left:
        print(f"node {outcome['node']} owns no volume and no file any more, and is given none")
    if left:
        of = len(outcome["volumes"]) + len(outcome["files"])
        raise Conflict(f"{len(left)} of {of} volumes and logs of files have not moved; the node is given no others", node=node)


def _said(event: dict[str, Any]) -> str:
    what = f"log of files {event['object']}" if event.get("is_files") else f"object {event['object']}"
    return f"{what}: {event['problem']}" if event["problem"] else f"{what} is node {event['owner']}'s now"
