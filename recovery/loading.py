"""Reading the newest namespace that can be had: from the exports in a bucket, or from a backup file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from backend import ObjectStore
from recovery.names import PREFIX, ExportName, chains, complete, parse
from registry.export import MAGIC, ExportId, Part, decode_part, joined
from registry.kv import RamView
from registry.tables import Tables
from vpool.errors import Corrupt, Invalid, NotFound


@dataclass(frozen=True, slots=True)
class Namespace:
    """What a registry held: keys and values of its state, without what belongs to a node's life."""

    items: dict[bytes, bytes]
    export: ExportId  # the newest that is included
    problems: tuple[str, ...]  # what is damaged or missing of newer exports

    def tables(self) -> Tables:
        """The same as records; made anew at each call."""
        return Tables(RamView(self.items))


async def load_newest(store: ObjectStore, bucket: str) -> Namespace | None:
    """The newest state that exports in the bucket give without a gap; None if there is no export at all. Lists the bucket.

    What cannot be read ends a chain there; an older chain that then reaches further is taken.
    """
    problems: list[str] = []
    best: Namespace | None = None
    for chain in chains(complete(await _names(store, bucket))):
        reachable = chain[-1].order
        if best is not None and reachable <= (best.export.generation, best.export.index):
            break
        found = await _load(store, bucket, chain, problems)
        if found is not None and (best is None or _order(found) > _order(best)):
            best = found
    return None if best is None else Namespace(best.items, best.export, tuple(problems))


async def newest_generation(store: ObjectStore, bucket: str) -> int:
    """The highest generation that any export in the bucket names, complete or not; 0 without one."""
    parts = (parse(name) for name in await _names(store, bucket))
    return max((part.chain.generation for part in parts if part is not None), default=0)


def load_backup(path: Path) -> Namespace:
    """A file written by ``vpool registry backup``; blocks.

    Raises:
        Invalid: it cannot be read, or is no backup.
        Corrupt: it is damaged or cut short.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Invalid(f"the backup {path} cannot be read: {error.strerror}") from None
    if not data.startswith(MAGIC):
        raise Invalid(f"{path} is no backup of a registry; name a file made by `vpool registry backup`")
    try:
        export, items = joined(_parts(data))
        records = {key: value for key, value in items if value is not None}
    except Corrupt as error:
        raise Corrupt(f"the backup {path} is damaged: {error.message}", **error.details) from None
    if export.since:
        raise Invalid(f"{path} is not a whole registry but an increment; name a file made by `vpool registry backup`")
    return Namespace(records, export, ())


def _parts(data: bytes) -> Iterator[Part]:
    at = 0
    while at < len(data):
        part = decode_part(data, at)
        at += part.bytes_used
        yield part


def _order(namespace: Namespace) -> tuple[int, int]:
    return namespace.export.generation, namespace.export.index


async def _names(store: ObjectStore, bucket: str) -> list[str]:
    try:
        return [info.name async for info in store.list(bucket, PREFIX)]
    except NotFound:
        return []


async def _load(store: ObjectStore, bucket: str, chain: tuple[ExportName, ...], problems: list[str]) -> Namespace | None:
    items: dict[bytes, bytes] = {}
    reached: ExportId | None = None
    for name in chain:
        try:
            parts = [decode_part(await store.get(bucket, part)) for part in name.objects()]
            export, found = joined(iter(parts))
            if ExportName.of(export, len(parts)) != name:
                raise Corrupt("the export is not what its name says", name=name.objects()[-1])
            changes = list(found)
        except (Corrupt, NotFound) as error:
            problems.append(f"export {name.objects()[-1]} cannot be used: {error}")
            break
        await trio.to_thread.run_sync(_apply, items, changes)
        reached = export
    return None if reached is None else Namespace(items, reached, ())


def _apply(items: dict[bytes, bytes], changes: list[tuple[bytes, bytes | None]]) -> None:
    for key, value in changes:
        if value is None:
            items.pop(key, None)
        else:
            items[key] = value
