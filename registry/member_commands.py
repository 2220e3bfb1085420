"""Commands on the cluster itself: who is a member, by which certificate, let in by which token. Pure; see ``registry.commands``.

They are asked by a node's registry process in a session of its own (``<node>.registry``), without having registered as a node: a
witness has no daemon, and a vPool whose nodes have all expired must still be mended.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.model import MemberRole

MEMBERS_MAX = 64


@dataclass(frozen=True, slots=True)
class FormCluster:
    """The vPool becomes a cluster of one node, which then lets others in.

    Result: :class:`ClusterRecord`. Asked again with the same authority it answers what is there. Errors: ``Conflict``,
    ``Invalid``.
    """

    node: str
    address: str  # where the others find its registry, host:port
    serial: str  # of its certificate, hexadecimal
    fingerprint: str  # of the authority's certificate, SHA-256, hexadecimal
    backend: str  # address of the object store, for those who join
    now_ns: int
    name: str = ""  # of the host, for people


@dataclass(frozen=True, slots=True)
class GrantToken:
    """Somebody may join, once, until a time.

    Result: :class:`TokenRecord`. Errors: ``Conflict`` (no cluster, the serial is known), ``Invalid``.
    """

    serial: str  # of the certificate in the token
    expires_ns: int
    now_ns: int


@dataclass(frozen=True, slots=True)
class Admit:
    """The bearer of a token becomes a member, and the token is used up.

    Asked again by the same node with the same token: the answer it got. Result: :class:`MemberRecord`.
    Errors: ``Denied`` (token unknown, over, used by another), ``Exists`` (a node with this id), ``NoSpace``, ``Invalid``.
    """

    token: str  # its serial
    node: str
    address: str
    role: MemberRole
    serial: str
    now_ns: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class SetRole:
    """A member becomes voter, witness or replica. Result: :class:`MemberRecord`.

    Errors: ``Conflict`` (the last voter that is no witness), ``NotFound``, ``Invalid`` (a witness has no daemon: it stays one).
    """

    node: str
    role: MemberRole


@dataclass(frozen=True, slots=True)
class RemoveMember:
    """A member is none any more, and cannot come back with its certificate; it need not be there. Result: :class:`MemberRecord`.

    Its handles are dropped, its incarnation is over. Errors: ``Conflict`` (the last voter that is no witness; it has objects and
    its lease lives), ``NotFound``. Asked again: the same answer.
    """

    node: str
    now_ns: int


@dataclass(frozen=True, slots=True)
class ChangeMember:
    """A member says where it is now, or shows another certificate; what it had before is taken back.

    Result: :class:`MemberRecord`. Errors: ``NotFound``, ``Denied`` (it has been removed), ``Invalid``.
    """

    node: str
    address: str
    serial: str
    until_ns: int  # end of life of the certificate that is taken back: until then it is remembered
    name: str = ""


@dataclass(frozen=True, slots=True)
class RevokeCertificate:
    """A certificate is good for nothing from now on. Result: None. Errors: ``Conflict`` (a member has it now), ``Invalid``."""

    serial: str
    until_ns: int
    now_ns: int
