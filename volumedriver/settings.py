"""What an operator may set of the Volume Driver. Pure."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class VolumeDriverSettings:
    """Limits and times of the write cache and of streaming; the defaults are those of the design."""

    scos_per_tlog: int = 16  # more: fewer PUTs, a longer gap after the loss of the cache
    tlog_age_s: float = 10.0  # how old an acknowledged byte may get before it is sent to the backend
    soft_bytes: int = 2 * GIB  # per volume: above it writers are slowed in proportion
    hard_bytes: int = 4 * GIB  # per volume: at it writers wait
    uploads: int = 16  # SCOs under way to the backend, per node; each takes about 8 MiB of memory
    fetches: int = 16  # ranges under way from the backend, per node
    tlogs_in_flight: int = 3  # per volume: TLogs being uploaded at once
    tlogs_per_checkpoint: int = 16  # how many TLogs a restart without cache reads at most (about)
    read_ahead_scos: int = 4  # how far ahead of a sequential reader whole SCOs are fetched; 0: never
    stall_s: float | None = None  # how long a request may wait for room or for the backend; None: for ever
    lost_object_s: float = 300.0  # how long a 404 on an object that must exist is retried before it is an error
    stop_s: float = 30.0  # how long a clean stop may spend on uploading the tail
