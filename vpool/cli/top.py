"""``vpool top``: what a node's volumes are doing, live."""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpool.cli.options import AsJson, Directory

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vpool.cli.top_frame import Frame, Line, Rate

INTERVAL_S_MIN, INTERVAL_S_MAX = 0.2, 60.0
KEYS = "q quit · s sort · p pause · + − interval"


def top(
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=INTERVAL_S_MIN, max=INTERVAL_S_MAX, help="Between two looks.")
    ] = 2.0,
    sort: Annotated[str, typer.Option(metavar="BY", help="requests, bytes, latency, dirty or path.")] = "requests",
    once: Annotated[bool, typer.Option("--once", help="One frame, then end; so it is without a terminal.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show what each volume is doing: requests, bytes, latency, what is not in the backend yet. Ends with q."""
    from vpool.cli.client import Client
    from vpool.cli.top_frame import SORTS, frame_of
    from vpool.errors import Invalid

    if sort not in SORTS:
        raise Invalid(f"{sort!r} is nothing to sort by; there are {', '.join(SORTS)}")
    client = Client.find(directory)
    if not as_json and not once and sys.stdin.isatty() and sys.stdout.isatty():
        _live(client, interval, sort)
        return
    before = client.get("/v1/top")
    time.sleep(interval)
    frame = frame_of(before, client.get("/v1/top"), sort=sort)
    if as_json:
        print(json.dumps(frame.as_dict(), indent=2))
        return
    from rich.console import Console

    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(picture(frame, sort))


def _live(client: Any, interval: float, sort: str) -> None:
    from rich.live import Live

    from vpool.cli.top_frame import SORTS, frame_of

    before = client.get("/v1/top")
    after, paused = before, False
    with _keys() as pressed, Live(screen=True, auto_refresh=False) as screen:
        end = time.monotonic()
        while True:
            shown = frame_of(before, after, sort=sort)
            screen.update(picture(shown, sort, f"{KEYS} · {interval:g} s{' · paused' if paused else ''}"), refresh=True)
            end += interval
            key = pressed(max(0.0, end - time.monotonic()))
            if key in ("q", "Q", "\x1b", "\x03"):
                return
            if key == "s":
                names = list(SORTS)
                sort = names[(names.index(sort) + 1) % len(names)]
            elif key == "p":
                paused = not paused
            elif key in ("+", "="):
                interval = min(INTERVAL_S_MAX, interval * 2)
            elif key == "-":
                interval = max(INTERVAL_S_MIN, interval / 2)
            if key:
                end = time.monotonic()
            elif not paused:
                before, after = after, client.get("/v1/top")


@contextmanager
def _keys() -> Iterator[Any]:
    """Single keys of the terminal; the block calls what it gets with seconds to wait for one ("" when none came)."""
    import os
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)

        def pressed(seconds: float) -> str:
            readable, _, _ = select.select([terminal], [], [], seconds)
            return os.read(terminal, 1).decode("latin-1") if readable else ""

        yield pressed
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def picture(frame: Frame, sort: str, footer: str = "") -> RenderableType:
    """A frame as it is shown."""
    from rich.console import Group
    from rich.text import Text

    return Group(*_head(frame), Text(), _table(frame, sort), Text(), Text(footer, style="dim"))


def _head(frame: Frame) -> list[RenderableType]:
    from rich.text import Text

    from vpool.durations import show_duration, show_moment
    from vpool.sizes import show_size

    report = frame.report
    colour = {"ok": "green", "warning": "yellow", "critical": "red"}[report["severity"]]
    problems = f": {', '.join(report['problems'])}" if report["problems"] else ""
    return [
        Text.assemble(
            f"vPool  {show_moment(frame.at)}  up {show_duration(report['uptime_s'])}  ",
            (f"{report['severity']}{problems}", colour),
        ),
        Text(
            f"log {_used(report['log_used_bytes'], report['log_limit_bytes'])}   "
            f"read cache {_used(report['read_cache_used_bytes'], report['read_cache_limit_bytes'])}   "
            f"memory {show_size(report['anonymous_bytes'])}"
        ),
        Text(
            f"backend  sent {_mebibytes(frame.sent_per_s)} MiB/s  received {_mebibytes(frame.received_per_s)} MiB/s   "
            f"uploads {report['uploads']} + {report['uploads_queued']} queued   "
            f"fetches {report['fetches']} + {report['fetches_queued']} queued   retries {frame.retries_per_s:.1f}/s"
        ),
    ]


def _table(frame: Frame, sort: str) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("volume" + (" ↓" if sort == "path" else ""), no_wrap=True, overflow="ellipsis")
    marks = {"requests": " ↓" if sort == "requests" else "", "bytes": " ↓" if sort == "bytes" else ""}
    for name in ("read", "write"):
        table.add_column(f"{name}/s{marks['requests']}", justify="right")
        table.add_column(f"MiB/s{marks['bytes']}", justify="right")
        table.add_column("ms (p99)" + (" ↓" if sort == "latency" else ""), justify="right", no_wrap=True)
    table.add_column("flush/s", justify="right")
    table.add_column("ms (p99)", justify="right", no_wrap=True)
    table.add_column("dirty" + (" ↓" if sort == "dirty" else ""), justify="right", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("hit", justify="right")
    table.add_column("")
    table.add_row(*_cells(frame.total), style="bold")
    for line in frame.lines:
        table.add_row(*_cells(line), style="red" if line.state == "halted" else "dim" if line.state == "closed" else "")
    return table


def _cells(line: Line) -> list[Any]:
    from rich.text import Text

    from vpool.durations import show_duration
    from vpool.sizes import show_size

    remark = f"{line.waiting_writers} writers wait" if line.waiting_writers else "stalled" if line.stalled else ""
    if line.state == "halted":
        remark = "halted"
    return [
        Text(line.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")),
        f"{line.read.per_s:,.0f}",
        _mebibytes(line.read.bytes_per_s),
        _latency(line.read),
        f"{line.write.per_s:,.0f}",
        _mebibytes(line.write.bytes_per_s),
        _latency(line.write),
        f"{line.flush.per_s:,.0f}",
        _latency(line.flush),
        show_size(line.dirty_bytes) if line.dirty_bytes else "",
        show_duration(line.oldest_dirty_age_s) if line.dirty_bytes else "",
        "" if line.hit_share is None else f"{100 * line.hit_share:.0f} %",
        Text(remark, style="yellow"),
    ]


def _latency(rate: Rate) -> str:
    if rate.mean_s is None or rate.p99_s is None:
        return ""
    return f"{rate.mean_s * 1000:.3g} ({rate.p99_s * 1000:.2g})"


def _mebibytes(bytes_per_s: float) -> str:
    return f"{bytes_per_s / (1 << 20):.1f}"


def _used(part: int, whole: int) -> str:
    from vpool.sizes import show_size

    return f"{show_size(part)} of {show_size(whole)}" + (f" ({100 * part / whole:.0f} %)" if whole else "")
