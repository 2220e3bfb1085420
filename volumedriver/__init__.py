"""The Volume Driver: virtual disks on the host's SSD in front of one bucket each.

The room promises what docs/semantics.md says of volumes: acknowledged means logged, flushed means durable, what the backend
has is a prefix, and nothing of an older epoch is ever read past the head. It decides when a TLog closes, what is uploaded
and fetched, and how a volume comes back; the bytes are the engine's. It calls the engine, the backend and the registry.
"""

from volumedriver.checkpoint_objects import TRAILER_BYTES, read_root, read_trailer
from volumedriver.driver import BackendQueues, TailLeft, VolumeDriver, VolumeStatus
from volumedriver.evacuation import EvacuationStatus
from volumedriver.filling import Filling, read_filling, write_filling
from volumedriver.judging import Judgement, LogKnowledge, judge
from volumedriver.meta_cluster import LAYOUT_NAMED, LAYOUT_PLAIN, MetaCluster
from volumedriver.names import (
    TOMBSTONES,
    BirthRecord,
    Place,
    place_of,
    shared_bucket,
    tombstone_name,
    tombstone_object,
    tombstone_time_ns,
)
from volumedriver.patrol import Patrol, PatrolStatus
from volumedriver.patrol_pace import PatrolSettings
from volumedriver.patrol_record import LostRange, NeededObject
from volumedriver.phases import Phase, Waiting, waited_since
from volumedriver.region import FILE_ADDRESSES, FILE_BYTES_MAX, VOLUME_BYTES_MAX, Region
from volumedriver.settings import VolumeDriverSettings
from volumedriver.survey import survey
from volumedriver.unsent import LEVELS, StillDirty, unsent
from volumedriver.verification import Damage, Progress, Verification
from volumedriver.volume import Volume

__all__ = [
    "FILE_ADDRESSES", "FILE_BYTES_MAX", "LAYOUT_NAMED", "LAYOUT_PLAIN", "LEVELS", "TOMBSTONES", "TRAILER_BYTES",
    "VOLUME_BYTES_MAX", "BackendQueues", "BirthRecord", "Damage", "EvacuationStatus", "Filling", "Judgement",
    "LogKnowledge", "LostRange", "MetaCluster", "NeededObject", "Patrol", "PatrolSettings", "PatrolStatus", "Phase",
    "Place", "Progress", "Region", "StillDirty", "TailLeft", "Verification", "Volume", "VolumeDriver",
    "VolumeDriverSettings", "VolumeStatus", "Waiting", "judge", "place_of", "read_filling", "read_root", "read_trailer",
    "shared_bucket", "survey", "tombstone_name", "tombstone_object", "tombstone_time_ns", "unsent", "waited_since",
    "write_filling",
]  # fmt: skip
