"""``python -m bench``: measure, print the table, write the JSON file; ``--page``: docs/performance.md from a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.backends import beyond_the_cache, streaming
from bench.cluster import registry_of_three
from bench.engines import engine_rows
from bench.failover import failed_over
from bench.files import small_files
from bench.hosts import forwarded
from bench.measure import Row, shown
from bench.mounts import QUICK, Effort, against_null, against_raw, sequential
from bench.page import page
from bench.restarts import one_tebibyte

GROUPS: dict[str, Callable[[Path, Effort], list[Row]]] = {
    "engine": engine_rows,
    "fuse": against_null,
    "sync": against_raw,
    "sequential": sequential,
    "backend": streaming,
    "beyond-cache": beyond_the_cache,
    "restart": one_tebibyte,
    "files": small_files,
    "cluster": registry_of_three,
    "hosts": forwarded,
    "failover": failed_over,
}


def table(rows: list[Row]) -> Table:
    """The rows as a terminal shows them."""
    made = Table(title="vPool against references of the same run (medians)")
    for column, side in (("what", "left"), ("value", "right"), ("reference", "right"), ("ratio", "right"), ("target", "right")):
        made.add_column(column, justify=side)  # type: ignore[arg-type]
    made.add_column("")
    for row in rows:
        reference = f"{shown(row.reference_value, row.unit)} ({row.reference})" if row.reference_value is not None else ""
        ratio = f"{row.ratio:.2f} ×" if row.ratio is not None else ""
        hit = "[green]hit[/]" if row.met else "[red]miss[/]"
        target = row.target.text(ratio=row.ratio is not None)
        made.add_row(row.what, shown(row.value, row.unit), reference, ratio, target, hit)
    return made


def measure(arguments: argparse.Namespace, console: Console) -> int:
    """Run the groups; what one cannot do does not keep the others from running."""
    effort = QUICK if arguments.quick else Effort()
    rows: list[Row] = []
    failed: dict[str, str] = {}
    began, load = time.time(), os.getloadavg()[2]
    arguments.directory = arguments.directory.resolve()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for name in arguments.groups or GROUPS:
        console.print(f"[dim]{name} …[/]")
        work = Path(tempfile.mkdtemp(prefix="bench-", dir=arguments.directory))
        try:
            rows += GROUPS[name](work, effort)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
            console.print(f"[red]{name} failed:[/] {failed[name]}", markup=True, highlight=False)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    console.print(table(rows))
    machine = {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    report = {
        "format": 1,
        "quick": arguments.quick,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began),
        "machine": {**machine, "load_before": load},
        "failed": failed,
        "rows": [row.as_dict() for row in rows],
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(
        f"written to {arguments.json}; a page of it: python -m bench --page docs/performance.md --json {arguments.json}"
    )
    return 1 if failed else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"some of: {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a minute, to see that everything runs; figures mean nothing")
    parser.add_argument(
        "--json", type=Path, default=Path("target/bench.json"), help="where the figures go (default: %(default)s)"
    )
    parser.add_argument("--directory", type=Path, default=Path("target"), help="on the disk to measure (default: %(default)s)")
    parser.add_argument("--page", type=Path, help="measure nothing: write this page from the JSON file")
    arguments = parser.parse_args()
    unknown = set(arguments.groups) - set(GROUPS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    if arguments.page is not None:
        arguments.page.write_text(page(json.loads(arguments.json.read_text(encoding="utf-8"))), encoding="utf-8")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # undo mounts on the way out
    return measure(arguments, Console())


if __name__ == "__main__":
    sys.exit(main())
