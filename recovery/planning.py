"""What can be had again of a vPool, found out without changing anything.

For every volume and log of files, known to the namespace or only found: does a tombstone say that it was deleted, how far is its
history proven, which epoch is above any that was ever used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import trio

from backend import ObjectStore
from engine import CLUSTER
from recovery.files import FileFinding, judge_files, meta_changes, read_metas
from recovery.listing import LogListing, list_log
from recovery.loading import Namespace, newest_generation
from recovery.proving import Proof, Prover, side_by_side
from registry import Head, ObjectKind, ObjectRecord, ObjectState
from registry.export import ExportId
from registry.kv import RamView
from registry.tables import Tables
from volumedriver import TOMBSTONES, BirthRecord, Place, place_of, shared_bucket, tombstone_object
from vpool.errors import Conflict, Corrupt, NotFound

EPOCHS_APART = 1 << 16  # above what was found: room for what listings do not show, and for what is still on its way
REQUESTS = 16
_VOLUME_BUCKET = re.compile(r"vpool-([0-9a-f]{32})")
_SHARED_BUCKET = re.compile(r"vpool-([0-9a-f]{32})-files")
_LOG_PREFIX = re.compile(r"([0-9a-f]{32})/.*")

Tell = Callable[[str, int, int], None]
"""Progress: (what is looked at, done, of how many)."""

Fate = Literal["kept", "advanced", "empty", "missing", "found", "deleted", "unusable"]


@dataclass(frozen=True, slots=True)
class LogFinding:
    """One volume or log of files."""

    object: str
    kind: ObjectKind
    fate: Fate  # kept, advanced: head as known, or further; found: not in the namespace; unusable: found, but nothing is proven
    head_before: int  # number of the TLog of the head in the namespace; 0: none
    head: Head | None
    epoch: int  # above any that was used
    tlogs_walked: int = 0
    tlogs_beyond: int = 0  # that cannot be used
    bytes_checked: int = 0
    reason: str = ""  # of missing and unusable ones
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """Everything that a rebuilt registry follows from, but the namespace itself."""

    vpool: str
    source: ExportId | None  # None: no export was found; everything comes back under lost+found
    generation: int
    logs: tuple[LogFinding, ...]
    files: tuple[FileFinding, ...]  # where the logs of files say otherwise than the namespace
    problems: tuple[str, ...]


async def vpools_in(store: ObjectStore) -> list[str]:
    """Ids of the vPools that have buckets here."""
    shared: set[str] = set()
    volumes: list[str] = []
    async for bucket in store.list_buckets():
        if match := _SHARED_BUCKET.fullmatch(bucket):
            shared.add(match[1])
        elif _VOLUME_BUCKET.fullmatch(bucket):
            volumes.append(bucket)
    if not shared:
        for bucket in volumes:
            birth = await _birth(store, Place(bucket, ""))
            if birth is not None:
                shared.add(birth.vpool)
    return sorted(shared)


async def plan_recovery(
    store: ObjectStore, vpool: str, namespace: Namespace | None, *, tell: Tell = lambda what, done, total: None
) -> RecoveryPlan:
    """Look at everything that the vPool has in the backend; lists buckets. Unavailable, Denied."""
    planner = _Planner(store, vpool, namespace, tell)
    return await planner.plan()


class _Planner:
    def __init__(self, store: ObjectStore, vpool: str, namespace: Namespace | None, tell: Tell) -> None:
        self._store = store
        self._vpool = vpool
        self._namespace = namespace
        self._tables = Tables(RamView(namespace.items if namespace is not None else {}))
        self._tell = tell
        self._limit = trio.CapacityLimiter(REQUESTS)
        self._deleted: set[str] = set()
        self._findings: list[LogFinding] = []
        self._files: list[FileFinding] = []
        self._looked_at = self._to_look_at = 0

    async def plan(self) -> RecoveryPlan:
        known = {record.id: record for record in self._tables.objects() if record.kind is not ObjectKind.FILE}
        shared = shared_bucket(self._vpool)
        generation = max(
            await newest_generation(self._store, shared), self._namespace.export.generation if self._namespace is not None else 0
        )
        await self._read_tombstones(shared)
        unknown = {**await self._unknown_logs(shared, known), **await self._unknown_volumes(known)}
        self._to_look_at = len(known) + len(unknown)
        await side_by_side(known.values(), self._look_at_known, REQUESTS)
        await side_by_side(unknown.items(), self._look_at_unknown, REQUESTS)
        return RecoveryPlan(
            vpool=self._vpool,
            source=self._namespace.export if self._namespace is not None else None,
            generation=generation + 1,
            logs=tuple(sorted(self._findings, key=lambda finding: (finding.kind.value, finding.object))),
            files=tuple(sorted(self._files, key=lambda file: (file.log, file.address, file.found))),
            problems=self._namespace.problems if self._namespace is not None else (),
        )

    async def _read_tombstones(self, shared: str) -> None:
        try:
            async for info in self._store.list(shared, TOMBSTONES):
                if (object_id := tombstone_object(info.name)) is not None:
                    self._deleted.add(object_id)
        except NotFound:
            return

    async def _unknown_logs(self, shared: str, known: dict[str, ObjectRecord]) -> dict[str, ObjectKind]:
        found: dict[str, ObjectKind] = {}
        try:
            async for info in self._store.list(shared):
                match = _LOG_PREFIX.fullmatch(info.name)
                if match and match[1] not in known:
                    found[match[1]] = ObjectKind.FILE_LOG
        except NotFound:
            pass
        return found

    async def _unknown_volumes(self, known: dict[str, ObjectRecord]) -> dict[str, ObjectKind]:
        """Buckets of volumes of this vPool that the namespace does not know; deleted ones are not among them."""
        found: dict[str, ObjectKind] = {}
        async for bucket in self._store.list_buckets():
            match = _VOLUME_BUCKET.fullmatch(bucket)
            if match is None or match[1] in known or match[1] in self._deleted:
                continue
            birth = await _birth(self._store, Place(bucket, ""))
            if birth is not None and (birth.vpool, birth.volume) == (self._vpool, match[1]):
                found[match[1]] = ObjectKind.VOLUME
        return found

    async def _look_at_known(self, record: ObjectRecord) -> None:
        finding = LogFinding(
            record.id,
            record.kind,
            "kept",
            head_before=record.head.tlog.number if record.head is not None else 0,
            head=record.head,
            epoch=record.epoch,
        )
        if record.id in self._deleted:
            self._found(replace(finding, fate="deleted"))
            return
        place = place_of(record.id, record.kind, self._vpool)
        listing = await list_log(self._store, place)
        finding = replace(finding, epoch=max(record.epoch, listing.epoch_max) + EPOCHS_APART)
        if record.state is ObjectState.CONDEMNED:
            self._found(finding)
            return
        if not listing.objects:
            reason = (
                "nothing is left of it in the backend, though there was; it was deleted after this copy of the registry was "
                "made, or its bucket was lost: bring the bucket back, or delete the volume"
            )
            lost = record.head is not None
            self._found(replace(finding, fate="missing" if lost else "empty", reason=reason if lost else ""))
            return
        proof = await self._prove(place, listing, record.head, record.epoch, record.kind)
        advanced = proof.head is not None and finding.head_before < proof.head.tlog.number
        self._found(_with_proof(finding, proof, "advanced" if advanced else "kept" if proof.head is not None else "empty"))
        await self._trace_files(record.id, record.kind, proof, place)

    async def _look_at_unknown(self, item: tuple[str, ObjectKind]) -> None:
        object_id, kind = item
        place = place_of(object_id, kind, self._vpool)
        listing = await list_log(self._store, place)
        finding = LogFinding(object_id, kind, "found", 0, None, listing.epoch_max + EPOCHS_APART)
        proof = await self._prove(place, listing, None, 0, kind)
        if proof.head is None:
            reason = "its objects prove no history; they are left as they are"
            self._found(_with_proof(replace(finding, reason=reason), proof, "unusable"))
            return
        self._found(_with_proof(finding, proof, "found"))
        await self._trace_files(object_id, kind, proof, place)

    async def _prove(self, place: Place, listing: LogListing, known: Head | None, epoch: int, kind: ObjectKind) -> Proof:
        prover = Prover(self._store, place, listing, self._limit)
        return await prover.prove(known, epoch, keep_contents=kind is ObjectKind.FILE_LOG)

    async def _trace_files(self, log: str, kind: ObjectKind, proof: Proof, place: Place) -> None:
        if kind is not ObjectKind.FILE_LOG:
            return

        async def read(sco: int, first: int, slots: int) -> bytes:
            async with self._limit:
                name = place.sco(proof.epochs[sco], sco)
                return await self._store.get(place.bucket, name, start=first * CLUSTER, length=slots * CLUSTER)

        def at(address: int) -> ObjectRecord | None:
            object_id = self._tables.file_at(log, address)
            return None if object_id is None else self._tables.object(object_id)

        changes = await trio.to_thread.run_sync(meta_changes, proof.contents)
        self._files += judge_files(log, await read_metas(changes, read), at)

    def _found(self, finding: LogFinding) -> None:
        self._findings.append(finding)
        self._looked_at += 1
        self._tell("logs", self._looked_at, self._to_look_at)


def _with_proof(finding: LogFinding, proof: Proof, fate: Fate) -> LogFinding:
    return replace(
        finding,
        fate=fate,
        head=proof.head,
        tlogs_walked=proof.tlogs_walked,
        tlogs_beyond=proof.tlogs_beyond,
        bytes_checked=proof.bytes_checked,
        problems=tuple(proof.problems),
    )


async def _birth(store: ObjectStore, place: Place) -> BirthRecord | None:
    try:
        return BirthRecord.decode(await store.get(place.bucket, place.birth_record()))
    except (NotFound, Corrupt):
        return None


def only_vpool(found: list[str], wanted: str | None, url: str) -> str:
    """The vPool to recover.

    Raises:
        NotFound: there is none, or not the one that is asked for.
        Conflict: there are several, and none is asked for.
    """
    if wanted is not None:
        if wanted not in found:
            raise NotFound(
                f"the backend {url} has no bucket of the vPool {wanted}; it has " + (", ".join(found) or "none of any")
            )
        return wanted
    if not found:
        raise NotFound(f"the backend {url} has no bucket of any vPool; check its address, prefix and credentials")
    if len(found) > 1:
        raise Conflict(f"the backend {url} has buckets of several vPools; choose one with --vpool: " + ", ".join(found))
    return found[0]
