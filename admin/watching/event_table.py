"""Which lines of the log are events: what an operator may ask for later, with what each of them means.

An event *is* a line of the log, caught on its way: rooms say a thing once, under one name. ``docs/events.md`` is made from this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

EVENTS: dict[str, str] = {
    # the daemon
    "daemon_starting": "The daemon has looked at DIR and starts.",
    "settings_in_force": "The settings that differ from their defaults, at a start.",
    "dead_mount_removed": "The mount that a killed predecessor had left was undone.",
    "stop_requested": "A signal has asked for a clean stop.",
    "daemon_stopping": "No more requests; tails are being sent.",
    "stop_cut_short": "A second signal ended the stop; what was not in the backend is in the cache.",
    "stop_timed_out": "The stop took longer than it may and was ended.",
    "tail_left_in_cache": "A clean stop has left data of this volume in the cache: how much, and why.",
    "registry_untold": "The registry did not answer any more at a stop: the kinds of commands that it was not told.",
    "daemon_stopped": "The daemon has stopped.",
    "daemon_failed": "The daemon could not go on.",
    "unmounted_by_somebody": "The mount was undone from outside, so the daemon stops.",
    "data_path_unhealthy": "A part of the data path answered the watchdog with an error.",
    "data_path_does_not_answer": "A part of the data path did not answer the watchdog in time.",
    # volumes
    "volume_opened": (
        "A volume was opened into a new epoch: how much of its tail was found here, and whether its map had to be fetched."
    ),
    "volume_halted": "A volume refuses service from now on, and why.",
    "volume_reopened": "A halted volume was opened again by an operator.",
    "volume_not_closed_cleanly": "The log's disk failed while a volume was closed; the next opening looks at what there is.",
    "volume_removed": "A deleted volume's bucket is gone.",
    "tail_not_taken_up": "Data that are only in the cache could not be taken up after a start.",
    "not_caught_up": "The size of an object could not be looked up after a start.",
    # volumes that move between nodes
    "hand_over_begins": "A node has asked for a volume of this one; its log is being copied while it is served.",
    "handed_over": "A volume is another node's: who has it, how much was copied, how long that took, how long clients waited.",
    "hand_over_given_up": "A volume stays here after clients had begun to wait, and for how long they did.",
    "taken_over": "A volume has come from another node and is served here.",
    "not_taken_over": "A volume that was to come could not be opened; it is opened by whoever asks for it next.",
    "wish_given_up": "Another node has not given a volume to this one, and why.",
    "not_staged": "What was to come of another node's volume could not be kept here, and why.",
    "remains_dropped": "What this node had kept of a volume that is another node's now was given back: the backend has it.",
    "node_drains": "A node is being emptied: its volumes and files move to others.",
    "node_drained": "How many of its volumes and logs of files have moved, and how many could not.",
    "log_of_files_made": "This node has made another log for new files: the one before is another node's now.",
    "node_active": "A node is given volumes and files again.",
    # the DTL, and what becomes of a dead node's objects
    "dtl_state": "The registry has another state of an object's DTL: which, in what mode, and with what peer.",
    "dtl_lag_at_bound": "An asynchronous peer is as far behind as dtl.lag_bytes and dtl.lag_s allow: writes and flushes wait.",
    "dtl_lag_within_bound": "It has come nearer, or is not counted on any more: they go on.",
    "dtl_peer_chosen": "Another node is to keep an object's tail a second time.",
    "dtl_peer_refuses": "That node does not take it, and why.",
    "dtl_not_kept": "This node could not keep another one's tail, and why; that one goes on without it, or with another peer.",
    "dtl_store_not_opened": "What this node keeps of another one's tail could not be opened, and why.",
    "node_expired": "A node has not renewed its lease in time and was declared dead.",
    "takeover_begins": "This node takes an object over from a dead one.",
    "takeover_given_up": "That came to nothing, and why.",
    "stolen": "The object is this node's now: at which epoch, from whom, and whether everything that was flushed is there.",
    "stolen_not_opened": "It is this node's, but could not be opened, and why; whoever asks for it tries again.",
    "powered_off": "The command dtl.power_off has powered a dead node's host off.",
    "not_powered_off": "It has not, and why: nothing of that node is taken over by itself until it has.",
    # waiting
    "writers_wait": "Writers of a volume have begun to wait: its write cache, or the node's log, is at its limit.",
    "writers_go_on": "No writer of the volume waits any more, and how long that took.",
    "fuse_limit_near": "Requests that wait have taken nearly all that a limit of the mount allows: which one, and what follows.",
    "fuse_limit_eased": "That limit of the mount is far again.",
    "too_many_open_for_writing": "As many handles are open for writing as the mount allows; further ones get ENFILE.",
    "fuse_background_limit_stays": "The kernel's limit on asynchronous requests of the mount could not be raised, and why.",
    # the backend
    "backend_unavailable": "The store does not answer any more.",
    "backend_available_again": "The store answers again, and how long it did not.",
    "backend_write_waits": "The backend has taken nothing of a volume for some seconds, and why.",
    "backend_write_goes_on": "The backend takes data of the volume again.",
    "backend_read_waits": "A read has been waiting for the backend for some seconds, and why.",
    "backend_range_damaged": "A range of an object came back damaged; it is fetched again.",
    "backend_object_damaged": "A TLog or checkpoint came back damaged; it is fetched again.",
    "object_lost": "An object that must exist has been missing for too long: reads of what it holds fail.",
    "registry_waits": "The registry does not answer.",
    # what a rebuilding from the buckets would find (docs/recovery.md)
    "namespace_export_waits": "The copy of the registry in the backend cannot be brought up to date, and why.",
    "namespace_export_goes_on": "It can again.",
    "namespace_not_exported_at_stop": "A clean stop had no time for the last copy; the next start makes one.",
    # the background verification (docs/verification.md)
    "verification_ended": "A pass over everything in the backend has ended: what it compared, and how many ranges are lost.",
    "verification_interrupted": "A pass could not go on; it is tried again.",
    "verification_left_out": "An object could not be looked at, and why; the next pass tries again.",
    "verification_begins_anew": "What the verification had noted could not be read; it begins with nothing.",
    "verification_not_noted": "Where the verification stands could not be written; a restart repeats what was done since.",
    "content_mended": "An object was damaged or gone; what this host still had of it was written again.",
    "content_lost": "A range has no good copy any more: reads of it fail. `vpool verify lost` shows whose it is.",
    "loss_accepted": "An operator let what is lost be zeros.",
    "restart_would_fail": "An object that a restart without the cache needs is damaged or missing.",
    # several nodes
    "node_was_paused": "This node's process stood still for longer than its lease: for how long.",
    "cache_disk_dead": "The cache's disk refuses to write, again and again: the node gives way if a peer can take over.",
    "registry_silent": "Of several nodes: the registry does not answer; names wait, and what is known of attributes may be old.",
    "registry_answers_again": "It answers again.",
    "namespace_exporter": "Another node than before copies the registry to the backend.",
    # health
    "health_problem_began": "A problem of `vpool health` has come up: its code, what it is about, and what is wrong.",
    "health_problem_ended": "The problem is over, and how long it lasted.",
    "health_muted": "An operator has muted a health code.",
    "health_unmuted": "A health code counts again.",
}

_NOT_FIELDS = {"event", "level", "exc_info", "timestamp"}


class EventTap:
    """A structlog processor that hands events on to whoever has ``attached``, and keeps those that come before.

    May be called in any thread.
    """

    EARLY_MAX = 64

    def __init__(self) -> None:
        self._early: list[tuple[str, str, dict[str, Any]]] = []
        self._record: Callable[[str, str, dict[str, Any]], object] | None = None

    def attach(self, record: Callable[[str, str, dict[str, Any]], object]) -> None:
        """From now on ``record(name, level, fields)`` gets every event; those that came before it gets at once."""
        early, self._early = self._early, []
        for name, level, fields in early:
            record(name, level, fields)
        self._record = record

    def __call__(self, logger: object, method: str, event: Any) -> Any:
        name = event.get("event")
        if name in EVENTS:
            fields = {key: value for key, value in event.items() if key not in _NOT_FIELDS}
            if self._record is not None:
                self._record(name, method, fields)
            elif len(self._early) < self.EARLY_MAX:
                self._early.append((name, method, fields))
        return event
