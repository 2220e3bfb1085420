"""The nodes of a vPool as one of them sees them: who they are, how their leases are, what they own; and maintenance."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Protocol

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from admin.contents_routes import REFUSALS
from admin.service import normal
from registry import DtlState, MemberRecord, NodeRecord, NodeStatus, ObjectKind, RegistryClient, SetNode
from vpool.errors import Conflict, Invalid, NotFound


class OwnedReport(BaseModel):
    """One volume, or a log of files, that a node owns."""

    path: str = Field(description="empty for a log of files, or a volume without a name")
    kind: str
    object: str
    state: str
    epoch: int
    dtl: str = Field(description="off, degraded, catching-up, in-sync or following")
    dtl_peer: str = Field(description="node that mirrors its tail; empty without one")


class NodeReport(BaseModel):
    """One node."""

    id: str
    name: str = Field(description="of its host; empty if it has not said so")
    this: bool = Field(description="it is the node that answers")
    role: str = Field(description="voter, witness, replica; alone: the vPool is no cluster")
    state: str = Field(description="what the registry makes of it: votes, receives, catching up, joining; empty if alone")
    leads: bool
    connected: bool = Field(description="there is a link between its registry and this node's")
    problem: str = Field(description="why there is none")
    status: str = Field(description="active, maintenance or drained: what an administrator wants of it")
    address: str = Field(description="where its registry listens for the others; its daemon at the next port")
    release: str = Field(description="of the program; empty if unknown, as of a witness")
    domain: str = Field(description="failure domain; empty: one of its own")
    incarnation: int = Field(description="which of its lives this is; 0: it has never served")
    lease: str = Field(description="held, waiting (it may not answer now), expired, silent, none (a witness)")
    lease_s: float = Field(description="of this node: how long it may answer yet; of others: how long they have been silent")
    room_bytes: int | None = Field(description="that its cache can still take; null: not known")
    lag_entries: int | None = Field(description="of the log that it has not confirmed; null: only the leader knows")
    volumes: int = Field(description="that it owns")
    file_logs: int
    in_sync: int = Field(description="of both: with a peer that has all that was flushed")
    remains: int = Field(description="objects of which it may still hold something from before it lost them")


class NodeList(BaseModel):
    """All nodes."""

    nodes: list[NodeReport]


class NodeDetails(NodeReport):
    """One node, and what it owns."""

    owns: list[OwnedReport]


class MaintenanceOrder(BaseModel):
    """Maintenance on or off."""

    model_config = ConfigDict(extra="forbid")

    on: bool


class Keeper(Protocol):
    """What is asked of whoever keeps this node's lease."""

    lease: Any
    watcher: Any


class Nodes:
    """See the module. ``keeper`` None: the vPool has one node."""

    def __init__(self, registry: RegistryClient, keeper: Keeper | None) -> None:
        self._registry, self._keeper = registry, keeper

    async def all(self) -> list[NodeReport]:
        """All nodes, witnesses among them."""
        members, status = await self._members()
        records = {record.id: record for record in self._registry.view.nodes()}
        owned: Counter[tuple[str, str]] = Counter()
        for record in self._registry.view.objects_with_log():
            owned[record.owner, record.kind.value] += 1
            owned[record.owner, "in-sync"] += record.dtl.state is DtlState.IN_SYNC
            for node in {remains.node for remains in record.remains}:
                owned[node, "remains"] += 1
        known = [node for node in {**records, **members} if node not in status["removed"]]
        return [self._report(node, records.get(node), members.get(node), status, owned) for node in sorted(known)]

    async def one(self, named: str) -> NodeDetails:
        """By id, its beginning, or the host's name. Errors: ``NotFound``, ``Invalid`` (of several)."""
        found = await self._named(named)
        view = self._registry.view
        owns = [
            OwnedReport(
                path=normal(path) if record.inode and (path := view.path_of(record.inode)) else "",
                kind=record.kind.value,
                object=record.id,
                state=record.state.value,
                epoch=record.epoch,
                dtl=record.dtl.state.value,
                dtl_peer=record.dtl.peer,
            )
            for record in view.objects_with_log()
            if record.owner == found.id
        ]
        return NodeDetails(**found.model_dump(), owns=sorted(owns, key=lambda owned: (owned.kind, owned.path)))

    async def maintain(self, named: str, order: MaintenanceOrder) -> NodeReport:
        """Maintenance on or off. Errors: as ``one``; ``Conflict`` (the node is drained, or is none that serves)."""
        found = await self._named(named)
        if not found.incarnation:
            raise Conflict("the node serves nothing: a witness, or one that has not been started yet", node=found.id)
        if found.status == NodeStatus.DRAINED.value:
            raise Conflict("the node is drained, which is more than maintenance", node=found.id)
        await self._registry.submit(SetNode(found.id, NodeStatus.MAINTENANCE if order.on else NodeStatus.ACTIVE))
        return await self._named(found.id)

    async def _named(self, named: str) -> NodeReport:
        nodes = await self.all()
        found = [node for node in nodes if node.id == named] or [
            node for node in nodes if named and (node.name == named or node.id.startswith(named))
        ]
        if not found:
            raise NotFound(f"there is no node {named!r}; `vpool node list` shows all")
        if len(found) > 1:
            raise Invalid(f"{named!r} means several nodes; write more of the id", nodes=", ".join(node.id for node in found))
        return found[0]

    async def _members(self) -> tuple[dict[str, MemberRecord], dict[str, Any]]:
        if self._keeper is None:
            return {}, {"leader": self._registry.node, "members": [], "removed": []}
        status = await self._registry.ask("status")
        return {member.id: member for member in self._registry.view.members() if not member.removed}, status

    def _report(
        self, node: str, record: NodeRecord | None, member: MemberRecord | None, status: dict[str, Any], owned: Counter[Any]
    ) -> NodeReport:
        told: dict[str, Any] = next((each for each in status["members"] if each["id"] == node), {})
        lease, lease_s = self._lease(record)
        this = node == self._registry.node
        knows_lag = bool(told) and (this or status["leader"] == self._registry.node)
        confirmed = status["applied"] if this and told else told.get("confirmed", 0)
        return NodeReport(
            id=node,
            name=member.name if member is not None else "",
            this=this,
            role=member.role.value if member is not None else "alone",
            state=told.get("state", ""),
            leads=status["leader"] == node,
            connected=this or told.get("connected", False),
            problem=told.get("problem", ""),
            status=record.status.value if record is not None else NodeStatus.ACTIVE.value,
            address=member.address if member is not None else "",
            release=record.release if record is not None else "",
            domain=record.domain if record is not None else "",
            incarnation=record.incarnation if record is not None else 0,
            lease=lease,
            lease_s=round(lease_s, 1),
            room_bytes=record.room_bytes if record is not None else None,
            lag_entries=max(0, status["committed"] - confirmed) if knows_lag else None,
            volumes=owned[node, ObjectKind.VOLUME.value],
            file_logs=owned[node, ObjectKind.FILE_LOG.value],
            in_sync=owned[node, "in-sync"],
            remains=owned[node, "remains"],
        )

    def _lease(self, record: NodeRecord | None) -> tuple[str, float]:
        if record is None or self._keeper is None:
            return "none", 0.0
        if record.expired:
            return "expired", 0.0
        if record.id == self._registry.node:
            until = self._keeper.lease.until
            left_s = 0.0 if until is None else until - time.clock_gettime(time.CLOCK_BOOTTIME)
            return ("held" if left_s > 0 else "waiting"), max(0.0, left_s)
        silent_s = self._keeper.watcher.silent_s(record.id)
        return ("held" if silent_s < self._keeper.lease.timings.lease_s else "silent"), silent_s


def add_nodes(api: FastAPI, *, nodes: Nodes) -> None:
    """The routes."""

    @api.get("/v1/nodes", responses=REFUSALS)
    async def listed() -> NodeList:
        return NodeList(nodes=await nodes.all())

    @api.get("/v1/nodes/{node}", responses=REFUSALS)
    async def one(node: str) -> NodeDetails:
        return await nodes.one(node)

    @api.post("/v1/nodes/{node}/maintenance", responses=REFUSALS)
    async def maintenance(node: str, order: MaintenanceOrder) -> NodeReport:
        return await nodes.maintain(node, order)
