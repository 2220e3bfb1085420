"""Who may connect to a node of this vPool, as the replicated state says. Pure but for the view that is handed in.

For every listener of a node: the registry's own, the router's, the DTL's.
"""

from __future__ import annotations

from peers import Hello, Peer, Role
from registry.tables import Tables
from vpool.errors import Denied


def check_welcome(tables: Tables, peer: Peer, hello: Hello) -> None:
    """See that a peer whose certificate is the authority's has not been shut out since.

    One that this replica does not know (yet) is welcome: it may be older than what it knows. Errors: ``Denied``.
    """
    if tables.revoked(peer.serial):
        raise Denied("this certificate has been taken back", serial=peer.serial)
    if peer.role is Role.JOIN:
        return
    member = tables.member(peer.node)
    if member is not None and member.removed:
        raise Denied("this node has been removed from the vPool", node=peer.node)
