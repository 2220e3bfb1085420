"""The engine: the half of vPool that carries bytes, written in Rust.

A cache directory per node holds the write log, the maps and the read cache of the volumes that the node serves. The engine
promises that an acknowledged write survives a kill of the daemon, that a flushed one survives a power cut, that what was not
flushed survives as a prefix or not at all, and that no byte is returned whose checksum is wrong. It does not know who owns a
volume and never talks to a bucket: what it needs from there it asks for (``Plan``, ``Checkpoint``, ``Recovery``) and what
belongs there it hands out (``Tlog``, ``Volume.sco``). It may call nobody; of the project it uses ``vpool.errors`` only.
"""

from engine._native import (
    CLUSTER,
    REQUEST_BYTES_MAX,
    SCO_CLUSTERS,
    Batch,
    Checkpoint,
    Engine,
    EngineStats,
    LineageEntry,
    Miss,
    Plan,
    Recovery,
    Replica,
    RootRef,
    Sco,
    ScoEntry,
    Survey,
    SurveyedSco,
    Tlog,
    TlogContents,
    TlogRecord,
    TlogRef,
    Volume,
    VolumeStats,
    WouldBlock,
    crc32c,
    read_tlog,
    tlog_previous,
    xxh3,
)

__all__ = [
    "CLUSTER",
    "REQUEST_BYTES_MAX",
    "SCO_CLUSTERS",
    "Batch",
    "Checkpoint",
    "Engine",
    "EngineStats",
    "LineageEntry",
    "Miss",
    "Plan",
    "Recovery",
    "Replica",
    "RootRef",
    "Sco",
    "ScoEntry",
    "Survey",
    "SurveyedSco",
    "Tlog",
    "TlogContents",
    "TlogRecord",
    "TlogRef",
    "Volume",
    "VolumeStats",
    "WouldBlock",
    "crc32c",
    "read_tlog",
    "tlog_previous",
    "xxh3",
]
