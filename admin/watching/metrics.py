"""A sample as Prometheus has it (text exposition format). Pure but for the process's own figures, which the client library reads.

Only what is in the sample has series: those of a deleted volume are gone with it. ``docs/metrics.md`` is made from ``METRICS``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from admin.watching.health_codes import HEALTH_CODES
from admin.watching.sample import ClusterSample, Histogram, NodeSample, OperationSample, VolumeSample
from admin.watching.watch import Health

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Sequence[str]
VOLUME = ("object", "volume")


@dataclass(frozen=True, slots=True)
class MetricKind:
    """One family of series. A counter's ``name`` ends with ``_total``; a histogram has ``_bucket``, ``_sum``, ``_count``."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str


METRICS: tuple[MetricKind, ...] = (
    MetricKind("vpool_build_info", "gauge", ("version",), "Always 1."),
    MetricKind("vpool_uptime_seconds", "gauge", (), "Since the daemon's start; counters begin anew then."),
    MetricKind(
        "vpool_volume_info", "gauge", (*VOLUME, "kind"), "Always 1; kind is volume, or file-log for the log of all files."
    ),
    MetricKind("vpool_volume_size_bytes", "gauge", VOLUME, "As its users see it."),
    MetricKind("vpool_volume_open", "gauge", VOLUME, "1 while it serves."),
    MetricKind("vpool_volume_halted", "gauge", VOLUME, "1 while it refuses service."),
    MetricKind("vpool_volume_requests_total", "counter", (*VOLUME, "operation"), "Requests answered: read, write, flush, zero."),
    MetricKind("vpool_volume_requests_failed_total", "counter", (*VOLUME, "operation"), "Requests that ended with an error."),
    MetricKind("vpool_volume_bytes_total", "counter", (*VOLUME, "operation"), "Bytes of requests answered."),
    MetricKind(
        "vpool_volume_request_seconds",
        "histogram",
        (*VOLUME, "operation"),
        "From the daemon's taking a request to its answer; the kernel's part and its queue are not in it.",
    ),
    MetricKind("vpool_volume_dirty_bytes", "gauge", VOLUME, "Acknowledged, not yet in the backend."),
    MetricKind("vpool_volume_dirty_age_seconds", "gauge", VOLUME, "Age of the oldest of these."),
    MetricKind("vpool_volume_waiting_writers", "gauge", VOLUME, "Requests that wait because the write cache is full."),
    MetricKind("vpool_volume_dtl_in_sync", "gauge", VOLUME, "1 while what is flushed is on a second node, too."),
    MetricKind("vpool_volume_dtl_wanted", "gauge", VOLUME, "1 if it should be: 0 is off."),
    MetricKind("vpool_volume_dtl_lag_records", "gauge", VOLUME, "Records that the second node has not confirmed yet."),
    MetricKind("vpool_volume_dtl_lag_bytes", "gauge", VOLUME, "The same in bytes, at most."),
    MetricKind("vpool_volume_dtl_lag_seconds", "gauge", VOLUME, "Age of the oldest of them, at most."),
    MetricKind(
        "vpool_volume_dtl_following",
        "gauge",
        VOLUME,
        "1 while an asynchronous second node is behind by dtl.lag_bytes and dtl.lag_s at most.",
    ),
    MetricKind("vpool_volume_stalled", "gauge", VOLUME, "1 while the backend takes nothing of it."),
    MetricKind("vpool_volume_uploads", "gauge", VOLUME, "Objects of it on their way to the backend."),
    MetricKind("vpool_volume_upload_retries_total", "counter", VOLUME, "Objects that had to be sent again."),
    MetricKind("vpool_volume_misses_total", "counter", VOLUME, "Requests that needed something from the backend."),
    MetricKind("vpool_volume_missed_bytes_total", "counter", VOLUME, "Bytes fetched because a request needed them."),
    MetricKind("vpool_volume_hit_bytes_total", "counter", VOLUME, "Bytes read from the read cache (not from the log)."),
    MetricKind("vpool_halted_volumes", "gauge", (), "How many refuse service, the log of files included."),
    MetricKind("vpool_log_used_bytes", "gauge", (), "Segments of the log that cannot be used again yet."),
    MetricKind("vpool_log_limit_bytes", "gauge", (), "All segments that the settings allow."),
    MetricKind("vpool_read_cache_used_bytes", "gauge", (), "Of the read cache."),
    MetricKind("vpool_read_cache_limit_bytes", "gauge", (), "Of the read cache."),
    MetricKind("vpool_map_cache_bytes", "gauge", (), "Pages of maps in memory."),
    MetricKind("vpool_cache_disk_free_bytes", "gauge", (), "Free on the disk of DIR/cache."),
    MetricKind("vpool_cache_disk_size_bytes", "gauge", (), "Size of the disk of DIR/cache."),
    MetricKind("vpool_uploads_in_flight", "gauge", (), "Objects on their way to the backend."),
    MetricKind("vpool_uploads_queued", "gauge", (), "Objects that wait for a place among these."),
    MetricKind("vpool_fetches_in_flight", "gauge", (), "Ranges on their way from the backend."),
    MetricKind("vpool_fetches_queued", "gauge", (), "Ranges that wait for a place among these."),
    MetricKind(
        "vpool_backend_requests_total",
        "counter",
        ("operation", "outcome"),
        "Requests to the store, after all their tries: succeeded, cancelled, or the class of the error.",
    ),
    MetricKind("vpool_backend_tries_total", "counter", ("operation",), "Tries of these requests."),
    MetricKind("vpool_backend_retries_total", "counter", ("operation",), "Tries that were not the first of their request."),
    MetricKind("vpool_backend_sent_bytes_total", "counter", ("operation",), "Content of objects sent; tries not counted twice."),
    MetricKind("vpool_backend_received_bytes_total", "counter", ("operation",), "Content of objects received."),
    MetricKind("vpool_backend_request_seconds", "histogram", ("operation",), "A request to the store, all its tries together."),
    MetricKind("vpool_backend_failing_seconds", "gauge", (), "For how long the store has not answered; 0 while it does."),
    MetricKind("vpool_registry_commands_total", "counter", ("command", "outcome"), "Commands, by outcome: applied or refused."),
    MetricKind("vpool_registry_command_seconds", "histogram", ("command",), "From numbering a command to its durable answer."),
    MetricKind("vpool_registry_waiting_seconds", "gauge", (), "How long the oldest unanswered command has waited."),
    MetricKind("vpool_registry_role", "gauge", ("role",), "Of several nodes: 1 for leader, voter or learner, as this one is."),
    MetricKind("vpool_registry_has_leader", "gauge", (), "Of several nodes: 0 while this one knows of none; names wait then."),
    MetricKind("vpool_registry_term", "gauge", (), "Grows with every election."),
    MetricKind("vpool_registry_lag_entries", "gauge", (), "Committed as this node knows, and not applied here yet."),
    MetricKind("vpool_registry_members", "gauge", ("link",), "Members of the cluster, by their link with this one: up or down."),
    MetricKind("vpool_lease_remaining_seconds", "gauge", (), "How long this node may answer without another renewal."),
    MetricKind("vpool_lease_waiting_answers", "gauge", (), "Answers that wait because it may not."),
    MetricKind("vpool_dead_nodes", "gauge", (), "Members that have been declared dead and are not back."),
    MetricKind("vpool_verify_running", "gauge", (), "1 while a pass of the background verification runs (docs/verification.md)."),
    MetricKind(
        "vpool_verify_started_timestamp_seconds", "gauge", (), "When the pass that runs, or was last, began; 0: none yet."
    ),
    MetricKind("vpool_verify_ended_timestamp_seconds", "gauge", (), "When the last pass ended; 0 while one runs, or none yet."),
    MetricKind("vpool_verify_compared_bytes_total", "counter", (), "Content read again and compared."),
    MetricKind("vpool_verify_damaged_objects_total", "counter", (), "Objects that were damaged or missing."),
    MetricKind("vpool_verify_mended_bytes_total", "counter", (), "Content of these written again from copies on this host."),
    MetricKind("vpool_lost_ranges", "gauge", (), "Ranges without any good copy: reads of them fail."),
    MetricKind("vpool_lost_bytes", "gauge", (), "Their bytes."),
    MetricKind(
        "vpool_restart_objects_damaged", "gauge", (), "Objects damaged or missing that only a restart without cache needs."
    ),
    MetricKind(
        "vpool_handover_pause_seconds",
        "histogram",
        (),
        "Volumes handed over: how long clients waited here for each.",
    ),
    MetricKind("vpool_handovers_given_up_total", "counter", (), "Hand-overs given up after clients had begun to wait."),
    MetricKind(
        "vpool_steal_seconds",
        "histogram",
        ("cause",),
        "What dead nodes owned: from the beginning of its take-over until it was served here. cause: automatic, command.",
    ),
    MetricKind("vpool_steals_with_loss_total", "counter", (), "Of these, such as may have lost something that was flushed."),
    MetricKind("vpool_taken_over_total", "counter", (), "Volumes that have come from other nodes by a hand-over."),
    MetricKind("vpool_forwarded_requests_total", "counter", (), "Requests of this node on what other nodes own."),
    MetricKind("vpool_executed_requests_total", "counter", (), "Requests of other nodes executed here."),
    MetricKind("vpool_exports_total", "counter", (), "Copies of the registry made in the backend (docs/recovery.md)."),
    MetricKind("vpool_export_failures_total", "counter", (), "Copies that the backend did not take."),
    MetricKind("vpool_health_problems", "gauge", ("code", "severity", "muted"), "Problems that stand, by code (docs/health.md)."),
    MetricKind("vpool_slow_requests_total", "counter", (), "Requests that took longer than `watch.slow_s`."),
    MetricKind("vpool_events_total", "counter", (), "Number of the last event; goes on over restarts."),
    MetricKind("vpool_events_lost_total", "counter", (), "Events that could not be written down."),
    MetricKind("vpool_memory_anonymous_bytes", "gauge", (), "RssAnon of the daemon: its memory but for mapped files."),
)


class _Families:
    """Families under construction, one for each kind."""

    def __init__(self) -> None:
        makers = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
        self._of = {kind.name: makers[kind.type](kind.name, kind.meaning, labels=kind.labels) for kind in METRICS}

    def add(self, name: str, value: float, labels: Labels = ()) -> None:
        family = self._of[name]
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
        family.add_metric(labels, value)

    def add_histogram(self, name: str, histogram: Histogram, labels: Labels) -> None:
        family = self._of[name]
        assert isinstance(family, HistogramMetricFamily)
        bounds = [f"{bound:.9g}" for bound in histogram.bounds_s] + ["+Inf"]
        family.add_metric(labels, list(zip(bounds, histogram.cumulative, strict=True)), histogram.sum_s)

    def all(self) -> list[Metric]:
        return list(self._of.values())


class _Shown(Collector):
    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        families = _Families()
        sample = self._health.sample
        _node(families, sample)
        _cache(families, sample)
        _backend(families, sample)
        _registry(families, sample)
        _cluster(families, sample.cluster)
        _verification(families, sample)
        _handover(families, sample)
        for volume in sample.volumes:
            _volume(families, volume)
        _problems(families, self._health)
        yield from families.all()


def exposition(health: Health) -> bytes:
    """All series as text; some milliseconds per hundred volumes, so for a thread."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Shown(health))
    return generate_latest(registry)


def _node(families: _Families, sample: NodeSample) -> None:
    families.add("vpool_build_info", 1, [sample.version])
    families.add("vpool_uptime_seconds", sample.uptime_s)
    families.add("vpool_halted_volumes", sum(volume.state == "halted" for volume in sample.volumes))
    families.add("vpool_slow_requests_total", sample.slow_requests)
    families.add("vpool_events_total", sample.last_event)
    families.add("vpool_events_lost_total", sample.events_lost)
    families.add("vpool_memory_anonymous_bytes", sample.anonymous_bytes)
    families.add("vpool_uploads_in_flight", sample.queues.uploads)
    families.add("vpool_uploads_queued", sample.queues.uploads_queued)
    families.add("vpool_fetches_in_flight", sample.queues.fetches)
    families.add("vpool_fetches_queued", sample.queues.fetches_queued)


def _cache(families: _Families, sample: NodeSample) -> None:
    cache = sample.cache
    families.add("vpool_log_used_bytes", cache.log_used_bytes)
    families.add("vpool_log_limit_bytes", cache.log_limit_bytes)
    families.add("vpool_read_cache_used_bytes", cache.read_cache_used_bytes)
    families.add("vpool_read_cache_limit_bytes", cache.read_cache_limit_bytes)
    families.add("vpool_map_cache_bytes", cache.map_cache_bytes)
    families.add("vpool_cache_disk_free_bytes", cache.disk_free_bytes)
    families.add("vpool_cache_disk_size_bytes", cache.disk_size_bytes)


def _backend(families: _Families, sample: NodeSample) -> None:
    families.add("vpool_backend_failing_seconds", sample.backend_failing_s)
    for operation, of in sample.store.items():
        outcomes = {"succeeded": of.succeeded, "cancelled": of.cancelled, **of.errors}
        for outcome, count in outcomes.items():
            families.add("vpool_backend_requests_total", count, [operation, outcome])
        families.add("vpool_backend_tries_total", of.tries, [operation])
        families.add("vpool_backend_retries_total", of.retries, [operation])
        families.add("vpool_backend_sent_bytes_total", of.sent_bytes, [operation])
        families.add("vpool_backend_received_bytes_total", of.received_bytes, [operation])
        families.add_histogram("vpool_backend_request_seconds", of.latency, [operation])


def _registry(families: _Families, sample: NodeSample) -> None:
    families.add("vpool_registry_waiting_seconds", sample.registry_waiting_s)
    for command, times in sample.registry.items():
        families.add("vpool_registry_commands_total", times.latency.count - times.refused, [command, "applied"])
        families.add("vpool_registry_commands_total", times.refused, [command, "refused"])
        families.add_histogram("vpool_registry_command_seconds", times.latency, [command])


def _cluster(families: _Families, cluster: ClusterSample | None) -> None:
    if cluster is None:
        return
    families.add("vpool_registry_role", 1, ["leader" if cluster.leads else "voter" if cluster.votes else "learner"])
    families.add("vpool_registry_has_leader", int(cluster.has_leader))
    families.add("vpool_registry_term", cluster.term)
    families.add("vpool_registry_lag_entries", cluster.lag_entries)
    families.add("vpool_registry_members", cluster.connected, ["up"])
    families.add("vpool_registry_members", cluster.members - cluster.connected, ["down"])
    families.add("vpool_lease_remaining_seconds", cluster.lease_left_s)
    families.add("vpool_lease_waiting_answers", cluster.answers_waiting)
    families.add("vpool_dead_nodes", len(cluster.dead_nodes))


def _verification(families: _Families, sample: NodeSample) -> None:
    of = sample.verification
    families.add("vpool_verify_running", of.running)
    families.add("vpool_verify_started_timestamp_seconds", of.started)
    families.add("vpool_verify_ended_timestamp_seconds", of.ended)
    families.add("vpool_verify_compared_bytes_total", of.compared_bytes)
    families.add("vpool_verify_damaged_objects_total", of.damaged_objects)
    families.add("vpool_verify_mended_bytes_total", of.mended_bytes)
    families.add("vpool_lost_ranges", of.lost_ranges)
    families.add("vpool_lost_bytes", of.lost_bytes)
    families.add("vpool_restart_objects_damaged", of.needed_objects)
    families.add("vpool_exports_total", sample.export.exports)
    families.add("vpool_export_failures_total", sample.export.failures)


def _handover(families: _Families, sample: NodeSample) -> None:
    of = sample.handover
    families.add_histogram("vpool_handover_pause_seconds", of.handed_over, [])
    families.add("vpool_handovers_given_up_total", of.given_up)
    families.add("vpool_taken_over_total", of.taken_over)
    for cause, times in of.stolen.items():
        families.add_histogram("vpool_steal_seconds", times, [cause])
    families.add("vpool_steals_with_loss_total", of.stolen_with_loss)
    families.add("vpool_forwarded_requests_total", of.forwarded_requests)
    families.add("vpool_executed_requests_total", of.executed_requests)


def _volume(families: _Families, volume: VolumeSample) -> None:
    labels = [volume.object, _printable(volume.path)]
    families.add("vpool_volume_info", 1, [*labels, volume.kind])
    families.add("vpool_volume_size_bytes", volume.size, labels)
    families.add("vpool_volume_open", volume.state == "serving", labels)
    families.add("vpool_volume_halted", volume.state == "halted", labels)
    families.add("vpool_volume_dirty_bytes", volume.dirty_bytes, labels)
    families.add("vpool_volume_dirty_age_seconds", volume.oldest_dirty_age_s, labels)
    families.add("vpool_volume_waiting_writers", volume.waiting_writers, labels)
    families.add("vpool_volume_dtl_in_sync", volume.dtl == "in-sync", labels)
    families.add("vpool_volume_dtl_wanted", volume.dtl != "off", labels)
    families.add("vpool_volume_dtl_lag_records", volume.dtl_lag, labels)
    families.add("vpool_volume_dtl_lag_bytes", volume.dtl_lag_bytes, labels)
    families.add("vpool_volume_dtl_lag_seconds", volume.dtl_lag_s, labels)
    families.add("vpool_volume_dtl_following", volume.dtl == "following", labels)
    families.add("vpool_volume_stalled", bool(volume.stalled), labels)
    families.add("vpool_volume_uploads", volume.uploading, labels)
    families.add("vpool_volume_upload_retries_total", volume.retries, labels)
    families.add("vpool_volume_misses_total", volume.misses, labels)
    families.add("vpool_volume_missed_bytes_total", volume.missed_bytes, labels)
    families.add("vpool_volume_hit_bytes_total", volume.hit_bytes, labels)
    for operation, of in volume.operations.items():
        _operation(families, [*labels, operation], of)


def _operation(families: _Families, labels: Labels, of: OperationSample) -> None:
    families.add("vpool_volume_requests_total", of.latency.count, labels)
    families.add("vpool_volume_requests_failed_total", of.failed, labels)
    families.add("vpool_volume_bytes_total", of.bytes, labels)
    families.add_histogram("vpool_volume_request_seconds", of.latency, labels)


def _problems(families: _Families, health: Health) -> None:
    muted = {each.problem.code for each in health.standing if each.muted}
    for code in HEALTH_CODES.values():
        count = sum(each.problem.code == code.name for each in health.standing)
        labels = [code.name, code.severity.name.lower(), "true" if code.name in muted else "false"]
        families.add("vpool_health_problems", count, labels)


def _printable(path: str) -> str:
    """Names are bytes; what is not UTF-8 cannot be a label as it is."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
