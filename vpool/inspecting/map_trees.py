"""The file of the local map, ``map.tree``: docs/formats/local-map.md. Every page that the newest head reaches is looked at."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from engine import xxh3
from vpool.errors import Conflict
from vpool.inspecting.findings import Findings
from vpool.inspecting.lmdb_files import is_used
from vpool.inspecting.local_maps import Record, inspect_records

MAGIC = b"vPoolMTR"
NAME = "map.tree"
VERSION = 2
PAGE, SLOT, HEADER, ROOM = 4096, 512, 24, 4064
HEAD = struct.Struct("<8sIIQQQQB7xQ")
POINTER = struct.Struct("<25sQQ")
KEY = 25
LEAF, BRANCH, PART = 1, 2, 3
LONG = 0x8000
LEVELS_MAX = 16

Pointer = tuple[int, int]  # page, checksum


def inspect_map_tree(path: Path, findings: Findings) -> None:
    """Raises Conflict while a daemon writes it."""
    directory = path.parent.absolute()
    if is_used(directory):
        raise Conflict(f"{directory} is being written by a running daemon; stop it, or look at a copy")
    with path.open("rb") as file:
        root = _heads(file, path.stat().st_size, findings)
        if root is None:
            return
        tree = _Tree(file, findings)
        inspect_records(tree.records(*root), findings)
        findings.fields["pages in use"] = tree.pages


def _heads(file: BinaryIO, length: int, findings: Findings) -> tuple[Pointer, int] | None:
    """The root and its level, as the newest head has them; None: there is nothing, or nothing can be told."""
    found: dict[int, tuple[int, Pointer, int]] = {}
    findings.fields |= {"page bytes": PAGE, "file bytes": length}
    for slot in range(2):
        file.seek(slot * PAGE)
        data = file.read(HEAD.size)
        if len(data) < HEAD.size or xxh3(data[: HEAD.size - 8]) != int.from_bytes(data[-8:], "little"):
            findings.problem(f"head {slot} is damaged: the map is had from the backend at the next start")
            continue
        magic, version, page_bytes, commit, pages, root, checksum, level, _ = HEAD.unpack(data)
        right = (magic, version, page_bytes, commit % 2) == (MAGIC, VERSION, PAGE, slot) and level <= LEVELS_MAX
        if findings.expect(right, f"head {slot} is not one of version {VERSION}"):
            found[commit] = (pages, (root, checksum), level)
    if not found:
        return None
    commit = max(found)
    if len(found) == 2:
        findings.expect(commit - 1 in found, f"the heads are of commits {sorted(found)}, which are not in a row")
    pages, root, level = found[commit]
    findings.fields |= {"commit": commit, "last page": pages - 1, "levels": level + 1 if root[0] else 0}
    findings.expect(length >= pages * PAGE, f"the file is cut short: it has {length} bytes and needs {pages * PAGE}")
    return (root, level) if root[0] else None


class _Tree:
    def __init__(self, file: BinaryIO, findings: Findings) -> None:
        self.pages = 0
        self._file = file
        self._findings = findings
        self._seen: set[int] = set()

    def records(self, at: Pointer, level: int) -> Iterator[Record]:
        """All of them, as they sort; what lies below a damaged page is a problem, and left out."""
        body = self._body(at, BRANCH if level else LEAF, level)
        if body is None:
            return
        try:
            if level:
                for _, page, checksum in POINTER.iter_unpack(body):
                    yield from self.records((page, checksum), level - 1)
            else:
                yield from self._leaf(body)
        except struct.error:
            self._findings.problem(f"page {at[0]} is malformed")

    def _leaf(self, body: bytes) -> Iterator[Record]:
        at = 0
        while at < len(body):
            key, (size,) = body[at : at + KEY], struct.unpack_from("<H", body, at + KEY)
            at += KEY + 2
            value = body[at : at + (size & ~LONG)]
            at += len(value)
            if size & LONG:
                length, page, checksum = struct.unpack("<IQQ", value)
                value = self._long((page, checksum), length)
            yield Record(key[0], key[1:17], int.from_bytes(key[17:], "big"), value)

    def _long(self, at: Pointer, length: int) -> bytes:
        parts = bytearray()
        while at[0]:
            body = self._body(at, PART, 0)
            if body is None:
                return b""
            at = struct.unpack_from("<QQ", body)
            parts += body[16:]
        self._findings.expect(len(parts) == length, f"a value has {len(parts)} bytes in place of {length}")
        return bytes(parts)

    def _body(self, at: Pointer, kind: int, level: int) -> bytes | None:
        number, wanted = at
        self._file.seek(number * PAGE)
        page = self._file.read(PAGE)
        problem = None
        if len(page) < PAGE:
            problem = "is cut off"
        elif int.from_bytes(page[-8:], "little") != xxh3(page[:-8]):
            problem = "does not match its checksum"
        elif int.from_bytes(page[-8:], "little") != wanted:
            problem = "is not the one that was written there last"
        elif (page[0], page[1]) != (kind, level):
            problem = "is of another kind"
        elif number in self._seen:
            problem = "is named twice"
        if problem is not None:
            self._findings.problem(f"page {number} {problem}")
            return None
        self._seen.add(number)
        self.pages += 1
        return page[HEADER : HEADER + min(int.from_bytes(page[4:8], "little"), ROOM)]
