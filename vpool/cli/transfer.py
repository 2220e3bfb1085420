"""Volumes from images and images from volumes: ``vpool volume import`` and ``vpool volume export``.

Both go through the daemon, so every promise holds for what is imported; holes and zeros are neither read twice, sent nor stored.
Both go on where they were interrupted: an import by a mark in the volume itself, an export by a file beside the image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vpool.cli.client import Client, contents_path
from vpool.cli.contents import Contents
from vpool.cli.progress import progress_bar
from vpool.errors import Conflict, Exists, Invalid
from vpool.images import Source, Target, open_source, open_target, target_format
from vpool.images.raw import failure

PIECE_BYTES = 4 << 20
MARK_BYTES = 64 << 20  # between two notes of how far it has come
ZERO_STEP_BYTES = 64 << 10
SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Piece:
    """A range that may have data, and up to where everything is done once it is."""

    offset: int
    length: int


def pieces(extents: Iterable[tuple[int, int]], offset: int) -> Iterator[Piece]:
    """Extents cut into pieces of at most 4 MiB, from ``offset`` on. Pure."""
    for start, length in extents:
        at, end = max(start, offset), start + length
        while at < end:
            stop = min(end, (at // PIECE_BYTES + 1) * PIECE_BYTES)
            yield Piece(at, stop - at)
            at = stop


def data_runs(data: bytes) -> Iterator[tuple[int, int]]:
    """(Start, stop) of what is not zeros, in steps of 64 KiB, neighbours together. Pure."""
    begun: int | None = None
    for start in range(0, len(data), ZERO_STEP_BYTES):
        piece = data[start : start + ZERO_STEP_BYTES]
        if piece.count(0) != len(piece):
            begun = start if begun is None else begun
        elif begun is not None:
            yield begun, start
            begun = None
    if begun is not None:
        yield begun, len(data)


def import_image(client: Client, image: Path, path: str, format_: str | None, *, with_backing: bool) -> dict[str, Any]:
    """Make a volume from an image, or go on with it; what came of it.

    Raises:
        Invalid: the image, its size or the path cannot be. Exists: the volume is there and complete.
        Conflict: an unfinished one is of another source, or the source has changed since, or while it was read.
    """
    with open_source(image, format_, with_backing=with_backing) as source:
        size = -(-source.size // SECTOR_BYTES) * SECTOR_BYTES
        request = {
            "path": path,
            "size": size,
            "source": source.description[:256],
            "fingerprint": source.fingerprint or f"once-{os.urandom(16).hex()}",
        }
        begun = client.post("/v1/fillings", request)
        sent = _fill(client, source, path, begun["done_bytes"])
        if not source.is_unchanged():
            raise Conflict(
                f"{image} was changed while it was read; {path} has some of both and stays marked as not complete: delete it, "
                "and import it again when nobody writes to the image"
            )
        ended = client.post("/v1/fillings/end", {"path": path})
    return {"path": ended["path"], "object": ended["object"], "size": size, "resumed_at": begun["done_bytes"], "sent_bytes": sent}


def _fill(client: Client, source: Source, path: str, done: int) -> int:
    sent = 0
    with Contents(client.directory) as contents, progress_bar(f"import {path}", source.size, done) as advance:

        def piece(part: Piece) -> tuple[int, int]:
            data = source.read(part.offset, part.length)
            written = 0
            for start, stop in data_runs(data):
                contents.write(path, part.offset + start, data[start:stop])
                written += stop - start
            return part.offset + part.length, written

        marked = done
        for position, written in contents.in_order(piece, pieces(source.extents(done), done)):
            sent += written
            advance(position, "")
            if position - marked >= MARK_BYTES:
                client.post("/v1/fillings/progress", {"path": path, "done_bytes": position})
                marked = position
        advance(source.size, "")
    return sent


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """What stands beside an image that is being written."""

    volume: str
    version: str
    format: str
    size: int
    done_bytes: int


def export_image(
    client: Client, path: str, image: Path, format_: str | None, *, while_open: bool, trust_source: bool
) -> dict[str, Any]:
    """Make an image from a volume, or go on with it; what came of it.

    Raises:
        Exists: the image is there. Conflict: the volume is open or was written, or an unfinished image is of something else.
        NotFound, Invalid, Denied, NoSpace: volume or image cannot be.
    """
    kind = target_format(image, format_)
    content = client.get(contents_path(path))
    _check_source(path, content, while_open)
    if os.path.lexists(image):
        raise Exists(f"{image} exists; choose another name, or remove it first")
    part, note = image.with_name(f"{image.name}.part"), image.with_name(f"{image.name}.part.json")
    known = _known(note, part)
    begun = _Unfinished(path.strip("/"), content["version"], kind, content["size"], 0)
    if known is not None:
        _check_known(known, begun, note, trust=trust_source or while_open)
        begun = _Unfinished(**{**asdict(begun), "done_bytes": known.done_bytes})
    with open_target(image, part, kind, content["size"], resumed=known is not None) as target:
        _write_note(note, begun)
        written = _drain(client, target, begun, note)
        after = client.get(contents_path(path))
        if not while_open and after["version"] != begun.version:
            raise Conflict(
                f"{path} was written while it was exported, so {part} is of no one moment; remove it and {note.name} and "
                "export again when nobody writes, or allow it with --while-open"
            )
        target.finish()
    note.unlink()
    return {"path": path, "image": str(image), "format": kind, "size": begun.size, "written_bytes": written}


def _drain(client: Client, target: Target, begun: _Unfinished, note: Path) -> int:
    total = 0
    with Contents(client.directory) as contents, progress_bar(f"export {begun.volume}", begun.size, begun.done_bytes) as advance:

        def piece(part: Piece) -> tuple[int, int]:
            data = contents.read(begun.volume, part.offset, part.length)
            if len(data) != part.length:
                raise Conflict(f"{begun.volume} has become smaller while it was exported")
            written = 0
            for start, stop in data_runs(data):
                target.write(part.offset + start, data[start:stop])
                written += stop - start
            return part.offset + part.length, written

        marked = begun.done_bytes
        extents = contents.extents(begun.volume, marked, begun.size)
        for position, written in contents.in_order(piece, pieces(extents, marked)):
            total += written
            advance(position, "")
            if position - marked >= MARK_BYTES:
                target.flush()
                _write_note(note, _Unfinished(**{**asdict(begun), "done_bytes": position}))
                marked = position
        advance(begun.size, "")
    return total


def _check_source(path: str, content: dict[str, Any], while_open: bool) -> None:
    if (filling := content["filling"]) is not None:
        raise Conflict(f"{path} is not complete: the {filling['kind']} of {filling['source']} has not ended")
    if not content["size"]:
        raise Invalid(f"{path} has 0 bytes; there is nothing to export")
    if content["handles"] and not while_open:
        raise Conflict(
            f"{path} is open ({content['handles']} handles), so the image may be of no one moment; close it first, or allow "
            "it with --while-open"
        )


def _known(note: Path, part: Path) -> _Unfinished | None:
    """What an interrupted export has left."""
    try:
        text = note.read_text(encoding="utf-8")
    except FileNotFoundError:
        if os.path.lexists(part):
            raise Exists(f"{part} exists and is not of an interrupted export; remove it first") from None
        return None
    except OSError as error:
        raise failure(error, note) from None
    if not part.exists():
        return None
    try:
        return _Unfinished(**json.loads(text))
    except (ValueError, TypeError):
        raise Exists(f"{note} is not the note of an interrupted export; remove it and {part.name} first") from None


def _check_known(known: _Unfinished, wanted: _Unfinished, note: Path, *, trust: bool) -> None:
    same = known.version == wanted.version or (trust and known.version.split("-")[:2] == wanted.version.split("-")[:2])
    if known.volume != wanted.volume or known.format != wanted.format or not same:
        raise Conflict(
            f"{note} is of an export of {known.volume} ({known.format}, {known.done_bytes} bytes done), and that is another "
            "volume or format, or it may have been written since (which the daemon cannot tell across its restarts); remove it "
            "and the .part file to begin anew, or give --trust-source if you know better"
        )


def _write_note(note: Path, unfinished: _Unfinished) -> None:
    """Replace the note; durable, so that it is never ahead of a flushed image."""
    new = note.with_name(f"{note.name}.new")
    try:
        with new.open("w", encoding="utf-8") as file:
            json.dump(asdict(unfinished), file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(note)
    except OSError as error:
        raise failure(error, note) from None
