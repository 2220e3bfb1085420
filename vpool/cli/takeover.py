"""``vpool volume steal`` and ``vpool node steal``: what a dead node owned goes on here."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

TAKEOVER_S = 600.0

AcceptLoss = Annotated[
    bool,
    typer.Option(
        "--accept-loss",
        help="Also where flushed data may be lost: then it is what the backend has, the state after some write, none after it.",
    ),
]
PoweredOff = Annotated[
    bool,
    typer.Option(
        "--powered-off",
        help="The dead node is known to be off, and the peer of its DTL does not answer; only together with --accept-loss.",
    ),
]


def run(what: dict[str, object], accept_loss: bool, powered_off: bool, directory: Path | None, *, as_json: bool) -> None:
    """Ask for it, and say what has come of it."""
    from vpool.cli.client import Client
    from vpool.errors import Invalid

    if powered_off and not accept_loss:
        raise Invalid("--powered-off says only that no peer need be asked, which may lose data: it goes with --accept-loss")
    wanted: dict[str, object] = {**what, "accept_loss": accept_loss, "powered_off": powered_off}
    report = Client.find(directory).post("/v1/takeovers", wanted, timeout_s=TAKEOVER_S)
    if as_json:
        print(json.dumps(report, indent=2))
        return
    if not report["taken"]:
        print("the node owned nothing")
    for taken in report["taken"]:
        print(_said(taken))


def _said(taken: dict[str, Any]) -> str:
    name = taken["path"] or (f"files of node {taken['former']}" if taken["kind"] == "file-log" else f"object {taken['object']}")
    if not taken["epoch"]:
        return f"{name}: not taken over: {taken['problem']}"
    if not taken["lost"]:
        what = "everything that was flushed is there"
    else:
        head = f"as of TLog {taken['head_tlog']} in the backend" if taken["head_tlog"] else "empty: the backend had nothing of it"
        what = f"{head}; what was acknowledged later, and by node {taken['former']} alone, is lost"
        if taken["written_ns"]:
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(taken["written_ns"] / 1e9))
            what += f" (last change known to the registry: {at}; unsent data are kept there, see vpool node remains)"
    problem = f"; not open yet: {taken['problem']}" if taken["problem"] else ""
    return f"{name}: taken over at epoch {taken['epoch']}, {what}{problem}"
