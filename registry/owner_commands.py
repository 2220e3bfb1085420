"""What can be asked about who owns an object, who mirrors its tail, and what nodes are for. Pure.

Part of ``registry.commands``, whose rules hold here too. All of them are compare-and-set on the object's epoch, so that whatever
was proposed under an epoch that is over is refused, however late it comes. docs/adr/0012-ownership.md has the protocols.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.model import DtlState, NodeStatus


@dataclass(frozen=True, slots=True)
class Transfer:
    """Hand an object over: epoch + 1, base = head, owner = ``target``. Only the owner, and only after it has stopped replying.

    In the same command the DTL: ``source_holds_tail`` makes the source the new owner's peer, in sync at once, since it holds the
    whole tail durably; otherwise the DTL is degraded. A DTL that is off stays off. The source is noted as having remains.
    Result: :class:`ObjectRecord`. Errors: ``Conflict`` (``epoch``; ``attempt``: given up; ``incarnation``, ``node_status`` of the
    target), ``NoSpace`` (at the target), ``Moved`` (the caller is not the owner), ``Fenced`` (the target has expired),
    ``Halted``,
    ``NotFound``, ``Invalid``.
    """

    object: str
    source: str  # the caller
    target: str
    target_incarnation: int  # the life of the target that has made the tail durable
    epoch: int
    attempt: int
    source_holds_tail: bool


@dataclass(frozen=True, slots=True)
class Abort:
    """Give up a hand-over: from now on no ``Transfer`` of this or an earlier attempt is accepted. Only then the source resumes.

    Result: :class:`ObjectRecord`. Errors: ``Conflict`` (``epoch``: perhaps because the transfer has been done), ``Moved``,
    ``NotFound``, ``Invalid``.
    """

    object: str
    epoch: int
    attempt: int


@dataclass(frozen=True, slots=True)
class ProposeDtl:
    """The owner changes the DTL's state; ``version`` is the one it changes from.

    *In sync* only from *catching up* with the same peer; when it is proposed the peer holds everything that was acknowledged, and
    flushes wait for it already. *Degraded* is committed before anything unprotected is acknowledged. ``asynchronous`` changes the
    way with any state but those two: *in sync* is of the synchronous way only, *following* of the other, and both come from
    *catching up* in it. Result: :class:`ObjectRecord`.
    Errors: ``Conflict`` (``epoch``, ``dtl``), ``Moved``, ``NotFound``, ``Halted``, ``Invalid``.
    """

    object: str
    epoch: int
    version: int
    peer: str
    state: DtlState
    asynchronous: bool = False


@dataclass(frozen=True, slots=True)
class Steal:
    """Take an object from a node that has expired: epoch + 1, base = head, owner = the caller. Its DTL is degraded by it.

    Refused unless nothing flushed can be lost: the DTL is in sync, and the caller has fenced its peer (``fenced_peer``, at
    ``dtl_version``) and made the peer's tail durable; or unless an administrator consents (``accept_loss``), who may name a peer
    that was fenced, too: it has something, not all. If the DTL is in sync and its peer was not fenced, the administrator must
    know as well that the old owner is off (``powered_off``): it may serve by its peer's word without a lease. A node that has
    lost its log takes what it owns itself in the same way.
    Result: :class:`ObjectRecord`. Errors: ``Conflict`` (``epoch``, ``owner_alive``, ``loss``, ``peer_unfenced``,
    ``node_status``),
    ``Halted``, ``NotFound``, ``Invalid``.
    """

    object: str
    thief: str  # the caller
    epoch: int
    dtl_version: int
    fenced_peer: str = ""
    accept_loss: bool = False
    powered_off: bool = False


@dataclass(frozen=True, slots=True)
class DropRemains:
    """What ``node`` kept of ``epoch`` is worthless: an administrator says so.

    Result: :class:`ObjectRecord`. Errors: ``NotFound``.
    """

    object: str
    node: str
    epoch: int


@dataclass(frozen=True, slots=True)
class SetNode:
    """What a node is for. Result: :class:`NodeRecord`. Errors: ``NotFound``, ``Invalid``."""

    node: str
    status: NodeStatus | None = None  # None: as it is
    domain: str | None = None  # failure domain; "": one of its own; None: as it is
