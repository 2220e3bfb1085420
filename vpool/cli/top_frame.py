"""From two reports of a node to what ``vpool top`` shows: rates, latencies, totals. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from admin.watching.sample import Histogram

Report = dict[str, Any]
OPERATIONS = ("read", "write", "flush")


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests of one kind between two reports."""

    per_s: float
    bytes_per_s: float
    mean_s: float | None  # None: there was none
    p99_s: float | None  # at most that: the bound of a bucket


@dataclass(frozen=True, slots=True)
class Line:
    """One volume, or the sum of all."""

    path: str
    state: str
    read: Rate
    write: Rate
    flush: Rate
    dirty_bytes: int
    oldest_dirty_age_s: float
    hit_share: float | None  # of the bytes read: what was here; None: nothing was read
    waiting_writers: int
    stalled: str

    @property
    def per_s(self) -> float:
        return self.read.per_s + self.write.per_s + self.flush.per_s

    @property
    def bytes_per_s(self) -> float:
        return self.read.bytes_per_s + self.write.bytes_per_s

    @property
    def slowest_s(self) -> float:
        return max(rate.mean_s or 0.0 for rate in (self.read, self.write, self.flush))


@dataclass(frozen=True, slots=True)
class Frame:
    """A node between two reports."""

    at: float
    seconds: float  # between them
    lines: tuple[Line, ...]
    total: Line
    sent_per_s: float
    received_per_s: float
    retries_per_s: float
    report: Report  # the later one, for what is no rate

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        own = {key: value for key, value in self.report.items() if key not in ("volumes", "bounds_s")}
        rates = {"sent_per_s": self.sent_per_s, "received_per_s": self.received_per_s, "retries_per_s": self.retries_per_s}
        return {
            **own,
            "seconds": self.seconds,
            **rates,
            "total": asdict(self.total),
            "volumes": [asdict(line) for line in self.lines],
        }


SORTS = {
    "requests": lambda line: (-line.per_s, line.path),
    "bytes": lambda line: (-line.bytes_per_s, line.path),
    "latency": lambda line: (-line.slowest_s, line.path),
    "dirty": lambda line: (-line.dirty_bytes, line.path),
    "path": lambda line: line.path,
}


def frame_of(before: Report, after: Report, *, sort: str = "requests") -> Frame:
    """What has happened between two reports. Volumes that are new, or whose daemon has started anew, count from zero."""
    seconds = max(1e-3, after["boot_s"] - before["boot_s"])
    restarted = after["uptime_s"] < before["uptime_s"]
    earlier = {} if restarted else {volume["object"]: volume for volume in before["volumes"]}
    bounds = tuple(after["bounds_s"])
    parts = [(earlier.get(volume["object"]), volume) for volume in after["volumes"]]
    lines = [_line(old, new, bounds, seconds) for old, new in parts]
    origin = {"sent_bytes": 0, "received_bytes": 0, "backend_retries": 0} if restarted else before
    return Frame(
        at=after["at"],
        seconds=seconds,
        lines=tuple(sorted(lines, key=SORTS[sort])),
        total=_total(parts, lines, bounds, seconds),
        sent_per_s=(after["sent_bytes"] - origin["sent_bytes"]) / seconds,
        received_per_s=(after["received_bytes"] - origin["received_bytes"]) / seconds,
        retries_per_s=(after["backend_retries"] - origin["backend_retries"]) / seconds,
        report=after,
    )


def _line(old: Report | None, new: Report, bounds: tuple[float, ...], seconds: float) -> Line:
    read, write, flush = (_rate([(old, new)], operation, bounds, seconds) for operation in OPERATIONS)
    return Line(
        path=new["path"],
        state=new["state"],
        read=read,
        write=write,
        flush=flush,
        dirty_bytes=new["dirty_bytes"],
        oldest_dirty_age_s=new["oldest_dirty_age_s"],
        hit_share=_hit_share([(old, new)], read.bytes_per_s * seconds),
        waiting_writers=new["waiting_writers"],
        stalled=new["stalled"],
    )


def _total(parts: list[tuple[Report | None, Report]], lines: list[Line], bounds: tuple[float, ...], seconds: float) -> Line:
    read, write, flush = (_rate(parts, operation, bounds, seconds) for operation in OPERATIONS)
    return Line(
        path="(all)",
        state="",
        read=read,
        write=write,
        flush=flush,
        dirty_bytes=sum(line.dirty_bytes for line in lines),
        oldest_dirty_age_s=max((line.oldest_dirty_age_s for line in lines), default=0.0),
        hit_share=_hit_share(parts, read.bytes_per_s * seconds),
        waiting_writers=sum(line.waiting_writers for line in lines),
        stalled=next((line.stalled for line in lines if line.stalled), ""),
    )


def _rate(parts: list[tuple[Report | None, Report]], operation: str, bounds: tuple[float, ...], seconds: float) -> Rate:
    counts, sum_s, moved = [0] * (len(bounds) + 1), 0.0, 0
    for old, new in parts:
        latency, bytes_new = _of(new, operation, bounds)
        if old is not None:
            before, bytes_old = _of(old, operation, bounds)
            latency = latency.since(before)
            bytes_new -= bytes_old if bytes_new >= bytes_old else 0
        counts = [one + other for one, other in zip(counts, latency.counts, strict=True)]
        sum_s += latency.sum_s
        moved += bytes_new
    together = Histogram(bounds, tuple(counts), sum_s)
    return Rate(together.count / seconds, moved / seconds, together.mean_s, together.quantile_s(0.99))


def _of(volume: Report, operation: str, bounds: tuple[float, ...]) -> tuple[Histogram, int]:
    found = volume["operations"].get(operation)
    if found is None:
        return Histogram(bounds, (0,) * (len(bounds) + 1), 0.0), 0
    return Histogram(bounds, tuple(found["counts"]), found["sum_s"]), found["bytes"]


def _hit_share(parts: list[tuple[Report | None, Report]], read_bytes: float) -> float | None:
    if read_bytes < 1:
        return None
    missed = 0
    for old, new in parts:
        before = old["missed_bytes"] if old is not None and old["missed_bytes"] <= new["missed_bytes"] else 0
        missed += new["missed_bytes"] - before
    return max(0.0, 1.0 - missed / read_bytes)
