"""``vpool file``: what has a name in the vPool, and what stands behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from vpool.cli.options import AsJson, Directory

if TYPE_CHECKING:
    from vpool.cli.client import Client

app = typer.Typer(help="Names in the vPool, and what stands behind them.", no_args_is_help=True)

LETTERS = {
    "directory": "d", "file": "-", "volume": "V", "symlink": "l", "fifo": "p", "socket": "s", "character-device": "c",
    "block-device": "b",
}  # fmt: skip


@app.command(name="list")
def list_files(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A directory; by default the root of the vPool.")] = "",
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also what is in directories below.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """List a directory: kind and permissions, owner, size, time of change, name."""
    from vpool.cli.client import Client

    client = Client.find(directory)
    found = _entries(client, path.strip("/"), recursive)
    if as_json:
        print(json.dumps({"entries": list(found)}, indent=2))
        return
    for entry in found:
        print(_line(entry))


@app.command()
def move(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A file in the vPool, as in iso/debian.iso.")],
    to: Annotated[str, typer.Option("--to", metavar="NODE", help="Id of the node that is to have it, or the id's beginning.")],
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Have another node own a file, while it is in use. Ctrl-C gives the move up, if it is not decided yet."""
    from vpool.cli import moving

    moving.move(path, to, directory, as_json=as_json, route="/v1/file-moves")


@app.command()
def show(
    path: Annotated[str, typer.Argument(metavar="PATH", help="In the vPool, as in iso/debian.iso.")],
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show what stands behind a name: inode, object, owner, where it is kept."""
    from vpool.cli.client import Client

    report = Client.find(directory).get(f"/v1/files/{quote(path.strip('/'), errors='surrogateescape')}")
    if as_json:
        print(json.dumps(report, indent=2))
        return
    from vpool.cli.show import facts

    facts(_facts(report))


def _entries(client: Client, path: str, recursive: bool) -> Iterator[dict[str, Any]]:
    """Entries with their paths, directory after directory, sorted within each."""
    waiting = [path]
    while waiting:
        at = waiting.pop()
        prefix = f"{at}/" if at else ""
        found = sorted(_of_directory(client, at), key=lambda entry: entry["name"])
        for entry in found:
            yield {"path": prefix + entry["name"], **entry}
        if recursive:
            below = [prefix + entry["name"] for entry in found if entry["kind"] == "directory"]
            waiting += reversed(below)


def _of_directory(client: Client, path: str) -> Iterator[dict[str, Any]]:
    after = 0
    while True:
        found = client.get(f"/v1/entries/{quote(path, errors='surrogateescape')}?after={after}")
        yield from found["entries"]
        after = found["after"]
        if not after:
            return


def _line(entry: dict[str, Any]) -> str:
    who = f"{_mode(entry['kind'], entry['mode'])} {entry['nlink']:>3} {entry['uid']:>5} {entry['gid']:>5}"
    return f"{who} {entry['size']:>15} {_time(entry['mtime_ns'])} {entry['path']}"


def _mode(kind: str, mode: int) -> str:
    import stat

    return LETTERS.get(kind, "?") + stat.filemode(mode)[1:]


def _time(time_ns: int) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(time_ns / 1e9, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    from rich.markup import escape

    mode = _mode(report["kind"], report["mode"])
    rows = [
        ("path", escape(report["path"] or "/")),
        ("kind", report["kind"]),
        ("inode", str(report["inode"])),
        ("size", f"{report['size']} bytes"),
        (
            "mode",
            f"{mode}, owner {report['uid']}, group {report['gid']}, {report['nlink']} names",
        ),
        ("changed", _time(report["mtime_ns"])),
        ("open", f"{report['handles_here']} handles here, {sum(report['handles'].values())} registered"),
    ]
    if report["target"]:
        rows.append(("points to", escape(report["target"])))
    record = report["record"] or {}
    for key, value in record.items():
        if key not in ("inode", "size") and value not in ("", 0, None):
            rows.append((f"object: {key.replace('_', ' ')}", escape(_shown(value))))
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_shown(each)}" for key, each in value.items() if each is not None)
    return str(value)
