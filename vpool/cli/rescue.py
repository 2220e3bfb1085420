"""``vpool recover`` and ``vpool registry``: for when a registry is lost, or may be."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpool.cli.options import AsJson

if TYPE_CHECKING:
    from recovery import LogFinding, Namespace, RecoveryPlan, Tell
    from registry.tables import Tables
    from vpool.rescue import Rescued

app = typer.Typer(help="Copies of a node's registry.", no_args_is_help=True)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Configuration = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings, as TOML.")]
WORDS = {
    "kept": "as in the copy of the registry",
    "advanced": "further than in the copy of the registry",
    "empty": "without anything in the backend yet",
    "missing": "with nothing left in the backend, though there was",
    "found": "not in the copy of the registry: under lost+found",
    "deleted": "deleted, by a tombstone",
    "unusable": "found, but without a history: left alone",
}


def recover(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="An empty directory, or one that is not there yet.")],
    backend: Annotated[
        str | None, typer.Option(help="The address that the vPool was run with; by default DIR/backend, where that is.")
    ] = None,
    vpool: Annotated[str | None, typer.Option(metavar="ID", help="Which vPool, where the backend has several.")] = None,
    dry_run: DryRun = False,
    configuration: Configuration = None,
    as_json: AsJson = False,
) -> None:
    """Make a lost registry anew from the buckets alone. The daemon that had them must never run again."""
    import trio

    from vpool.logs import set_up_logs
    from vpool.rescue import recover as run
    from vpool.settings_file import load_settings

    settings = load_settings(configuration)
    set_up_logs(settings.log)

    async def work() -> Rescued:
        with _progress() as tell:
            return await run(
                directory.absolute(),
                backend,
                vpool=vpool,
                settings=settings,
                dry_run=dry_run,
                show=_nothing if as_json else _show,
                tell=tell,
            )

    _report(trio.run(work), as_json, f"recovered; start it with: vpool up {directory} MOUNT")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Written anew; one that is there is replaced when all is well.")],
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", envvar="VPOOL_DIR", help="The node's directory; found by itself.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the registry to a file, whether a daemon runs or not: consistent, checksummed, durable when it ends."""
    from vpool.backups import write_backup
    from vpool.runtime import find_directory

    written = write_backup(directory.absolute() if directory is not None else find_directory(), file)
    if as_json:
        print(json.dumps({"file": str(file), **asdict(written)}))
    else:
        print(f"{file}: {written.items} records as of command {written.index}, {written.bytes_written} bytes")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Written by `vpool registry backup`.")],
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR", envvar="VPOOL_DIR", help="The DIR of a stopped node.")],
    dry_run: DryRun = False,
    configuration: Configuration = None,
    as_json: AsJson = False,
) -> None:
    """Put a backup's names in the place of a stopped node's registry; what is in the buckets decides how far contents go."""
    import trio

    from vpool.logs import set_up_logs
    from vpool.rescue import restore as run
    from vpool.settings_file import load_settings

    settings = load_settings(configuration)
    set_up_logs(settings.log)

    async def work() -> Rescued:
        with _progress() as tell:
            show = _nothing if as_json else _show
            return await run(directory.absolute(), file, settings=settings, dry_run=dry_run, show=show, tell=tell)

    _report(trio.run(work), as_json, "restored")


def _report(rescued: Rescued, as_json: bool, done: str) -> None:
    if as_json:
        report: dict[str, Any] = asdict(rescued)
        for finding in report["plan"]["logs"]:
            finding["kind"] = finding["kind"].value
        print(json.dumps(report, indent=2))
    elif rescued.carried_out:
        print(done)
        if rescued.moved_aside:
            print(f"the registry that was there is now {rescued.moved_aside}")
    else:
        print("nothing has been changed")


def _nothing(plan: RecoveryPlan, namespace: Namespace | None) -> None:
    """For ``--json``: the plan is in the report."""


def _show(plan: RecoveryPlan, namespace: Namespace | None) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"vPool {plan.vpool}")
    if plan.source is None:
        console.print("no copy of its registry is left: volumes and files come back under lost+found, without their names")
    else:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(plan.source.created_ns / 1e9))
        console.print(f"names as of {when} (generation {plan.source.generation}, command {plan.source.index})")
    tables = namespace.tables() if namespace is not None else None
    for fate, words in WORDS.items():
        group = [finding for finding in plan.logs if finding.fate == fate]
        if group:
            console.print(f"{len(group):>8} {words}")
            for finding in group[:20] if fate not in ("kept", "empty") else []:
                console.print(f"         {escape(_line(finding, tables))}")
    found = sum(file.found for file in plan.files)
    if found:
        console.print(f"{found:>8} files that are not in the copy of the registry: under lost+found")
    if len(plan.files) > found:
        console.print(f"{len(plan.files) - found:>8} files deleted since the copy of the registry")
    for problem in [*plan.problems, *(problem for finding in plan.logs for problem in finding.problems)][:50]:
        console.print(f"[yellow]problem[/yellow] {escape(problem)}")


def _line(finding: LogFinding, tables: Tables | None) -> str:
    words = f"{finding.kind.value} {finding.object}"
    record = tables.object(finding.object) if tables is not None else None
    if tables is not None and record is not None and record.inode and (path := tables.path_of(record.inode)):
        words += f" {path}"
    if finding.head is not None:
        words += f": TLog {finding.head_before} → {finding.head.tlog.number}"
    if finding.tlogs_beyond:
        words += f", {finding.tlogs_beyond} TLogs beyond cannot be used"
    return words + (f": {finding.reason}" if finding.reason else "")


@contextmanager
def _progress() -> Iterator[Tell]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as bar:
        task = bar.add_task("looking into the buckets", total=None)
        yield lambda what, done, total: bar.update(task, completed=done, total=total)
