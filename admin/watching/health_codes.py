"""The codes of health: stable names, how bad each is, what it means, what to do. ``docs/health.md`` is made from this. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How bad something is; ``vpool health`` ends with the exit code of the worst."""

    OK = 0
    WARNING = 1  # works, but somebody should look
    CRITICAL = 2  # requests fail or wait, or data are at more risk than promised


@dataclass(frozen=True, slots=True)
class HealthCode:
    """One kind of problem. Names are never used again for something else."""

    name: str
    severity: Severity
    meaning: str
    remedy: str


_TABLE = (
    HealthCode(
        "BACKEND_UNREACHABLE",
        Severity.CRITICAL,
        "The object store does not answer. Guests go on from the cache until a write cache is full; reads of what is "
        "not here wait.",
        "Look at the network and at the store; `vpool status` has the store's own words. Nothing needs to be done here "
        "once it is back.",
    ),
    HealthCode(
        "BACKEND_REFUSES",
        Severity.CRITICAL,
        "The object store answers, but refuses us: credentials, permission or address are wrong now. As "
        "BACKEND_UNREACHABLE for guests.",
        "Mend the account or its permissions; credentials come from the daemon's environment (docs/backends.md), so new "
        "ones need a restart.",
    ),
    HealthCode(
        "BACKEND_ERRORS",
        Severity.WARNING,
        "In the last minute more than one try in ten had to be repeated.",
        "What was seen ends with the store's own words: a file system or an account that is full takes nothing until there "
        "is room; a store that is overloaded or throttles gets better with a lower `volumes.uploads`.",
    ),
    HealthCode(
        "BACKEND_SLOW",
        Severity.WARNING,
        "In the last minute a put or get took longer than five seconds on average.",
        "Look at the line to the store and at its load; a lower `volumes.uploads` shares a thin line among fewer objects.",
    ),
    HealthCode(
        "VOLUME_HALTED",
        Severity.CRITICAL,
        "A volume refuses service, because to go on could lose or mix data. The reason names the damage.",
        "Do what the reason says; `vpool volume show PATH` has it in full. `vpool volume open PATH` opens it again once "
        "the cause is mended.",
    ),
    HealthCode(
        "FILES_HALTED",
        Severity.CRITICAL,
        "The log that all plain files of this node share refuses service.",
        "Do what the reason says; `vpool files open` opens it again once the cause is mended.",
    ),
    HealthCode(
        "WRITERS_WAIT",
        Severity.CRITICAL,
        "Writers wait because a write cache is full. They get no error; a guest sees a disk that does not answer.",
        "Find out why the backend takes nothing (BACKEND_…), or too little: then lower the load, or raise "
        "`volumes.hard_bytes` and `cache.size_bytes`.",
    ),
    HealthCode(
        "CACHE_NEAR_LIMIT",
        Severity.WARNING,
        "The node's log is nine tenths full, or a volume has nine tenths of what it may have in it: writers are slowed "
        "and will wait soon.",
        "As WRITERS_WAIT. Nothing is lost either way.",
    ),
    HealthCode(
        "CACHE_DISK_FULL",
        Severity.CRITICAL,
        "The disk of DIR/cache has less than 64 MiB left, or has refused something for want of room: the log cannot get a new "
        "segment, the map cannot be written back. Writers wait once what is there is used up.",
        "Make room on that disk: something else has taken what `cache.size_bytes` was promised. Then all goes on by itself.",
    ),
    HealthCode(
        "CONTENT_LOST",
        Severity.CRITICAL,
        "The background verification has found ranges that have no good copy any more: reads of them fail, all else is served.",
        "`vpool verify lost` says whose they are. Restore them from a backup by writing them, or `vpool verify accept PATH`, "
        "which makes them zeros.",
    ),
    HealthCode(
        "RESTART_WOULD_FAIL",
        Severity.CRITICAL,
        "An object that a start without DIR/cache needs is damaged or missing. Nothing fails while the cache is there.",
        "Keep DIR/cache, and copy the volume (`vpool volume copy`): the copy has a map of its own. `vpool verify lost` names it.",
    ),
    HealthCode(
        "VERIFY_OVERDUE",
        Severity.WARNING,
        "A pass of the background verification has taken more than twice `verify.days`.",
        "Raise `verify.bytes_per_s_max`, or `verify.days`; `vpool verify status` says what it waits for.",
    ),
    HealthCode(
        "EXPORT_WAITS",
        Severity.WARNING,
        "The copy of the registry in the backend is not up to date, although the backend answers: `vpool recover` would find an "
        "older namespace.",
        "The message has the store's words: a full quota, or a missing permission on the vPool's shared bucket.",
    ),
    HealthCode(
        "CACHE_DISK_FAILS",
        Severity.WARNING,
        "The disk of DIR/cache has given I/O errors, or wrong bytes, where only caches are concerned: the read cache is off, or "
        "the local map was set aside and had from the backend again. Nothing is lost.",
        "Look at the disk; `vpool cache replace NEWDIR` takes another one without a restart. The code stands until the next "
        "start or replacement.",
    ),
    HealthCode(
        "CACHE_DISK_SHORT",
        Severity.WARNING,
        "The disk of DIR/cache has less room left than the log may yet take by the settings.",
        "Make room on that disk before the log needs it, or lower `cache.size_bytes`.",
    ),
    HealthCode(
        "DIRTY_OLD",
        Severity.WARNING,
        "A volume has acknowledged data that have not been in the backend for longer than `watch.dirty_old_s`: the loss "
        "of this host would lose them.",
        "See whether the backend takes data (BACKEND_…, `stalled` in `vpool status`); a writer that is faster than the "
        "line shows up here, too.",
    ),
    HealthCode(
        "REGISTRY_NO_MAJORITY",
        Severity.CRITICAL,
        "Of several nodes: nobody leads the registry, as far as this one can see. Names wait, and a few seconds later reads and "
        "writes too, but of volumes whose DTL is in sync.",
        "`vpool cluster status` shows which voters are not connected: start them, or mend the network. Nothing needs to be "
        "done here once a majority is back.",
    ),
    HealthCode(
        "NODE_DEAD",
        Severity.WARNING,
        "Another node has been declared dead and is not back. What it owned has been taken over where nothing could be lost, and "
        "waits where it could not.",
        "`vpool node show NODE` says what it owns. Start it; or if it is gone for good `vpool node remove NODE`, after "
        "`vpool node steal NODE` for what waits.",
    ),
    HealthCode(
        "REGISTRY_SILENT",
        Severity.CRITICAL,
        "A command to the registry has waited for its answer for more than ten seconds: names cannot change, heads do "
        "not advance.",
        "Look at the disk of DIR/registry and at the log; `kill -9` of the registry's process is harmless, the daemon "
        "starts it again.",
    ),
    HealthCode(
        "CLOCK_STEPPED",
        Severity.WARNING,
        "The host's clock was set by more than two seconds within the last ten minutes: times of files and of events "
        "have a jump, S3 may refuse signatures.",
        "Let a time service run on the host (chrony, systemd-timesyncd), which keeps the clock by slewing.",
    ),
    HealthCode(
        "OPEN_FILES_NEAR_LIMIT",
        Severity.WARNING,
        "The daemon has nine tenths of the files open that its limit allows.",
        "Raise LimitNOFILE in the unit (or `ulimit -n`); the daemon takes up to 65,536 where it may.",
    ),
    HealthCode(
        "EVENTS_LOST",
        Severity.WARNING,
        "The last event could not be written to DIR/events.",
        "Make room on the disk of DIR; events that were lost are still in the log.",
    ),
)

HEALTH_CODES: dict[str, HealthCode] = {code.name: code for code in _TABLE}
