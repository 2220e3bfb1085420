"""What an inspection found, and how bytes are taken apart. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

Value = str | int | float | bool | None


class CutShort(Exception):
    """There are fewer bytes than the format says."""


@dataclass
class Table:
    """Rows of one kind. ``left_out``: rows that are there and were not asked for."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Value, ...]] = field(default_factory=list)
    left_out: int = 0


@dataclass
class Findings:
    """Of one file."""

    kind: str
    rows_max: int = 20
    fields: dict[str, Value] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self, title: str, *columns: str) -> Table:
        """A new table."""
        made = Table(title, columns)
        self.tables.append(made)
        return made

    def row(self, table: Table, *values: Value) -> None:
        """A row of a table, as long as there is room."""
        if len(table.rows) < self.rows_max:
            table.rows.append(values)
        else:
            table.left_out += 1

    def problem(self, text: str) -> None:
        """Something is damaged."""
        self.problems.append(text)

    def note(self, text: str) -> None:
        """Something worth knowing, which is no damage."""
        self.notes.append(text)

    def expect(self, right: bool, text: str) -> bool:
        """A problem unless ``right``."""
        if not right:
            self.problem(text)
        return right

    def magic(self, bytes_: Bytes, wanted: bytes, version: int) -> None:
        """Magic and version, which every format begins with."""
        found, number = bytes_.take(8), bytes_.u32()
        self.expect(found == wanted, f"magic {found!r} is not {wanted!r}")
        self.fields["version"] = number
        self.expect(number == version, f"version {number} is not known here, {version} is")


class Bytes:
    """Takes little-endian fields from the front of some bytes. Every method raises CutShort."""

    def __init__(self, data: bytes | memoryview, at: int = 0) -> None:
        self.data = data
        self.at = at

    def take(self, count: int) -> bytes:
        """The next bytes."""
        part = bytes(self.data[self.at : self.at + count])
        if len(part) < count:
            raise CutShort(f"{count} bytes are wanted at {self.at}, {len(part)} are there")
        self.at += count
        return part

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int(struct.unpack("<H", self.take(2))[0])

    def u32(self) -> int:
        return int(struct.unpack("<I", self.take(4))[0])

    def i32(self) -> int:
        return int(struct.unpack("<i", self.take(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])

    def u128(self) -> int:
        return int.from_bytes(self.take(16), "little")

    def uuid(self) -> str:
        return self.take(16).hex()

    def left(self) -> int:
        return len(self.data) - self.at


def hexadecimal(number: int) -> str:
    """A checksum, nonce or chain value."""
    return f"{number:016x}"


def location(loc: int) -> str:
    """Where a cluster is, as the map has it."""
    if loc == 0:
        return "hole"
    if loc == 1:
        return "zeroed"
    return f"SCO {loc // 1024} slot {loc % 1024}"
