"""The registry's content as parts of an export, and back. Format: docs/formats/namespace-export.md.

``StateExport`` reads: one read transaction of the database, beside everything that goes on. ``encode_part`` and ``decode_part``
are pure. What an export leaves out is in ``registry.changes``.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from registry.changes import KEY_RANGE, changes_range, is_lasting, keys_since
from registry.codec import pack, unpack
from registry.kv import ReadableView
from registry.tables import Tables
from vpool.errors import Corrupt

MAGIC = b"vPoolNSX"
VERSION = 1
FULL, LAST = 1, 2
PART_BYTES = 2 << 20  # items, before they are compressed
COMPRESSION = 1
_DELETED = (1 << 32) - 1

_HEADER = struct.Struct("<8sII16sQQQQ64sQIIQQ16s16x")
_ITEM = struct.Struct("<HI")
FOOTER_BYTES = 16

Item = tuple[bytes, bytes | None]  # key and value; None: the key is gone


@dataclass(frozen=True, slots=True)
class ExportId:
    """Which export a part belongs to."""

    vpool: str  # UUID, 32 hexadecimal digits
    generation: int
    index: int  # of the last command that the content includes
    since: int  # 0: full
    node: str
    incarnation: int
    created_ns: int


@dataclass(frozen=True, slots=True)
class Part:
    """One decoded part."""

    export: ExportId
    number: int
    last: bool
    items: tuple[Item, ...]
    before: bytes  # footer of the part before
    footer: bytes
    bytes_used: int  # of what was decoded; a backup file goes on behind them


class StateExport:
    """One commit of the state for as long as the object is open; it pins old pages, so not for longer than it takes.

    Not for use by two threads at once, but each call may come from another one.
    """

    def __init__(self, state: ReadableView, changes: ReadableView | None, raft: ReadableView, close: Callable[[], None]) -> None:
        self.index = int(unpack(raft.get(b"applied") or pack([0, 0]))[0])
        self._state = state
        self._changes = changes
        self._floor, through = changes_range(raft.get(KEY_RANGE))
        self._tracked = changes is not None and through == self.index
        self.close = close

    @property
    def tables(self) -> Tables:
        """The same state as records."""
        return Tables(self._state)

    def knows_changes_since(self, index: int) -> bool:
        """Whether an increment on the export of ``index`` can be made."""
        return self._tracked and self._floor <= index

    def items(self) -> Iterator[Item]:
        """Everything that lasts, by key."""
        return (item for item in self._state.scan(b"", b"\xff" * 8) if is_lasting(item[0]))

    def changes(self, since: int) -> Iterator[Item]:
        """What has changed beyond ``since``: each key once, with its value now."""
        assert self._changes is not None
        return ((key, self._state.get(key)) for key in keys_since(self._changes, since, self.index))


def batches(items: Iterator[Item], bytes_max: int = PART_BYTES) -> Iterator[tuple[list[Item], bool]]:
    """Items in groups of at most about ``bytes_max``; the flag is set with the last group. Without items: one empty group."""
    group: list[Item] = []
    size = 0
    for item in items:
        if size >= bytes_max:
            yield group, False
            group, size = [], 0
        group.append(item)
        size += _ITEM.size + len(item[0]) + len(item[1] or b"")
    yield group, True


def encode_part(export: ExportId, number: int, items: list[Item], *, last: bool, before: bytes = bytes(FOOTER_BYTES)) -> bytes:
    """One part; its footer is its last 16 bytes. The same arguments give the same bytes with the same zlib."""
    raw = b"".join(_ITEM.pack(len(key), _DELETED if value is None else len(value)) + key + (value or b"") for key, value in items)
    stored = zlib.compress(raw, COMPRESSION)
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        (0 if export.since else FULL) | (LAST if last else 0),
        bytes.fromhex(export.vpool),
        export.generation,
        export.index,
        export.since,
        export.incarnation,
        export.node.encode("ascii"),
        export.created_ns,
        number,
        len(items),
        len(raw),
        len(stored),
        before,
    )
    return header + stored + blake2b(header + stored, digest_size=FOOTER_BYTES).digest()


def decode_part(data: bytes, offset: int = 0) -> Part:
    """The part that begins at ``offset``.

    Raises:
        Corrupt: it is damaged, cut short, no part of an export, or of a newer format; says which.
    """
    header = data[offset : offset + _HEADER.size]
    if header[:8] != MAGIC:
        raise Corrupt("this is no export of a registry", magic=header[:8].hex())
    if len(header) < _HEADER.size:
        raise Corrupt("the export is cut short", bytes=len(data))
    (_, version, flags, vpool, generation, index, since, incarnation, node, created_ns, number, count, raw_bytes, stored_bytes,
     before) = _HEADER.unpack(header)  # fmt: skip
    if version > VERSION:
        raise Corrupt("the export is of a newer format; use a newer vPool", version=version, known=VERSION)
    end = offset + _HEADER.size + stored_bytes
    footer = data[end : end + FOOTER_BYTES]
    if len(footer) < FOOTER_BYTES:
        raise Corrupt("the export is cut short", bytes=len(data), expected=end + FOOTER_BYTES)
    if blake2b(data[offset:end], digest_size=FOOTER_BYTES).digest() != footer:
        raise Corrupt("a part of the export does not match its checksum", part=number)
    try:
        raw = zlib.decompress(data[offset + _HEADER.size : end], bufsize=max(1, raw_bytes))
        items = tuple(_items(raw))
        export = ExportId(
            vpool.hex(), generation, index, since, node.rstrip(b"\0").decode("ascii"), incarnation, created_ns
        )  # fmt: skip
    except (zlib.error, struct.error, UnicodeDecodeError) as error:
        raise Corrupt("a part of the export cannot be read", part=number, reason=str(error)) from error
    if len(items) != count or len(raw) != raw_bytes or bool(flags & FULL) != (since == 0):
        raise Corrupt("a part of the export contradicts itself", part=number)
    return Part(export, number, bool(flags & LAST), items, before, footer, end + FOOTER_BYTES - offset)


def joined(parts: Iterator[Part]) -> tuple[ExportId, Iterator[Item]]:
    """The parts of one export, in order, as one; reads them as they are consumed, and checks that they follow each other.

    Raises:
        Corrupt: there is none. While the items are consumed: one is missing or of another export.
    """
    first = next(parts, None)
    if first is None:
        raise Corrupt("the export has no parts")

    def items() -> Iterator[Item]:
        part, number, before = first, 0, bytes(FOOTER_BYTES)
        while True:
            if part.export != first.export or part.number != number or part.before != before:
                raise Corrupt("the parts of the export do not follow each other", part=number, found=part.number)
            yield from part.items
            if part.last:
                return
            number, before = number + 1, part.footer
            following = next(parts, None)
            if following is None:
                raise Corrupt("the export lacks its last parts", parts=number)
            part = following

    return first.export, items()


def _items(raw: bytes) -> Iterator[Item]:
    at = 0
    while at < len(raw):
        key_bytes, value_bytes = _ITEM.unpack_from(raw, at)
        key_end = at + _ITEM.size + key_bytes
        at = key_end + (0 if value_bytes == _DELETED else value_bytes)
        if at > len(raw) or not key_bytes:
            raise struct.error("an item goes beyond the part")
        yield raw[key_end - key_bytes : key_end], None if value_bytes == _DELETED else raw[key_end:at]
