"""Makes the pages on health, events and metrics from their tables: ``python -m admin.watching.pages --write|--check DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

from admin.watching.event_table import EVENTS
from admin.watching.health_codes import HEALTH_CODES
from admin.watching.metrics import METRICS

_HEALTH = """# Health codes

This page is made from `admin/watching/health_codes.py` by `make docs`; do not edit it.

`vpool health` shows what is wrong with a node: a code, what it is about, what was seen, since when, and the remedy. Its exit
code is 0 when nothing counts, 16 when the worst is a warning, 17 when something is critical. Codes are stable: none is used
again for something else. `vpool health mute CODE --for 12h` lets a code count no more for that long (it is still shown),
`vpool health unmute CODE` ends that; mutes survive a restart. The node looks at itself every `watch.period_s`; a problem
that comes up or is over is an event ([events.md](events.md)), and `vpool_health_problems` counts them
([metrics.md](metrics.md)).
"""

_EVENTS = """# Events

This page is made from `admin/watching/event_table.py` by `make docs`; do not edit it.

An event is a line of the log that an operator may ask for later: `vpool event list [--follow] [--since 1h]`. Each has a
`number` that goes up by one (over restarts; a gap is an event that could not be kept), `at` (unix time), `event`, `level`,
and the fields of its line. They are kept in DIR/events, `watch.events_bytes` of them, the oldest go first; a killed daemon
loses none, a power cut may lose the last ones. `vpool event list --dir DIR` reads them when no daemon runs, too.

| event | meaning |
| --- | --- |
"""

_METRICS = """# Metrics

This page is made from `admin/watching/metrics.py` by `make docs`; do not edit it.

Prometheus reads them at `/metrics`: on the socket of the management API (`curl --unix-socket DIR/admin.sock
http://vpool/metrics`), and on a TCP address of the loopback interface where the setting `watch.metrics_address` names one.
Counters begin anew with the daemon. The series of a volume carry its path and its object's UUID, and go with the volume;
those of all plain files together have `volume="(files)"`. Beside these there are the client library's own figures of the
process (`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds`, …). A dashboard for Grafana is in
`admin/grafana/vpool.json`.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
"""


def pages() -> dict[str, str]:
    """The pages by file name."""
    codes = [
        f"\n## {code.name}\n\nSeverity: **{code.severity.name.lower()}**. {code.meaning}\n\nWhat to do: {code.remedy}\n"
        for code in HEALTH_CODES.values()
    ]
    events = [f"| `{name}` | {meaning} |\n" for name, meaning in EVENTS.items()]
    metrics = [f"| `{kind.name}` | {kind.type} | {', '.join(kind.labels)} | {kind.meaning} |\n" for kind in METRICS]
    return {
        "health.md": _HEALTH + "".join(codes),
        "events.md": _EVENTS + "".join(events),
        "metrics.md": _METRICS + "".join(metrics),
    }


def main(arguments: list[str]) -> int:
    """Write the pages, or say whether they are current."""
    if len(arguments) != 2 or arguments[0] not in ("--write", "--check"):
        print("usage: python -m admin.watching.pages --write|--check DIRECTORY", file=sys.stderr)
        return 2
    directory, stale = Path(arguments[1]), []
    for name, text in pages().items():
        path = directory / name
        if arguments[0] == "--write":
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path))
    if stale:
        print(f"{', '.join(stale)}: not what the tables say now; run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
