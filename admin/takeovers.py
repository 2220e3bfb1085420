"""What a dead node owned is taken over by this one, because an administrator says so."""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from admin.contents_routes import REFUSALS
from admin.service import Administration, normal
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
    written_ns: int = Field(description="last change that the former owner had told the registry of; 0: none")
    problem: str = Field(description="why it was not taken over, or is not open yet; empty if it serves")


class TakeoverReport(BaseModel):
    """All of them."""

    taken: list[TakenReport]


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

    @property
    def takeover(self) -> Any: ...


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

    def _dead(self, named: str) -> str:
        found = [record for record in self._view.nodes() if named and record.id.startswith(named)]
        if not found:
            raise NotFound(f"there is no node {named!r}; see vpool cluster status")
        if len(found) > 1:
            raise Invalid(f"{named} is the beginning of several nodes' ids; give more of it")
        if not found[0].expired:
            raise Conflict("the node's lease lives: only what a dead node owned is taken over", node=found[0].id)
        return str(found[0].id)

    def _report(self, record: Any, former: str, taken: Any, problem: str) -> TakenReport:
        inode = self._view.inode(record.inode) if record.inode else None
        return TakenReport(
            object=record.id,
            path=normal(path) if record.inode and (path := self._view.path_of(record.inode)) else "",
            kind=record.kind.value,
            former=former,
            epoch=record.epoch if taken is not None else 0,
            lost=taken is not None and taken.lost,
            head_tlog=record.head.tlog.number if record.head is not None else 0,
            written_ns=inode.mtime_ns if inode is not None else 0,
            problem=problem,
        )


def add_takeovers(api: FastAPI, *, takeovers: Takeovers) -> None:
    """The routes."""

    @api.post("/v1/takeovers", responses=REFUSALS)
    async def take(order: TakeoverOrder) -> TakeoverReport:
        return await takeovers.take(order)
