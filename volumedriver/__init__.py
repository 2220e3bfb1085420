"""The Volume Driver: virtual disks on the host's SSD in front of one bucket each.

The room promises what docs/semantics.md says of volumes: acknowledged means logged, flushed means durable, what the backend
has is a prefix, and nothing of an older epoch is ever read past the head. It decides when a TLog closes, what is uploaded
and fetched, and how a volume comes back; the bytes are the engine's. It calls the engine, the backend and the registry.
"""

from volumedriver.checkpoint_objects import TRAILER_BYTES, read_root, read_trailer
from volumedriver.driver import BackendQueues, TailLeft, VolumeDriver, VolumeStatus
from volumedriver.dtl_messages import Append, Fenced, Fetch, Fetched, FromPeer, Send, ToPeer
from volumedriver.dtl_peers import choose_peer, thief_rank
from volumedriver.dtl_sender import CoversMore, DtlSender, DtlTimings, Propose, Ship
from volumedriver.dtl_store import NOTHING_KEPT, DtlStore, Kept, SendRecords, Store
from volumedriver.evacuation import EvacuationStatus
from volumedriver.executed import WINDOW, Entries, Executed, joined, parted
from volumedriver.filling import Filling, read_filling, write_filling
from volumedriver.giving_way import Held, gives_way, giving_way
from volumedriver.judging import Judgement, LogKnowledge, judge
from volumedriver.local_choice import LocalChoice
from volumedriver.local_logs import Fate, StagedMark, fate_of_log, log_to_open
from volumedriver.log_notes import Known, LogNotes, Notes, StoreMark
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
from volumedriver.record_marks import RecordMarks, marking
from volumedriver.region import FILE_ADDRESSES, FILE_BYTES_MAX, FILE_REGION_BYTES, VOLUME_BYTES_MAX, Region
from volumedriver.region_copy import RegionCopy, erase_region
from volumedriver.settings import VolumeDriverSettings
from volumedriver.staged_log import StagedLog, StagingPlace, make_durable, take_in
from volumedriver.steal import Consent, GaveUp, Keep, Stolen, SubmitSteal, Thief, has_some_tail, may_be_stolen, without_loss
from volumedriver.survey import survey
from volumedriver.tail import Lineage, Origin, TailRecord
from volumedriver.tail_copy import TailCopy
from volumedriver.unsent import LEVELS, StillDirty, unsent
from volumedriver.verification import Damage, Progress, Verification
from volumedriver.volume import Volume

__all__ = [
    "FILE_ADDRESSES",
    "FILE_BYTES_MAX",
    "FILE_REGION_BYTES",
    "LAYOUT_NAMED",
    "LAYOUT_PLAIN",
    "LEVELS",
    "NOTHING_KEPT",
    "TOMBSTONES",
    "TRAILER_BYTES",
    "VOLUME_BYTES_MAX",
    "WINDOW",
    "Append",
    "BackendQueues",
    "BirthRecord",
    "Consent",
    "CoversMore",
    "Damage",
    "DtlSender",
    "DtlStore",
    "DtlTimings",
    "Entries",
    "EvacuationStatus",
    "Executed",
    "Fate",
    "Fenced",
    "Fetch",
    "Fetched",
    "Filling",
    "FromPeer",
    "GaveUp",
    "Held",
    "Judgement",
    "Keep",
    "Kept",
    "Known",
    "Lineage",
    "LocalChoice",
    "LogKnowledge",
    "LogNotes",
    "LostRange",
    "MetaCluster",
    "NeededObject",
    "Notes",
    "Origin",
    "Patrol",
    "PatrolSettings",
    "PatrolStatus",
    "Phase",
    "Place",
    "Progress",
    "Propose",
    "RecordMarks",
    "Region",
    "RegionCopy",
    "Send",
    "SendRecords",
    "Ship",
    "StagedLog",
    "StagedMark",
    "StagingPlace",
    "StillDirty",
    "Stolen",
    "Store",
    "StoreMark",
    "SubmitSteal",
    "TailCopy",
    "TailLeft",
    "TailRecord",
    "Thief",
    "ToPeer",
    "Verification",
    "Volume",
    "VolumeDriver",
    "VolumeDriverSettings",
    "VolumeStatus",
    "Waiting",
    "choose_peer",
    "erase_region",
    "fate_of_log",
    "gives_way",
    "giving_way",
    "has_some_tail",
    "joined",
    "judge",
    "log_to_open",
    "make_durable",
    "marking",
    "may_be_stolen",
    "parted",
    "place_of",
    "read_filling",
    "read_root",
    "read_trailer",
    "shared_bucket",
    "survey",
    "take_in",
    "thief_rank",
    "tombstone_name",
    "tombstone_object",
    "tombstone_time_ns",
    "unsent",
    "waited_since",
    "without_loss",
    "write_filling",
]  # fmt: skip
