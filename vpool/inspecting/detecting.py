"""What a file is, by what it contains; its name only where the content says nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vpool.errors import Denied, Invalid, NotFound, Unavailable
from vpool.inspecting import checkpoints, exports, json_files, lmdb_files, local_maps, map_trees, read_caches, segments, tlogs
from vpool.inspecting.findings import CutShort, Findings

BYTES_MAX = 256 << 20  # of a file that is read as a whole; only LMDB's and the local map's are larger
SCO_BYTES_MAX = 4 << 20

_BY_MAGIC: dict[bytes, tuple[str, Callable[[bytes, Findings], None]]] = {
    segments.MAGIC: ("log segment", segments.inspect_segment),
    tlogs.MAGIC: ("TLog", tlogs.inspect_tlog),
    checkpoints.MAGIC: ("checkpoint object", checkpoints.inspect_checkpoint),
    checkpoints.ROOT_MAGIC: ("root of a checkpoint", checkpoints.root),
    local_maps.MAGIC: ("meta record of a local map", local_maps.meta),
    exports.MAGIC: ("export of the namespace", exports.inspect_export),
}


def inspect(path: Path, *, rows_max: int = 20) -> Findings:
    """Look at a file, or at what is in a directory that holds one environment.

    Raises:
        NotFound, Denied, Unavailable: it cannot be read.
        Invalid: it is of no format of vPool.
    """
    try:
        return _inspect(_file_of(path), rows_max)
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist") from None
    except PermissionError:
        raise Denied(f"{path} cannot be read; run as its owner or as root") from None
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from None


def inspect_bytes(data: bytes, name: str, *, rows_max: int = 20) -> Findings:
    """The same for an object's content; ``name`` is the object's."""
    findings = Findings("unknown", rows_max)
    if not _dispatch(data, Path(name), findings):
        raise Invalid(f"{name} is of no format that vPool writes")
    return findings


def _file_of(path: Path) -> Path:
    """Of DIR, its marker; of a directory with LMDB, the local map or the read cache in it, the file to look at."""
    if not path.is_dir():
        return path
    for name in (map_trees.NAME, "data.mdb", "index", "vpool.json"):
        if (path / name).is_file():
            return path / name
    raise Invalid(f"{path} is a directory without {map_trees.NAME}, data.mdb, index or vpool.json; name a file")


def _inspect(path: Path, rows_max: int) -> Findings:
    findings = Findings("unknown", rows_max)
    if not path.is_file():
        path.stat()
        raise Invalid(f"{path} is not a file")
    with path.open("rb") as file:
        head = file.read(4116)
        if lmdb_files.is_environment(head) or path.name == "data.mdb":
            findings.kind = "LMDB environment"
            lmdb_files.inspect_environment(path, findings)
            return findings
        if head.startswith(map_trees.MAGIC) or path.name == map_trees.NAME:
            findings.kind = "local map"
            map_trees.inspect_map_tree(path, findings)
            return findings
        if path.stat().st_size > BYTES_MAX:
            raise Invalid(f"{path} is of no format that vPool writes: it is larger than any of them")
        file.seek(0)
        data = file.read()
    if not _dispatch(data, path, findings):
        raise Invalid(f"{path} is of no format that vPool writes")
    return findings


def _dispatch(data: bytes, path: Path, findings: Findings) -> bool:
    """False: not known."""
    try:
        return _known(data, path, findings)
    except CutShort as error:
        findings.problem(f"cut short: {error}")
        return True


def _known(data: bytes, path: Path, findings: Findings) -> bool:
    if data[:8] in _BY_MAGIC:
        findings.kind, look = _BY_MAGIC[data[:8]]
        look(data, findings)
    elif data[:8] == read_caches.MAGIC:
        findings.kind = "index of the read cache"
        read_caches.inspect_read_cache(data, findings, path)
    elif data == exports.TOMBSTONE:
        findings.kind = "tombstone of a deleted volume"
    elif data[-8:] == tlogs.COMBINED:
        findings.kind = "combined object (SCO and TLog)"
        tlogs.inspect_combined(data, findings)
    elif json_files.inspect_json(data, path.name, findings):
        return True
    else:
        return _by_name(data, path, findings)
    return True


def _by_name(data: bytes, path: Path, findings: Findings) -> bool:
    """Its magic is gone, or it never had one: a free segment, a SCO."""
    parts = path.absolute().parts
    if path.suffix == ".seg":
        findings.kind = "log segment"
        segments.inspect_segment(data, findings)
    elif "sco" in parts and data and len(data) % tlogs.CLUSTER == 0 and len(data) <= SCO_BYTES_MAX:
        findings.kind = "SCO"
        tlogs.inspect_sco(data, findings)
    elif kind := next((name for part, name in _PLACES if part in parts), None):
        findings.kind = kind
        findings.problem("its magic is damaged" if data else "the file is empty")
    else:
        return False
    return True


_PLACES = (
    ("tlog", "TLog"),
    ("map", "checkpoint object"),
    ("sco", "SCO or combined object"),
    ("namespace", "export of the namespace"),
    ("volume.json", "birth record of a volume (volume.json)"),
    ("vpool.json", "marker of a DIR (vpool.json)"),
    ("verify.json", "state of the background verification (verify.json)"),
    ("index", "index of the read cache"),
)
