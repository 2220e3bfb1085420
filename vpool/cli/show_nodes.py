"""Reports on nodes for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vpool.cli.show import facts
from vpool.sizes import show_size

Report = dict[str, Any]

_console = Console(highlight=False)


def nodes(reports: list[Report]) -> None:
    """A table of nodes."""
    table = Table(box=None, pad_edge=False)
    for heading in ("node", "host", "role", "status", "lease", "volumes", "in sync", "release"):
        table.add_column(heading, justify="right" if heading in ("volumes", "in sync") else "left")
    for report in reports:
        marks = [mark for mark, holds in (("leads", report["leads"]), ("this", report["this"])) if holds]
        table.add_row(
            report["id"][:12],
            escape(report["name"]),
            ", ".join([report["role"], *marks]),
            report["status"],
            _lease(report),
            str(report["volumes"]),
            str(report["in_sync"]),
            escape(report["release"]),
        )
    _console.print(table)


def node(report: Report) -> None:
    """One node."""
    lag = report["lag_entries"]
    facts(
        [
            ("node", report["id"] + (" (this one)" if report["this"] else "")),
            ("host", escape(report["name"]) or "unknown"),
            ("address", report["address"] or "none: the vPool is no cluster"),
            ("role", ", ".join(filter(None, [report["role"], report["state"], "leads" if report["leads"] else ""]))),
            ("link", "up" if report["connected"] else f"down: {escape(report['problem'])}"),
            ("status", report["status"]),
            ("lease", _lease(report)),
            ("incarnation", str(report["incarnation"])),
            ("registry's log", "ask the node that leads" if lag is None else f"{lag} entries behind"),
            ("room in its cache", "unknown" if report["room_bytes"] is None else show_size(report["room_bytes"])),
            ("release", escape(report["release"]) or "unknown"),
            ("owns", f"{report['volumes']} volumes, {report['file_logs']} logs of files, {report['in_sync']} of both in sync"),
            ("remains here", f"of {report['remains']} objects that it has lost" if report["remains"] else "none"),
        ]
    )
    if report["owns"]:
        table = Table(box=None, pad_edge=False)
        for heading in ("path", "kind", "state", "epoch", "DTL", "peer"):
            table.add_column(heading, justify="right" if heading == "epoch" else "left")
        for owned in report["owns"]:
            name = escape(owned["path"]) or owned["object"]
            table.add_row(name, owned["kind"], owned["state"], str(owned["epoch"]), owned["dtl"], owned["dtl_peer"])
        _console.print(table)


def _lease(report: Report) -> str:
    if report["lease"] == "held":
        return f"held, {report['lease_s']} s left" if report["this"] else "held"
    return f"silent for {report['lease_s']} s" if report["lease"] == "silent" else str(report["lease"])
