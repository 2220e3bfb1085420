"""What an administrator orders about who has an object: dead nodes' objects taken over, second copies of tails."""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from admin.contents_routes import REFUSALS
from admin.models import DtlOrder, VolumeReport
from admin.service import Administration, normal
from registry import DropRemains
from volumedriver import Consent
from vpool.errors import Conflict, Invalid, NotFound, VPoolError


class TakeoverOrder(BaseModel):
    """A request to take over one volume, or all that a node owned."""

    model_config = ConfigDict(extra="forbid")

    path: str | None = Field(default=None, description="of a volume")
    node: str | None = Field(default=None, description="id, or the beginning of it: all that this node owned, its files included")
    accept_loss: bool = Field(default=False, description="also when what was flushed may be lost")
    powered_off: bool = Field(default=False, description="the former owner is known to be off, and so is the peer of its DTL")


class TakenReport(BaseModel):
    """One object that was taken over, or not."""

    object: str
    path: str = Field(description="empty for a log of files, or a volume without a name")
    kind: str
    former: str = Field(description="node that owned it")
    epoch: int = Field(description="0: not taken over")
    lost: bool = Field(description="it is what the backend has: what came later has gone, as far as there was anything")
    head_tlog: int = Field(description="last TLog that the backend has of it; 0: nothing")
    loss: str = Field(default="", description="how much that is, as far as anybody knows, in words")
    loss_bytes_at_most: int | None = Field(
        default=None,
        description="of all that the former owner served so, as of its last report; null: unknown",
    )
    loss_reported_ms: int = Field(default=0, description="when that was, Unix time by the former owner's clock; 0: never")
    from_peer: bool = Field(default=False, description="it is what an asynchronous peer had, and not only what the backend has")
    written_ns: int = Field(description="last change that the former owner had told the registry of; 0: none")
    problem: str = Field(description="why it was not taken over, or is not open yet; empty if it serves")


class TakeoverReport(BaseModel):
    """All of them."""

    taken: list[TakenReport]


class RemainsReport(BaseModel):
    """What a former owner of an object may have of it."""

    object: str
    path: str = Field(description="empty for a log of files, or a volume without a name")
    kind: str
    node: str
    epoch: int = Field(description="under which it owned it")
    lost: bool = Field(description="perhaps nobody else has it: kept until an administrator says that it is worthless")
    bytes: int | None = Field(description="of its log here; null: of another node, or gone")


class RemainsList(BaseModel):
    """All of them."""

    remains: list[RemainsReport]


class RemainsOrder(BaseModel):
    """A request to let go of them."""

    model_config = ConfigDict(extra="forbid")

    path: str | None = Field(default=None, description="of the volume")
    object: str | None = Field(default=None, description="of a log of files")
    node: str = Field(description="id, or the beginning of it: whose remains")


class View(Protocol):
    """What is asked of the registry's view."""

    def object(self, object_id: str) -> Any: ...

    def objects_with_log(self) -> Any: ...

    def path_of(self, inode: int) -> str | None: ...

    def inode(self, number: int) -> Any: ...

    def node(self, node: str) -> Any: ...

    def nodes(self) -> Any: ...


class Router(Protocol):
    """What is asked of the object router."""

    registry: Any

    @property
    def takeover(self) -> Any: ...

    def remains_bytes(self, record: Any, node: str) -> int | None: ...

    async def set_dtl(self, object_id: str, mode: Any, peer: str) -> None: ...


class Takeovers:
    """See the module."""

    def __init__(self, administration: Administration, router: Router, view: View) -> None:
        self._administration, self._router, self._view = administration, router, view

    async def take(self, order: TakeoverOrder) -> TakeoverReport:
        """Take over one volume, or all that a dead node owned, one after the other.

        Errors, when nothing was changed: ``NotFound``, ``Invalid``, ``Conflict`` (see ``objectrouter.Takeover.steal``).
        """
        if (order.path is None) == (order.node is None):
            raise Invalid("either the path of a volume or a node is to be named")
        consent = Consent(order.accept_loss, order.powered_off)
        if order.path is not None:
            _, _, inode = await self._administration.find(order.path)
            taken = await self._router.takeover.steal(inode.object, consent)
            return TakeoverReport(taken=[self._report(taken.record, taken.former, taken, taken.problem)])
        takeover, former = self._router.takeover, self._dead(str(order.node))
        reports = []
        for record in [record for record in self._view.objects_with_log() if record.owner == former]:
            try:
                taken = await takeover.steal(record.id, consent)
            except VPoolError as error:  # the others are taken over all the same
                reports.append(self._report(record, former, None, str(error)))
            else:
                reports.append(self._report(taken.record, former, taken, taken.problem))
        if reports and not any(report.epoch for report in reports):
            raise Conflict(f"nothing was taken over; of {reports[0].path or reports[0].object}: {reports[0].problem}")
        return TakeoverReport(taken=reports)

    async def set_dtl(self, order: DtlOrder) -> VolumeReport:
        """Change a volume's DTL; the registry has it on return. As ``ObjectRouter.set_dtl``."""
        _, _, inode = await self._administration.find(order.path)
        record = self._view.object(inode.object)
        peer = ""
        if order.peer:
            node = self._node(order.peer)
            if node.expired or (record is not None and node.id == record.owner):
                raise Invalid("the peer is a node that lives, and not the one that owns the volume", node=node.id)
            peer = node.id
        mode = order.mode
        if order.on is not None:
            if mode is not None:
                raise Invalid("either mode or on is to be given")
            mode = "sync" if order.on else "off"
        if mode == "off" and peer:
            raise Invalid("a DTL that is off has no peer")
        await self._router.set_dtl(inode.object, mode, peer)
        return await self._administration.volume(order.path)

    def remains(self) -> RemainsList:
        """What former owners may have, of everything."""
        return RemainsList(
            remains=[self._remains(record, each) for record in self._view.objects_with_log() for each in record.remains]
        )

    async def drop_remains(self, order: RemainsOrder) -> RemainsList:
        """Have a node let go of what it has of an object; what is left of all then.

        Errors: ``NotFound`` (it has none of it), ``Invalid``.
        """
        if (order.path is None) == (order.object is None):
            raise Invalid("either the path of a volume or the id of a log of files is to be named")
        object_id = order.object or (await self._administration.find(str(order.path)))[2].object
        record, node = self._view.object(object_id), self._node(order.node).id
        found = [] if record is None else [each for each in record.remains if each.node == node]
        if not found:
            raise NotFound("that node has nothing of it that is kept", object=object_id, node=node)
        for each in found:
            await self._router.registry.submit(DropRemains(object_id, node, each.epoch))
        return self.remains()

    def _remains(self, record: Any, each: Any) -> RemainsReport:
        return RemainsReport(
            object=record.id,
            path=normal(path) if record.inode and (path := self._view.path_of(record.inode)) else "",
            kind=record.kind.value,
            node=each.node,
            epoch=each.epoch,
            lost=each.lost,
            bytes=self._router.remains_bytes(record, each.node),
        )

    def _node(self, named: str) -> Any:
        found = [record for record in self._view.nodes() if named and record.id.startswith(named)]
        if not found:
            raise NotFound(f"there is no node {named!r}; see vpool cluster status")
        if len(found) > 1:
            raise Invalid(f"{named} is the beginning of several nodes' ids; give more of it")
        return found[0]

    def _dead(self, named: str) -> str:
        node = self._node(named)
        if not node.expired:
            raise Conflict("the node's lease lives: only what a dead node owned is taken over", node=node.id)
        return str(node.id)

    def _report(self, record: Any, former: str, taken: Any, problem: str) -> TakenReport:
        inode = self._view.inode(record.inode) if record.inode else None
        loss = taken.loss if taken is not None else None
        return TakenReport(
            object=record.id,
            path=normal(path) if record.inode and (path := self._view.path_of(record.inode)) else "",
            kind=record.kind.value,
            former=former,
            epoch=record.epoch if taken is not None else 0,
            lost=taken is not None and taken.lost,
            head_tlog=record.head.tlog.number if record.head is not None else 0,
            loss=loss.text if loss is not None else "",
            loss_bytes_at_most=loss.bytes_at_most if loss is not None else None,
            loss_reported_ms=loss.reported_ms if loss is not None else 0,
            from_peer=taken is not None and taken.from_peer,
            written_ns=inode.mtime_ns if inode is not None else 0,
            problem=problem,
        )


def add_takeovers(api: FastAPI, *, takeovers: Takeovers) -> None:
    """The routes."""

    @api.post("/v1/takeovers", responses=REFUSALS)
    async def take(order: TakeoverOrder) -> TakeoverReport:
        return await takeovers.take(order)

    @api.get("/v1/remains", responses=REFUSALS)
    async def remains() -> RemainsList:
        return takeovers.remains()

    @api.post("/v1/remains/drop", responses=REFUSALS)
    async def drop_remains(order: RemainsOrder) -> RemainsList:
        return await takeovers.drop_remains(order)

    @api.post("/v1/dtl", responses=REFUSALS)
    async def set_dtl(order: DtlOrder) -> VolumeReport:
        return await takeovers.set_dtl(order)
