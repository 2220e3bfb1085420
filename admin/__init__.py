"""The management API: what an administrator sees and changes, as HTTP on a unix socket.

The room promises that every answer is one of its models, and every refusal an ``ErrorReport`` with a status from one table. It
calls the object router, the volume driver, the store and the engine; it decides nothing that they could decide.
"""

from admin.buckets import Buckets, add_buckets
from admin.caching import Caching, add_caching
from admin.contents import Contents
from admin.contents_routes import add_contents
from admin.entries import Entries, add_entries
from admin.models import ErrorReport, NewVolume, StatusReport, VolumeList, VolumeReport
from admin.moving import Moving, add_moving
from admin.nodes import Nodes, add_nodes
from admin.patrolling import Patrolling, add_patrolling
from admin.service import Administration, NodeFacts
from admin.serving import serve
from admin.takeovers import Takeovers, add_takeovers

__all__ = [
    "Administration",
    "Buckets",
    "Caching",
    "Contents",
    "Entries",
    "ErrorReport",
    "Moving",
    "NewVolume",
    "NodeFacts",
    "Nodes",
    "Patrolling",
    "StatusReport",
    "Takeovers",
    "VolumeList",
    "VolumeReport",
    "add_buckets",
    "add_caching",
    "add_contents",
    "add_entries",
    "add_moving",
    "add_nodes",
    "add_patrolling",
    "add_takeovers",
    "serve",
]
