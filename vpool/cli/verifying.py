"""``vpool volume verify``: shows a verification that runs in the daemon."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from vpool.cli.client import Client
from vpool.cli.contents import events
from vpool.cli.progress import progress_bar
from vpool.errors import Corrupt
from vpool.sizes import show_size

SECTOR_BYTES = 512


def verify(client: Client, path: str, patience_s: float | None, *, as_json: bool) -> None:
    """Run it. Corrupt: something is damaged or lost; what, has been printed."""
    damages: list[dict[str, Any]] = []
    last: dict[str, Any] = {"local_bytes": 0, "backend_bytes": 0}
    outcome: dict[str, Any] = {}
    with progress_bar(f"verify {path}", 0) as advance:
        for event in events(client.directory, "/v1/verifications", {"path": path, "patience_s": patience_s}):
            fields = {key: value for key, value in event.items() if key != "event"}
            if event["event"] == "progress":
                last = fields
                advance(fields["position"], fields["waiting_for"], fields["size"])
            elif event["event"] == "damage":
                damages.append(fields)
            else:
                outcome = fields
    lost = _joined([damage for damage in damages if damage["lost"]])
    lost_bytes = sum(length for _, length in lost)
    report = {
        **outcome,
        "local_bytes": last["local_bytes"],
        "backend_bytes": last["backend_bytes"],
        "lost": [{"offset": start, "length": length} for start, length in lost],
        "damages": damages,
    }
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _show(path, report)
    if lost:
        raise Corrupt(f"{path} has lost {show_size(lost_bytes)}", ranges=len(lost))
    if damages:
        raise Corrupt(f"{path} has damaged copies; nothing is lost yet", copies=len(damages))


def _joined(damages: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Ranges in order, neighbours together."""
    ranges: list[tuple[int, int]] = []
    for start, length in sorted((damage["offset"], damage["length"]) for damage in damages):
        if ranges and ranges[-1][0] + ranges[-1][1] >= start:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], start + length - ranges[-1][0]))
        else:
            ranges.append((start, length))
    return ranges


def _show(path: str, report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    compared = f"{show_size(report['backend_bytes'])} in the backend, {show_size(report['local_bytes'])} in the local log"
    console.print(f"compared {compared}", soft_wrap=True)
    if not report["damages"]:
        console.print(f"{path} is whole")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("first sector", "sectors", "state", "copy", "why"):
        table.add_column(heading, overflow="fold")
    for damage in report["damages"]:
        place = damage["object"] if damage["place"] == "backend" else "log of this host"
        state = "lost" if damage["lost"] else "another copy is good" if damage["length"] else "a restart needs it"
        first, count = damage["offset"] // SECTOR_BYTES, damage["length"] // SECTOR_BYTES
        table.add_row(str(first) if count else "–", str(count) if count else "–", state, place, damage["reason"])
    console.print(table)
