"""``vpool health``: what is wrong with a node, and what to do about it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vpool.cli.options import AsJson, Directory

app = typer.Typer(help="What is wrong with a node.", invoke_without_command=True)

CodeArgument = Annotated[str, typer.Argument(metavar="CODE", help="As in BACKEND_UNREACHABLE; `vpool health codes` lists all.")]


@app.callback()
def health(context: typer.Context, directory: Directory = None, as_json: AsJson = False) -> None:
    """Show what is wrong with a node. Exit code: 0 nothing, 16 warning, 17 critical; muted codes do not count."""
    if context.invoked_subcommand is not None:
        return
    from vpool.cli.client import Client
    from vpool.exitcodes import HEALTH_CRITICAL, HEALTH_WARNING, OK

    report = Client.find(directory).get("/v1/health")
    print(json.dumps(report, indent=2)) if as_json else _show(report)
    raise typer.Exit({"warning": HEALTH_WARNING, "critical": HEALTH_CRITICAL}.get(report["severity"], OK))


@app.command()
def mute(
    code: CodeArgument,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="For so long, as in 30m, 12h or 7d; by default until `unmute`.")
    ] = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Let a code count no more; it is still shown."""
    from vpool.cli.client import Client
    from vpool.durations import parse_duration

    seconds = None if duration is None else parse_duration(duration)
    report = Client.find(directory).post("/v1/health/mutes", {"code": code, "seconds": seconds})
    print(json.dumps(report, indent=2)) if as_json else print(f"{code} is muted{_until(report['muted'].get(code))}")


@app.command()
def unmute(code: CodeArgument, directory: Directory = None, as_json: AsJson = False) -> None:
    """Let a code count again."""
    from vpool.cli.client import Client

    Client.find(directory).delete(f"/v1/health/mutes/{code}")
    print(json.dumps({"unmuted": code})) if as_json else print(f"{code} counts again")


@app.command()
def codes(as_json: AsJson = False) -> None:
    """List all codes with what they mean and what to do; needs no daemon."""
    from admin.watching.health_codes import HEALTH_CODES

    if as_json:
        fields = [
            {"code": code.name, "severity": code.severity.name.lower(), "meaning": code.meaning, "remedy": code.remedy}
            for code in HEALTH_CODES.values()
        ]
        print(json.dumps(fields, indent=2))
        return
    for code in HEALTH_CODES.values():
        print(f"{code.name} ({code.severity.name.lower()})\n  {code.meaning}\n  {code.remedy}\n")


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape

    from vpool.durations import show_moment

    console = Console(highlight=False)
    colours = {"ok": "green", "warning": "yellow", "critical": "red"}
    console.print(f"[{colours[report['severity']]}]{report['severity']}[/]")
    for problem in report["problems"]:
        muted = f" [dim](muted{_until(problem['muted_until'])})[/dim]" if problem["muted"] else ""
        about = f" {escape(problem['subject'])}:" if problem["subject"] else ""
        console.print(
            f"\n[{colours[problem['severity']]}]{problem['code']}[/]{about} {escape(problem['message'])}{muted}", soft_wrap=True
        )
        console.print(f"  since {show_moment(problem['since'])}. {escape(problem['remedy'])}", soft_wrap=True)
    standing = {problem["code"] for problem in report["problems"]}
    for code, until in report["muted"].items():
        if code not in standing:
            console.print(f"[dim]{code} is muted{_until(until)}, and does not stand[/dim]")


def _until(until: float | None) -> str:
    from vpool.durations import show_moment

    return "" if until is None else f" until {show_moment(until)}"
