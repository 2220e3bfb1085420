"""docs/performance.md from the JSON file of a run. Pure: figures from the file, what limits each row from here."""

from __future__ import annotations

from statistics import median
from typing import Any

from bench.measure import Row, shown

HEADER = """# Performance

Written by `python -m bench --page docs/performance.md`; do not edit. Figures of `make bench` are medians of alternating runs on
one machine, beside a reference measured in the same run: the ratio is what counts, it holds on other machines too. Targets
are those of the design. A run takes about fifteen minutes and wants a machine that does nothing else.
"""

# What limits a row, by key: found with perf and py-spy.
LIMITS: dict[str, str] = {
    "engine_write": "a copy and a CRC32C of the data, a record's checksums, `pwrite` of both; the rest is Python's call",
    "engine_read": "map look-up, `pread` from the segment, CRC32C, and the `bytes` that Python gets",
    "registry_serial": "one LMDB commit (two syncs) and two hops between processes",
    "registry_pipelined": "Python in the registry's process: decode, apply, encode",
    "registry3_command": """\
  waiting: a commit of LMDB (two syncs) at the followers, at the same time at the leader, then the leader's when it applies; two
  hops between processes and one to a follower and back. All three share this machine's disk and cores, so of twelve syncs per
  command some wait for others""",
    "registry3_rate": "Python, three times on the same cores: decode, apply, encode",
    "registry3_lookup_leader": "a hop to the registry's process and back",
    "registry3_lookup_follower": "as for the leader, and a message to it and back",
    "registry3_cut": "cores: the client and three registries share them",
    "registry3_new_voter": "as above, and the new one; chunks of 64 KiB, one under way at a time",
    "registry3_back": "as above",
    "fuse_randwrite": """\
  one core. Of the time that its loop works, 28 % is the log's `pwrite`, 18 % reading requests, 15 % the replies'
  `writev`, 7 % `epoll_ctl`, 5 % our Python, the rest pyfuse3 and trio; uploads of what was written take their share of the CPU
  meanwhile, and the reference has none. A lane takes the loop out of the path""",
    "fuse_randread": "as for writes: pyfuse3's loop, one core",
    "sync32": """\
  the kernel: it holds the inode's lock over a FUSE_FSYNC and lets all writes under way end first, so each sync
  empties the queue; then the rate of requests through pyfuse3""",
    "fsync_qd1": "two FUSE round trips per write and sync, and a hop to the thread that syncs",
    "fsync_8": """\
  the kernel: it holds the inode's lock over FUSE_FSYNC and over each direct write, so those of one file come one at a
  time, and a group commit has nothing to group. Several volumes, NBD and NFS are not bound by it""",
    "sequential": """\
  filling the page cache. Of the daemon's CPU time (perf, 499 Hz) two thirds are the kernel's copy into fresh page-cache
  pages: 29 % writing new segments ahead, 25 % writing objects of the directory backend, 12 % the log itself; CRC32C is
  under 2 %. Every byte goes to the same disk twice, on first use three times; the reference writes it once, past the
  page cache""",
    "forwarded_randwrite": """\
  Python on both sides, one after the other: some 0.13 ms of CPU beyond the FUSE request itself; a whole local one takes 0.04.
  A turn of trio's loop at the owner and two more at the asker are a fifth of it, the kernel's sockets another,
  TLS a twentieth; the rest is spread thinly over some fifty functions""",
    "forwarded_randread": "as for writes",
    "forwarded_seq_write": "one stream of requests of 128 KiB to 1 MiB: copies and TLS on both sides",
    "forwarded_seq_read": "as for writes; the local one is little more than the page cache",
    "puts": "one SCO per 4 MiB, one TLog per 64 MiB, a checkpoint now and then",
    "cold_read": "whole SCOs are fetched ahead; each is checked and copied to the read cache on its way",
    "beyond_cache": "every byte goes to the log and to the backend, on the same disk here",
    "restart": "Python's imports and the start of the registry's process; TLogs since the checkpoint",
    "files": """\
  waiting for `open`, 0.8 to 1.1 ms of it: two round trips through pyfuse3, two hops to the registry's process and back, and its
  commit (two device flushes and some 25 pages of LMDB; the command itself takes 0.1 ms of CPU). The write takes 0.16 (with the
  kernel's question for `security.capability` before it), the close nothing. A pre-written journal in front of LMDB would save
  one flush and most pages, about a third; the rest is Python and two processes, so 2 × is not in reach of this path""",
    "files_synced": "as above, and a request and a flush more",
    "files_null": "the same calls with nothing behind them: what pyfuse3 alone costs",
    "files_unsynced": "as above; the local disk has done nothing but fill the page cache",
    "memory_empty": "interpreter, libraries, map pages that TLogs since the checkpoint touch (not profiled; differs by run)",
    "memory_full": "not profiled; probably map cache, fetches and uploads under way (8 MiB each), requests of 1 MiB",
}


def page(report: dict[str, Any]) -> str:
    """The page as Markdown."""
    rows = [Row.from_dict(fields) for fields in report["rows"]]
    machine = report["machine"]
    lines = [HEADER]
    if report["quick"]:
        lines.append("**These figures are of a `--quick` run and mean nothing.**\n")
    lines.append(
        f"This run: {report['began']}, {report['seconds']} s, {machine['cores']} cores, Linux {machine['kernel']}, "
        f"Python {machine['python']}, load before it {machine['load_before']:.2f}.\n"
    )
    if machine["load_before"] > machine["cores"] / 4:
        lines.append("**The machine was busy with other things: these figures are rough. Run it again on a quiet one.**\n")
    lines.append("| what | value | reference | ratio | target | |\n| --- | ---: | ---: | ---: | ---: | --- |")
    lines += [_line(row) for row in rows]
    for name, reason in report["failed"].items():
        lines.append(f"| {name} | not measured: {reason} | | | | miss |")
    lines.append("\n## What limits each\n")
    lines += [f"- **{row.what}**: {LIMITS.get(row.key, 'not looked into').strip()}.{_details(row)}" for row in rows]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    reference = f"{shown(row.reference_value, row.unit)}" if row.reference_value is not None else ""
    ratio = f"{row.ratio:.2f} ×" if row.ratio is not None else ""
    target = row.target.text(ratio=row.ratio is not None)
    verdict = "" if target == "–" else "hit" if row.met else "**miss**"
    return f"| {row.what} | {shown(row.value, row.unit)} | {reference} | {ratio} | {target} | {verdict} |"


def _details(row: Row) -> str:
    parts = []
    if row.reference:
        parts.append(f"reference: {row.reference}")
    if len(row.runs) > 1:
        low, high = min(row.runs), max(row.runs)
        parts.append(
            f"{len(row.runs)} runs, {shown(low, row.unit)} to {shown(high, row.unit)}, median {shown(median(row.runs), row.unit)}"
        )
    parts += [
        f"{key.replace('_', ' ')} {value:,}" if isinstance(value, int) else f"{key.replace('_', ' ')} {value}"
        for key, value in row.details.items()
    ]
    return f" ({'; '.join(parts)})" if parts else ""
