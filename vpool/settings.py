"""Everything that may be set: TOML, overridden by the environment; frozen; unknown keys are refused.

Each setting's description says what it is and, after the semicolon, what follows from it; its unit is the end of its name.
``docs/settings.md`` is made from this file. Rules across fields are in ``Settings.validate_across``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from backend import BackendSettings, parse_url
from peers import parse_address
from vpool.errors import Invalid
from vpool.loopback import parse_loopback
from vpool.sizes import parse_size, show_size

MIB = 1 << 20
GIB = 1 << 30
SEGMENT_BYTES = 4 * MIB + 64 * 1024  # one file of the log: see docs/formats/segment.md
SEGMENTS_SPARE = 16  # room that the log needs besides one volume at its hard limit
REQUESTS_SPARE = 64  # places for requests that waiting writes cannot take
READ_CACHE_SHARE = 0.2  # of the disk given, unless set


def _bytes(value: object) -> object:
    """Let sizes be written as ``8GiB`` too."""
    if not isinstance(value, str):
        return value
    try:
        return parse_size(value)
    except Invalid as error:
        raise ValueError(error.message) from None


Bytes = Annotated[int, BeforeValidator(_bytes)]


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _absolute(value: object) -> object:
    if isinstance(value, str) and not value.startswith("/"):
        raise ValueError("is not an absolute path; write it from /, because a service has no current directory")
    return value


def _store_address(value: object) -> object:
    if isinstance(value, str):
        try:
            parse_url(value)
        except Invalid as error:
            raise ValueError(error.message) from None
    return value


AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]
StoreAddress = Annotated[str, BeforeValidator(_store_address)]


class NodeSettings(Section):
    """What `vpool serve` runs; `vpool up` takes these from its command line instead."""

    directory: AbsolutePath | None = Field(
        None, description="DIR, all state of this node, made at the first start; another one is another vPool"
    )
    mountpoint: AbsolutePath | None = Field(
        None, description="MOUNT, an empty directory that must exist; the vPool appears there, and what is below it is hidden"
    )
    backend: StoreAddress | None = Field(
        None,
        description="address of the object store, without credentials (docs/backends.md); unset is DIR/backend, on this host",
    )
    stop_margin_s: float = Field(
        60.0,
        gt=0,
        le=3600,
        description=(
            "how much longer than twice fuse.stop_s and volumes.stop_s a clean stop may take; then the process ends at once "
            "(exit code 15), and the next start reads the log instead of a closed map"
        ),
    )


class LogSettings(Section):
    """What the daemon says, and where."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is written; debug is for developers"
    )
    format: Literal["auto", "text", "json"] = Field(
        "auto",
        description="how a line looks; auto is text on a terminal and in the journal, json elsewhere, which log collectors want",
    )
    file: AbsolutePath | None = Field(
        None,
        description="file that gets the log; unset is standard error, which systemd brings to the journal with priorities",
    )
    file_bytes: Bytes = Field(
        64 * MIB, ge=64 * 1024, description="size at which log.file is renamed to FILE.1 and begun anew; a line is never cut"
    )
    files: int = Field(
        5, ge=1, le=1000, description="how many files of the log are kept, the present one included; older ones are deleted"
    )


class CacheSettings(Section):
    """The part of the host's SSD and memory that is given to vPool, under DIR/cache."""

    size_bytes: Bytes = Field(
        8 * GIB,
        ge=256 * MIB,
        description="disk space for log and read cache; must be free at start, more lets writers outrun the backend longer",
    )
    read_cache_bytes: Bytes | None = Field(
        None,
        ge=0,
        description="disk space of these that caches reads, by default 20 %; the rest is the write log, 0 caches no reads",
    )
    map_cache_bytes: Bytes = Field(
        256 * MIB, ge=8 * MIB, description="memory for map pages of all volumes; too little costs a disk read per random request"
    )

    @property
    def read_bytes(self) -> int:
        """Bytes of the read cache."""
        return int(self.size_bytes * READ_CACHE_SHARE) if self.read_cache_bytes is None else self.read_cache_bytes

    @property
    def segments_max(self) -> int:
        """Files of the log that fit into what the read cache leaves."""
        return (self.size_bytes - self.read_bytes) // SEGMENT_BYTES


class VolumeSettings(Section):
    """Write cache of each volume, and its way to the backend. The same fields as ``volumedriver.VolumeDriverSettings``."""

    scos_per_tlog: int = Field(
        16, ge=1, le=256, description="SCOs (4 MiB) per TLog; more means fewer PUTs, a longer gap after the loss of the cache"
    )
    tlog_age_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="how old an acknowledged byte may get before it is sent to the backend; less costs PUTs for slow writers",
    )
    soft_bytes: Bytes = Field(
        2 * GIB, ge=8 * MIB, description="dirty bytes of a volume above which its writers are slowed in proportion"
    )
    hard_bytes: Bytes = Field(
        4 * GIB,
        ge=16 * MIB,
        description="dirty bytes of a volume at which its writers wait; bounds what the loss of the cache costs",
    )
    uploads: int = Field(
        16, ge=1, le=256, description="SCOs under way to the backend, per node; each takes about 8 MiB of memory"
    )
    fetches: int = Field(
        16, ge=1, le=256, description="ranges under way from the backend, per node; more helps cold random reads over long lines"
    )
    tlogs_in_flight: int = Field(
        3, ge=1, le=64, description="TLogs of one volume being uploaded at once; more fills a line with a long delay"
    )
    tlogs_per_checkpoint: int = Field(
        16,
        ge=1,
        le=1024,
        description="TLogs that a restart without cache reads at most, about; fewer means quicker restarts, more map uploads",
    )
    read_ahead_scos: int = Field(
        4, ge=0, le=64, description="how far ahead of a sequential reader whole SCOs are fetched; 0 turns it off"
    )
    stall_s: float | None = Field(
        None,
        gt=0,
        description="how long a request may wait for room or the backend before it fails; unset waits for ever, as a disk would",
    )
    lost_object_s: float = Field(
        300.0,
        gt=0,
        description="how long a 404 on an object that must exist is retried; too short turns a lagging store into read errors",
    )
    stop_s: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="how long a clean stop may spend on sending the tail; what is left stays in the cache and is said",
    )


class RecoverySettings(Section):
    """What a rebuilding from the buckets would find (`vpool recover`). The same fields as ``recovery.ExporterSettings``."""

    age_s: float = Field(
        10.0,
        ge=0.1,
        le=3600,
        description="age of the namespace's copy in the backend; what was renamed or removed since would come back as it was",
    )
    keep_full: int = Field(
        2, ge=1, le=100, description="full copies of the namespace that are kept, with all that was built on them; more is safer"
    )
    tombstone_days: float = Field(
        90.0,
        ge=1,
        le=36_500,
        description="how long a deleted volume is known to be deleted; a registry's backup that is restored should be younger",
    )
    stop_s: float = Field(
        5.0, ge=0, le=3600, description="how long a clean stop may spend on the last copy; without it the one before is used"
    )


class VerifySettings(Section):
    """The background verification: everything in the backend is read again and compared (`vpool verify`)."""

    days: float = Field(
        30.0,
        ge=0,
        le=3650,
        description="within how many days all is read once; fewer costs the backend more reads, 0 verifies only when asked to",
    )
    bytes_per_s_max: Bytes = Field(
        32 * MIB, ge=64 * 1024, description="how fast it may read at most; where that is too slow a pass takes longer than `days`"
    )


class NamespaceSettings(Section):
    """Names and kinds."""

    volume_rules: tuple[str, ...] = Field(
        ("*.raw", "*-flat.vmdk"),
        min_length=1,
        description="patterns of names that become volumes (virtual disks) when created; other names become files, for ever",
    )


class FuseSettings(Section):
    """The mount."""

    entry_timeout_s: float = Field(
        1.0,
        ge=0,
        le=60,
        description=(
            "how long the kernel may believe a name; a volume made or deleted by `vpool volume` shows up that much later. "
            "On a node of a cluster it believes none, whatever is set here"
        ),
    )
    attributes_timeout_s: float = Field(
        1.0,
        ge=0,
        le=60,
        description=(
            "how long the kernel may believe size and times; what another front end changes shows up that much later. "
            "On a node of a cluster it believes none, whatever is set here"
        ),
    )
    sync_on_close: bool = Field(
        False,
        description=(
            "whether close(2) makes durable what was written, as NFS does; without it only fsync does, as on a local disk, "
            "and a close costs nothing. What is acknowledged survives the daemon in either case"
        ),
    )
    requests_max: int = Field(
        16_384,
        ge=128,
        le=65_536,
        description=(
            "requests taken at once; when all of them wait (reads, for a backend that is away), those for local data wait too. "
            "One costs about 20 KiB of memory while it waits, besides the data of a write"
        ),
    )
    background_max: int = Field(
        1024,
        ge=12,
        le=65_535,
        description=(
            "asynchronous requests of these (io_submit, io_uring, read-ahead); with more such writes waiting at hard limits, "
            "asynchronous reads wait too. Each waiting write holds its data twice in memory, 2 MiB at most"
        ),
    )
    open_for_writing_max: int = Field(
        1024,
        ge=1,
        le=32_768,
        description=(
            "handles open for writing at once, further ones get ENFILE; each may have one synchronous write waiting at a hard "
            "limit, which holds its data twice in memory, 2 MiB at most"
        ),
    )
    stop_s: float = Field(
        5.0, ge=0, le=600, description="how long requests under way may take at a stop; later ones fail with ENOTCONN"
    )


def _loopback_address(value: object) -> object:
    if isinstance(value, str):
        try:
            parse_loopback(value)
        except Invalid as error:
            raise ValueError(error.message) from None
    return value


def _address(value: object) -> object:
    if isinstance(value, str):
        try:
            parse_address(value)
        except Invalid as error:
            raise ValueError(error.message) from None
    return value


def _domain(value: object) -> object:
    if isinstance(value, str) and value and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
        raise ValueError("is not a name of a failure domain; use up to 64 of A-Z a-z 0-9 . _ -")
    return value


NodeAddress = Annotated[str, BeforeValidator(_address)]


class ClusterSettings(Section):
    """Where the nodes of a vPool with several find each other, after `vpool cluster init` or `vpool cluster join`."""

    listen: NodeAddress | None = Field(
        None,
        description=(
            "address and port where this node's registry listens for the other nodes, its daemon at the next port; "
            "unset is what `vpool cluster init` or `join` was told"
        ),
    )
    advertise: NodeAddress | None = Field(
        None,
        description=(
            "where the other nodes find these two, if not at cluster.listen (behind a translation of addresses, or when that is "
            "0.0.0.0); a wrong one lets the node reach others that cannot reach it"
        ),
    )
    maintenance_s: float = Field(
        600.0,
        ge=10,
        le=86_400,
        description=(
            "how much longer than others a node in maintenance may be away before this node has it declared dead and what it "
            "owned may go on elsewhere; what it owns waits so long"
        ),
    )
    failure_domain: Annotated[str, BeforeValidator(_domain)] = Field(
        "",
        description=(
            "name of what fails together with this node (a rack, a room); mirrors of its data are put elsewhere if they can be. "
            "Unset is the node by itself"
        ),
    )
    owner_wait_s: float | None = Field(
        None,
        gt=0,
        description=(
            "how long a request on an object of another node waits while that one does not answer, before it fails with "
            "ETIMEDOUT; unset waits for ever, as a hard mount does, and what is too short makes an I/O error of a restart"
        ),
    )
    move_requests: int = Field(
        2000,
        ge=0,
        le=1_000_000_000,
        description=(
            "requests on a volume of another node, older ones counting less, from which on this node asks for the volume; fewer "
            "move volumes sooner and more often; 0 never asks: then volumes move by command only"
        ),
    )
    move_half_life_s: float = Field(
        30.0,
        ge=1,
        le=86_400,
        description="age at which a request counts half for cluster.move_requests; longer moves volumes for older use",
    )
    move_stay_s: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description=(
            "how long a volume that was opened here, or has come here, stays at least, whoever else uses it; too short lets "
            "volumes that two nodes use go to and fro, each time with a short pause"
        ),
    )
    move_pause_s: float = Field(
        2.0,
        ge=0.1,
        le=60,
        description=(
            "how long clients may have to wait for a volume to move before that is given up; too short keeps volumes of a slow "
            "disk or network where they are"
        ),
    )


class DtlSettings(Section):
    """Tails of logs on a second node, so that what was flushed survives the loss of a host (`vpool volume dtl`)."""

    mode: Literal["auto", "sync", "async", "off"] = Field(
        "auto",
        description=(
            "for what nobody has decided on: sync lets a flush wait for a second node; async lets one follow, and a flush wait "
            "only while that is too far behind; off has none; auto is sync where three or more vote (a witness counts). Without "
            "one the loss of a host loses what the backend had not got yet, with async what the second node had not"
        ),
    )
    lag_bytes: Bytes = Field(
        64 * MIB,
        ge=64 * 1024,
        le=16 * GIB,
        description=(
            "how much an asynchronous peer may lack before flushes and writes wait for it: as much may be lost with a host; less "
            "makes writers feel a slow link sooner"
        ),
    )
    lag_s: float = Field(
        5.0,
        ge=0.5,
        le=3600,
        description="the same as the age of the oldest that it lacks; a peer that is silent for patience_s is given up before",
    )
    change_peer_s: float = Field(
        10.0,
        ge=1,
        le=3600,
        description="how long a peer may be away before another is chosen, which is sent the whole tail; till then there is none",
    )
    patience_s: float = Field(
        2.0,
        ge=1,
        le=60,
        description=(
            "how long flushes wait for a peer that is silent, before the registry is told that they go on without it; more "
            "rides out longer disturbances"
        ),
    )
    power_off: tuple[str, ...] = Field(
        (),
        description=(
            "command, as a list of words, that powers the host of a dead node off (VPOOL_DEAD_NODE and VPOOL_DEAD_ADDRESS tell "
            "which) before its objects are taken over by themselves; if it fails they are not, and it is tried again"
        ),
    )


class WatchSettings(Section):
    """Numbers, events and health, for whoever watches the node."""

    metrics_address: Annotated[str | None, BeforeValidator(_loopback_address)] = Field(
        None,
        description=(
            "loopback address and port, like `127.0.0.1:9420`, where metrics are served at /metrics over TCP, to everybody on "
            "this host; unset serves them on the socket in DIR only"
        ),
    )
    period_s: float = Field(
        5.0,
        ge=0.5,
        le=300,
        description="how often the node looks at itself; what comes and goes in between gives no event of health",
    )
    backend_check_s: float = Field(
        10.0,
        ge=1,
        le=3600,
        description="how often the backend is asked whether it answers (one listing); more seldom costs fewer requests",
    )
    dirty_old_s: float = Field(
        120.0,
        gt=0,
        description="age of data not yet in the backend from which on health says DIRTY_OLD; keep it above `volumes.tlog_age_s`",
    )
    slow_s: float = Field(
        1.0,
        gt=0,
        le=3600,
        description="how long a request may take before `vpool slow list` has it, and why it waited; too little fills the list",
    )
    slow_kept: int = Field(256, ge=1, le=65_536, description="how many of these are kept in memory; the oldest goes first")
    events_bytes: Bytes = Field(
        4 * MIB,
        ge=64 * 1024,
        le=GIB,
        description="disk space for events under DIR/events; the oldest go first, 4 MiB are some 20,000",
    )


class Settings(BaseSettings):
    """All of it. ``VPOOL_<SECTION>__<KEY>`` in the environment overrides the file."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="VPOOL_", env_nested_delimiter="__")

    node: NodeSettings = NodeSettings()
    log: LogSettings = LogSettings()
    cache: CacheSettings = CacheSettings()
    volumes: VolumeSettings = VolumeSettings()
    namespace: NamespaceSettings = NamespaceSettings()
    recovery: RecoverySettings = RecoverySettings()
    verify: VerifySettings = VerifySettings()
    backend: BackendSettings = BackendSettings()
    fuse: FuseSettings = FuseSettings()
    cluster: ClusterSettings = ClusterSettings()
    dtl: DtlSettings = DtlSettings()
    watch: WatchSettings = WatchSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment first, then what the file says; nothing else."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def validate_across(self) -> Settings:
        """Rules that no field can check alone."""
        if (self.node.directory is None) != (self.node.mountpoint is None):
            raise ValueError("node.directory and node.mountpoint belong together: `vpool serve` needs both")
        if self.volumes.soft_bytes > self.volumes.hard_bytes:
            raise ValueError("volumes.soft_bytes must not exceed volumes.hard_bytes: writers would wait before they were slowed")
        if self.cache.read_bytes >= self.cache.size_bytes:
            raise ValueError("cache.read_cache_bytes must be less than cache.size_bytes: nothing would be left for the write log")
        log_bytes = self.cache.size_bytes - self.cache.read_bytes
        needed = self.volumes.hard_bytes + SEGMENTS_SPARE * SEGMENT_BYTES
        if log_bytes < needed:
            raise ValueError(
                f"the write log gets {show_size(log_bytes)} (cache.size_bytes less cache.read_cache_bytes) but needs "
                f"{show_size(needed)}, volumes.hard_bytes and a little more; enlarge cache.size_bytes or lower "
                "volumes.soft_bytes and volumes.hard_bytes"
            )
        writes = self.fuse.background_max + self.fuse.open_for_writing_max
        if self.fuse.requests_max < writes + REQUESTS_SPARE:
            raise ValueError(
                f"fuse.requests_max must be at least {writes + REQUESTS_SPARE}: fuse.background_max, fuse.open_for_writing_max "
                f"and {REQUESTS_SPARE} more; waiting writes would leave no place for reads"
            )
        for rule in self.namespace.volume_rules:
            if not rule or "/" in rule:
                raise ValueError(
                    f"namespace.volume_rules: {rule!r} is not a pattern for a name; write one like *.raw, without '/'"
                )
        return self


def sections() -> dict[str, type[BaseModel]]:
    """The tables of the file by name."""
    found: dict[str, Any] = {name: field.annotation for name, field in Settings.model_fields.items()}
    return found
