"""``vpool volume steal`` and ``vpool node steal``: what a dead node owned goes on here."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from vpool.sizes import show_size

TAKEOVER_S = 600.0

AcceptLoss = Annotated[
    bool,
    typer.Option(
        "--accept-loss",
        help="Also where flushed data may be lost: then it is what the backend or, taken over there, an asynchronous peer has.",
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


def remains(directory: Path | None, drop: str, of: str, *, as_json: bool) -> None:
    """List what former owners may have; or have one of them let go of what it has of a volume (``drop``, a path or an id)."""
    from vpool.cli.client import Client
    from vpool.errors import Invalid

    if bool(drop) != bool(of):
        raise Invalid("--drop PATH and --of NODE go together: what, and whose")
    client = Client.find(directory)
    if drop:
        what = {"object": drop} if len(drop) == 32 and "/" not in drop and "." not in drop else {"path": drop}
        report = client.post("/v1/remains/drop", {**what, "node": of})
    else:
        report = client.get("/v1/remains")
    if as_json:
        print(json.dumps(report, indent=2))
        return
    if not report["remains"]:
        print("no node has anything left of what it does not own any more")
    for each in report["remains"]:
        name = each["path"] or f"log of files {each['object']}"
        amount = f", {show_size(each['bytes'])} here" if each["bytes"] is not None else ""
        why = "perhaps nobody else has it" if each["lost"] else "until the new owner's backend has it all"
        print(f"{name}: node {each['node']}, of epoch {each['epoch']}{amount}; kept: {why}")


def _said(taken: dict[str, Any]) -> str:
    name = taken["path"] or (f"files of node {taken['former']}" if taken["kind"] == "file-log" else f"object {taken['object']}")
    if not taken["epoch"]:
        return f"{name}: not taken over: {taken['problem']}"
    if not taken["lost"]:
        what = "everything that was flushed is there"
    else:
        head = f"as of TLog {taken['head_tlog']} in the backend" if taken["head_tlog"] else "empty: the backend had nothing of it"
        if taken.get("from_peer"):
            head = "with what its asynchronous peer had"
        what = f"{head}; what was acknowledged later, and by node {taken['former']} alone, is lost"
        if taken.get("loss"):
            what += f": {taken['loss']}"
        if taken["written_ns"]:
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(taken["written_ns"] / 1e9))
            what += f" (last change known to the registry: {at}; unsent data are kept there, see vpool node remains)"
    problem = f"; not open yet: {taken['problem']}" if taken["problem"] else ""
    return f"{name}: taken over at epoch {taken['epoch']}, {what}{problem}"
