"""Reports of the management API for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vpool.sizes import show_size

Report = dict[str, Any]

_console = Console(highlight=False)


def facts(rows: list[tuple[str, str]]) -> None:
    """Names and values, one under the other."""
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(f"[dim]{name}[/dim]", value)
    _console.print(table)


def _dirty(report: Report) -> str:
    if not report["dirty_bytes"]:
        return "nothing"
    return f"{show_size(report['dirty_bytes'])}, the oldest for {report['oldest_dirty_age_s']:.1f} s"


def created(report: Report) -> None:
    """A volume that has just been made."""
    _console.print(f"created {escape(report['path'])}: {show_size(report['size'])}, object {report['object']}", soft_wrap=True)


def volumes(reports: list[Report]) -> None:
    """A table of volumes."""
    if not reports:
        _console.print("no volumes yet; make one with: vpool volume create NAME.raw 10G")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("path", "size", "state", "open", "not in the backend yet", "DTL"):
        table.add_column(heading, justify="left" if heading in ("path", "state", "DTL") else "right")
    for report in reports:
        table.add_row(
            escape(report["path"]), show_size(report["size"]), report["state"], str(report["handles"]), _dirty(report),
            report.get("dtl", "off"),
        )  # fmt: skip
    _console.print(table)


def volume(report: Report) -> None:
    """One volume."""
    filling = report.get("filling")
    unfinished = filling and f"{filling['kind']} of {filling['source']}, {filling['done_bytes'] * 100 // filling['size']} % done"
    facts(
        [
            ("path", escape(report["path"])),
            ("size", f"{show_size(report['size'])} ({report['size']} bytes)"),
            ("state", report["state"]),
            ("halted", escape(report["halted_reason"]) or "no"),
            ("object", report["object"]),
            ("epoch", str(report["epoch"])),
            ("head", f"TLog {report['head_tlog']}" if report["head_tlog"] else "nothing in the backend yet"),
            ("not in the backend yet", _dirty(report)),
            ("open", f"{report['handles']} handles"),
            ("DTL", _dtl(report)),
        ]
        + ([("not complete", f"[yellow]{escape(unfinished)}[/yellow]")] if unfinished else [])
    )


def _dtl(report: Report) -> str:
    state, peer = report.get("dtl", "off"), report.get("dtl_peer", "")
    if state == "off":
        return "off"
    way = "asynchronous, " if report.get("dtl_mode") == "async" else ""
    return f"{way}{state}, peer {peer}{_lag(report)}" if peer else f"{way}{state}, no peer yet"


def _lag(report: Report) -> str:
    if not report.get("dtl_lag"):
        return ""
    size, seconds = show_size(report.get("dtl_lag_bytes", 0)), report.get("dtl_lag_s", 0.0)
    return f", {report['dtl_lag']} records behind (at most {size}, {seconds:.1f} s)"


def dtl(report: Report) -> None:
    """Who keeps a volume's tail a second time."""
    facts([("path", escape(report["path"])), ("owner", report.get("owner", "") or "nobody"), ("DTL", _dtl(report))])


def status(report: Report) -> None:
    """A node at a glance."""
    daemon, backend, cache = report["daemon"], report["backend"], report["cache"]
    reachable = "reachable" if backend["reachable"] else f"[red]not reachable[/red]: {escape(backend['problem'])}"
    stalled = sorted({item["stalled"] for item in report["objects"] if item.get("stalled")})
    rows = [
        ("vPool", daemon["vpool"]),
        ("mounted on", escape(daemon["mountpoint"])),
        ("directory", escape(daemon["directory"])),
        ("daemon", f"vpool {daemon['version']}, pid {daemon['pid']}, up for {daemon['uptime_s']:.0f} s"),
        ("backend", f"{escape(backend['url'])}, {reachable}"),
        ("not in the backend yet", _dirty(report)),
        ("uploads", f"{report['uploading']} under way, {report['retries']} retries"),
        ("log", f"{show_size(cache['log_bytes_used'])} of {show_size(cache['log_bytes_max'])}"),
        ("read cache", f"{show_size(cache['read_cache_used_bytes'])} of {show_size(cache['read_cache_bytes'])}"),
        ("objects", f"{len(report['objects'])}, {report['halted']} halted"),
    ]
    rows += [
        (
            "cache disk full",
            f"[red]{escape(reason)}[/red]; make room below {escape(daemon['directory'])}/cache, nothing else is needed",
        )
        for reason in cache["full"]
    ]
    if cache["map_failure"]:
        rows.append(("local map", f"[red]{escape(cache['map_failure'])}[/red]; had anew by itself, else see vpool cache replace"))
    if cache["read_cache_failed"]:
        rows.append(("read cache", f"[yellow]off: {escape(cache['read_cache_failed'])}[/yellow]"))
    rows += [("stalled", f"[yellow]{escape(reason)}[/yellow]") for reason in stalled]
    rows += [
        ("halted", f"[red]{item['object']}[/red]: {escape(item['halted_reason'])}")
        for item in report["objects"]
        if item["halted_reason"]
    ]
    facts(rows)
