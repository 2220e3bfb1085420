"""What an operator watches a node by: its numbers, its events, its health, its slow requests.

The room promises that looking costs the data path next to nothing: rooms count as they go, and everything else happens when it is
asked for, or every few seconds. ``sample`` is the node at one moment; metrics, health and ``vpool top`` are made from it.
It calls the object router, the volume driver, the store, the engine and the registry's client, and decides nothing for them.
"""

from admin.watching.event_ring import EventRing, stored_events
from admin.watching.event_table import EVENTS, EventTap
from admin.watching.gathering import Gathering, Rooms
from admin.watching.health_codes import Severity
from admin.watching.listening import listening, serve_metrics
from admin.watching.mutes import Mutes
from admin.watching.routes import add_watching
from admin.watching.sample import ClusterSample
from admin.watching.watch import Watch, WatchSettings

__all__ = [
    "EVENTS", "ClusterSample", "EventRing", "EventTap", "Gathering", "Mutes", "Rooms", "Severity", "Watch", "WatchSettings",
    "add_watching", "listening", "serve_metrics", "stored_events",
]  # fmt: skip
