"""The Object Router: local or remote? One vocabulary for all front ends.

The room promises that a request reaches the one owner of its object, or is told why not. It calls the drivers and the registry.
"""

from objectrouter.handover_source import HandoverTimings
from objectrouter.mirror_policy import MirrorSettings
from objectrouter.movements import PAUSES_S, STEALS_S, Movements
from objectrouter.neighbours import Neighbourhood
from objectrouter.router import FilesystemStatistics, ObjectRouter, RouterSettings
from objectrouter.slow import SlowRequest, SlowRequests
from objectrouter.thresholds import Threshold
from objectrouter.traffic import BUCKETS, ObjectTraffic, OperationTimes, Traffic, bucket_bound_s
from registry import ROOT_INODE, DirectoryEntry, Inode, InodeKind

__all__ = [
    "BUCKETS",
    "PAUSES_S",
    "ROOT_INODE",
    "STEALS_S",
    "DirectoryEntry",
    "FilesystemStatistics",
    "HandoverTimings",
    "Inode",
    "InodeKind",
    "MirrorSettings",
    "Movements",
    "Neighbourhood",
    "ObjectRouter",
    "ObjectTraffic",
    "OperationTimes",
    "RouterSettings",
    "SlowRequest",
    "SlowRequests",
    "Threshold",
    "Traffic",
    "bucket_bound_s",
]  # fmt: skip
