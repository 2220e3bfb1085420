"""What the background verification remembers over restarts. Format: docs/formats/verify-json.md."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

from registry import TlogName
from vpool.errors import Corrupt

FORMAT = 1
LOST_MAX = 65_536
NEEDED_MAX = 4_096


@dataclass(frozen=True, slots=True)
class LostRange:
    """A range of a log's address space without a good copy anywhere."""

    object: str
    offset: int  # bytes
    length: int
    sco: int  # number of the SCO that has it
    bucket: str
    name: str  # of the object
    reason: str
    found_ns: int


@dataclass(frozen=True, slots=True)
class NeededObject:
    """An object that a restart without the cache needs, and that is damaged or missing."""

    object: str
    bucket: str
    name: str
    reason: str
    found_ns: int


@dataclass(frozen=True, slots=True)
class At:
    """Where a pass goes on."""

    object: str
    position: int = 0  # bytes of the address space, of an open one
    sco: int = 0  # what begins there is done in SCOs of lower numbers
    tlog: TlogName | None = None  # the next one to be read, of one that is not open


@dataclass(slots=True)
class PatrolRecord:
    """See the format. Changed by the patrol alone; ``save`` makes it durable."""

    number: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    bytes_checked: int = 0
    last_bytes: int = 0
    at: At | None = None
    lost: list[LostRange] = field(default_factory=list)
    needed: list[NeededObject] = field(default_factory=list)

    def add_lost(self, found: LostRange) -> bool:
        """Take a range up; False if it is in the list already, or the list is full."""
        for known in self.lost:
            if known.object == found.object and known.offset <= found.offset < known.offset + known.length:
                return False
        for index, known in enumerate(self.lost):
            same = (known.object, known.sco, known.name) == (found.object, found.sco, found.name)
            if same and known.offset + known.length == found.offset:
                self.lost[index] = replace(known, length=known.length + found.length)
                return True
        if len(self.lost) >= LOST_MAX:
            return False
        self.lost.append(found)
        return True

    def remove_lost(self, object_id: str, offset: int, length: int) -> None:
        """Take a range out; what it covers in part is cut."""
        end, kept = offset + length, []
        for known in self.lost:
            known_end = known.offset + known.length
            if known.object != object_id or known_end <= offset or end <= known.offset:
                kept.append(known)
                continue
            if known.offset < offset:
                kept.append(replace(known, length=offset - known.offset))
            if end < known_end:
                kept.append(replace(known, offset=end, length=known_end - end))
        self.lost = kept

    def add_needed(self, found: NeededObject) -> bool:
        """Take an object up; False if it is in the list already, or the list is full."""
        if len(self.needed) >= NEEDED_MAX or any((one.bucket, one.name) == (found.bucket, found.name) for one in self.needed):
            return False
        self.needed.append(found)
        return True

    def encode(self) -> bytes:
        """The file's bytes."""
        fields = {
            "format": FORMAT,
            "pass": self.number,
            "started_ns": self.started_ns,
            "ended_ns": self.ended_ns,
            "bytes": self.bytes_checked,
            "last_bytes": self.last_bytes,
            "at": _at_fields(self.at),
            "lost": [asdict(lost) for lost in self.lost],
            "needed": [asdict(needed) for needed in self.needed],
        }
        return _canonical({**fields, "crc32": crc32(_canonical(fields))}) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> PatrolRecord:
        """The reverse. Corrupt: damaged, or of a newer format."""
        try:
            fields = json.loads(data)
            if crc32(_canonical({key: value for key, value in fields.items() if key != "crc32"})) != fields["crc32"]:
                raise Corrupt("verify.json does not match its checksum")
            if fields["format"] > FORMAT:
                raise Corrupt("verify.json is of a newer format; use a newer vPool", format=fields["format"])
            return cls(
                fields["pass"],
                fields["started_ns"],
                fields["ended_ns"],
                fields["bytes"],
                fields["last_bytes"],
                _at(fields["at"]),
                [LostRange(**lost) for lost in fields["lost"]],
                [NeededObject(**needed) for needed in fields["needed"]],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt("verify.json cannot be read", reason=str(error)) from error

    @classmethod
    def load(cls, path: Path) -> PatrolRecord:
        """From a file; an empty record if there is none. Corrupt; OSError."""
        return cls.decode(path.read_bytes()) if path.exists() else cls()

    def save(self, path: Path) -> None:
        """Durable on return; blocks. OSError."""
        new = path.with_name(f"{path.name}.new")
        with open(new, "wb", opener=_private) as file:
            file.write(self.encode())
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)


def _at_fields(at: At | None) -> dict[str, Any] | None:
    if at is None:
        return None
    if at.tlog is None:
        return {"object": at.object, "position": at.position, "sco": at.sco}
    return {"object": at.object, "tlog": [at.tlog.epoch, at.tlog.number, at.tlog.combined_sco, at.tlog.checksum]}


def _at(fields: dict[str, Any] | None) -> At | None:
    if fields is None:
        return None
    tlog = fields.get("tlog")
    return At(fields["object"], fields.get("position", 0), fields.get("sco", 0), None if tlog is None else TlogName(*tlog))


def _canonical(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
