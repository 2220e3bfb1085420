"""The command ``vpool``: nouns, then verbs; ``--json`` everywhere; exit codes as in docs/exit-codes.md.

What a command needs is imported when it runs, so that the others, help and completion stay quick.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import Annotated, cast

import typer

from vpool.cli import cache, cluster, config, event, file, files, health, node, object, patrol, rescue, slow, volume
from vpool.cli.options import AsJson, Directory
from vpool.cli.top import top
from vpool.errors import NoSpace, VPoolError
from vpool.exitcodes import EXIT_CODES, exit_code

# What is wrong with a command line, as click, or the copy of it in typer, calls it; typer exports only what derives from it.
_UsageProblem = cast(
    "type[typer.BadParameter]", next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
)

_NO_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a file that standard output goes to may answer

app = typer.Typer(
    name="vpool",
    help="Object storage that virtual machines can boot from.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(volume.app, name="volume")
app.add_typer(file.app, name="file")
app.add_typer(files.app, name="files")
app.add_typer(object.app, name="object")
app.add_typer(cache.app, name="cache")
app.add_typer(cluster.app, name="cluster")
app.add_typer(node.app, name="node")
app.add_typer(config.app, name="config")
app.add_typer(event.app, name="event")
app.add_typer(health.app, name="health")
app.add_typer(slow.app, name="slow")
app.command()(top)
app.add_typer(rescue.app, name="registry")
app.add_typer(patrol.app, name="verify")
app.command()(rescue.recover)


def _version(wanted: bool) -> None:
    if wanted:
        from vpool.version import VERSION

        print(f"vpool {VERSION}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Object storage that virtual machines can boot from."""


@app.command()
def up(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="All state of this node; made if it is not there.")],
    mountpoint: Annotated[str, typer.Argument(metavar="MOUNT", help="An empty directory; the vPool appears there.")],
    backend: Annotated[
        str | None,
        typer.Option(help="dir:/path, s3:https://host/PREFIX or swift:https://host/auth/v1.0; by default a directory in DIR."),
    ] = None,
    configuration: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings, as TOML.")] = None,
) -> None:
    """Run a vPool node in the foreground until Ctrl-C or SIGTERM."""
    from vpool.daemon import up as run

    raise typer.Exit(run(directory, Path(mountpoint), backend=backend, config=configuration))


@app.command()
def serve(
    configuration: Annotated[Path, typer.Option("--config", metavar="FILE", help="Settings, as TOML, with [node] in it.")],
) -> None:
    """Run a vPool node as a service: everything comes from the file, systemd is told how it is."""
    from vpool.service import serve as run

    raise typer.Exit(run(configuration))


@app.command()
def umount(
    mountpoint: Annotated[str | None, typer.Argument(metavar="MOUNT", help="Where the vPool was mounted.")] = None,
    configuration: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings of `vpool serve`, which name MOUNT.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even if a daemon is behind it: its users get errors, and it stops.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Undo the mount that a dead or stuck daemon has left."""
    from vpool.errors import Invalid
    from vpool.settings_file import load_settings
    from vpool.unmounting import unmount_left

    # Not a Path to typer, which would look at it, and wait for ever for a daemon that is stuck.
    target = Path(mountpoint) if mountpoint is not None else None
    if configuration is not None and target is None:
        target = load_settings(configuration).node.mountpoint
    if target is None:
        raise Invalid("which mount? give MOUNT, or --config FILE with node.mountpoint in it")
    done = unmount_left(target, force=force)
    print(json.dumps({"mountpoint": str(target), "done": done})) if as_json else print(done)


@app.command()
def status(directory: Directory = None, as_json: AsJson = False) -> None:
    """Show how a running node is."""
    from vpool.cli import show
    from vpool.cli.client import Client

    report = Client.find(directory).get("/v1/status")
    print(json.dumps(report, indent=2)) if as_json else show.status(report)


@app.command()
def doctor(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Of a node, or where one is to be; need not exist.")],
    backend: Annotated[
        str | None, typer.Option(metavar="URL", help="As for vpool up; by default the one that DIR belongs to.")
    ] = None,
    configuration: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings, as TOML.")] = None,
    as_json: AsJson = False,
) -> None:
    """Try out disk, clock, FUSE and backend for some seconds, and recommend cache sizes. Leaves nothing behind."""
    from vpool.cli.doctor import run

    run(directory, backend, configuration, as_json=as_json)


@app.command(name="inspect")
def inspect_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Of a DIR or of a bucket; or a directory with an LMDB database.")],
    all_rows: Annotated[bool, typer.Option("--all", help="All rows of every table, not only the first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a file of vPool says and check its checksums. Needs no daemon, changes nothing. Exit code 9 if it is damaged."""
    from vpool.cli.inspect import run

    run(file, all_rows=all_rows, as_json=as_json)


def main() -> None:
    """Run a command; every refusal is one message on standard error and one exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names are bytes, and go out as they are
    as_json = "--json" in sys.argv[1:]
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except typer.Abort:
        code = 130
    except _UsageProblem as error:
        error.show()
        code = error.exit_code
    except VPoolError as error:
        if as_json:
            details = {key: str(value) for key, value in error.details.items()}
            print(json.dumps({"error": type(error).__name__, "message": error.message, "details": details}), file=sys.stderr)
        else:
            print(f"vpool: {error}", file=sys.stderr)
        code = exit_code(error)
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        if error.errno not in _NO_OUTPUT or error.filename is not None:
            raise
        print(f"vpool: standard output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of it is not tried again
        code = EXIT_CODES[NoSpace]
    sys.exit(code if isinstance(code, int) else 0)
