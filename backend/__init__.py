"""Object stores: a directory, S3, Swift.

The room promises: an object is put whole or not at all, and what is returned is what was put. It tries again what may succeed
later, within limits that the settings name, and tells what went wrong in words an operator can use. It knows nothing of volumes.
It calls nobody but the libraries of the stores. ``backend.faults`` is for tests: a store that fails on purpose.
"""

from backend.counters import LATENCY_BOUNDS_S, Operation, OperationCounters, StoreCounters
from backend.opening import open_store, would_be_new
from backend.settings import BackendSettings
from backend.store import ObjectInfo, ObjectStore
from backend.url import StoreUrl, parse_url

__all__ = [
    "LATENCY_BOUNDS_S",
    "BackendSettings",
    "ObjectInfo",
    "ObjectStore",
    "Operation",
    "OperationCounters",
    "StoreCounters",
    "StoreUrl",
    "open_store",
    "parse_url",
    "would_be_new",
]
