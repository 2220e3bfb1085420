"""Volumes move from node to node, and nodes are emptied, because an administrator says so."""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from admin.contents_routes import REFUSALS
from admin.events import EventStream, Tell
from admin.service import Administration, normal
from vpool.errors import Invalid, NotFound


class MoveOrder(BaseModel):
    """A volume is to move."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="of the volume")
    node: str = Field(description="id, or the beginning of it: where to")


class DrainOrder(BaseModel):
    """All volumes and files of a node are to move to others."""

    model_config = ConfigDict(extra="forbid")

    node: str = Field(description="id, or the beginning of it")


class NodeReport(BaseModel):
    """A node, and whether it is given anything."""

    node: str
    status: str


class View(Protocol):
    """What is asked of the registry's view."""

    def object(self, object_id: str) -> Any: ...

    def path_of(self, inode: int) -> str | None: ...

    def nodes(self) -> Any: ...


class Router(Protocol):
    """What is asked of the object router."""

    @property
    def moves(self) -> Any: ...


class Moving:
    """See the module."""

    def __init__(self, administration: Administration, router: Router, view: View) -> None:
        self._administration, self._router, self._view = administration, router, view

    async def move(self, order: MoveOrder) -> EventStream:
        """Move one volume. Errors before anything changes: ``NotFound``, ``Invalid``, ``Conflict``; see ``Moves.move``."""
        moves, node = self._router.moves, self._node(order.node)
        _, _, inode = await self._administration.find(order.path)
        moves.check(inode.object, node)

        async def work(tell: Tell) -> dict[str, Any]:
            record = await moves.move(inode.object, node, tell)
            return {"path": normal(order.path), "node": record.owner, "epoch": record.epoch}

        return EventStream(work)

    async def move_file(self, order: MoveOrder) -> EventStream:
        """Move one file by itself. Errors as ``move``."""
        moves, node = self._router.moves, self._node(order.node)
        _, _, inode = await self._administration.find(order.path, "file")
        moves.check_file(inode.object, node)

        async def work(tell: Tell) -> dict[str, Any]:
            record = await moves.move_file(inode.object, node, tell)
            return {"path": normal(order.path), "node": record.owner, "epoch": record.epoch}

        return EventStream(work)

    async def drain(self, order: DrainOrder) -> EventStream:
        """Empty a node. Errors as ``Moves.drain``."""
        moves, node = self._router.moves, self._node(order.node)
        moves.check_drain(node)

        async def work(tell: Tell) -> dict[str, Any]:
            done = await moves.drain(node, tell)
            said = [(each.is_files, {"object": each.object, "owner": each.owner, "problem": each.problem}) for each in done]
            volumes = [{**each, "path": self._path(str(each["object"]))} for is_files, each in said if not is_files]
            return {"node": node, "volumes": volumes, "files": [each for is_files, each in said if is_files]}

        return EventStream(work)

    async def undrain(self, order: DrainOrder) -> NodeReport:
        """Give a node something again."""
        record = await self._router.moves.undrain(self._node(order.node))
        return NodeReport(node=record.id, status=record.status.value)

    def _path(self, object_id: str) -> str:
        record = self._view.object(object_id)
        path = self._view.path_of(record.inode) if record is not None and record.inode else None
        return normal(path) if path else ""

    def _node(self, named: str) -> str:
        found = [record.id for record in self._view.nodes() if named and record.id.startswith(named)]
        if not found:
            raise NotFound(f"there is no node {named!r}; see vpool cluster status")
        if len(found) > 1 and named not in found:
            raise Invalid(f"{named} is the beginning of several nodes' ids; give more of it")
        return named if named in found else str(found[0])


def add_moving(api: FastAPI, *, moving: Moving) -> None:
    """The routes."""

    @api.post("/v1/moves", responses=REFUSALS, response_class=EventStream, response_model=None)
    async def move(order: MoveOrder) -> EventStream:
        return await moving.move(order)

    @api.post("/v1/file-moves", responses=REFUSALS, response_class=EventStream, response_model=None)
    async def move_file(order: MoveOrder) -> EventStream:
        return await moving.move_file(order)

    @api.post("/v1/drains", responses=REFUSALS, response_class=EventStream, response_model=None)
    async def drain(order: DrainOrder) -> EventStream:
        return await moving.drain(order)

    @api.post("/v1/drains/end", responses=REFUSALS)
    async def undrain(order: DrainOrder) -> NodeReport:
        return await moving.undrain(order)
