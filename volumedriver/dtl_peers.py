"""Who should mirror an object's tail, and who should take it over: choices by failure domain and rank. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from registry import NodeRecord, NodeStatus


def takes(node: NodeRecord) -> bool:
    """Whether a node may be given anything."""
    return not node.expired and node.status is NodeStatus.ACTIVE and node.room_bytes != 0


def domain_of(node: NodeRecord) -> str:
    """A node without a failure domain is one by itself."""
    return node.domain or f"node {node.id}"


def choose_peer(object_id: str, owner: str, nodes: Iterable[NodeRecord], away: frozenset[str] = frozenset()) -> str:
    """The peer for an object: in another failure domain than its owner if there is one, else any other node; "" if there is none.

    The same for every caller with the same knowledge, and spread evenly over nodes. ``away``: nodes that do not answer the owner.
    """
    known = list(nodes)
    domain = next((domain_of(node) for node in known if node.id == owner), "")
    fit = [node for node in known if node.id != owner and takes(node) and node.id not in away]
    elsewhere = [node for node in fit if domain_of(node) != domain]
    ranked = sorted(elsewhere or fit, key=lambda node: (_weight(object_id, node.id), node.id))
    return ranked[0].id if ranked else ""


def thief_rank(object_id: str, peer: str, node: str, nodes: Iterable[NodeRecord]) -> int | None:
    """How many nodes should try before this one to take an object over: 0 for its DTL peer. None: this node must not."""
    fit = [candidate.id for candidate in nodes if takes(candidate)]
    if node not in fit:
        return None
    others = sorted((name for name in fit if name != peer), key=lambda name: (_weight(object_id, name), name))
    return [*([peer] if peer in fit else []), *others].index(node)


def _weight(object_id: str, node: str) -> int:
    """Rendezvous hashing: which node an object prefers does not change when others come and go."""
    return crc32(f"{object_id} {node}".encode())
