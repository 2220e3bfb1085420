"""Links between nodes: TLS 1.3 with a certificate on both sides, then frames. The one way in which hosts talk to each other.

It promises: nothing beyond a length is read before the peer's certificate has been verified; a peer is who its certificate says,
of this vPool; no frame exceeds its limit. Who may be a peer at all (removed nodes, certificates taken back) is asked of the
caller. ``Channel`` is the connection without a socket, for any loop; ``dial`` and ``serve`` are it on trio. The room calls
nobody but ``vpool.errors``. See docs/adr/0013-links-between-nodes.md.
"""

from peers.addresses import Address, parse_address
from peers.certificates import (
    CA_DAYS,
    NODE_DAYS,
    Authority,
    Peer,
    Role,
    certify,
    expires_at,
    fingerprint,
    new_authority,
    new_key,
    new_serial,
    request,
    requested_by,
    role_of,
    serial_of,
    serial_text,
    sign,
    to_der,
    to_pem,
)
from peers.channel import HANDSHAKE_S, Channel
from peers.credentials import AUTHORITY, AUTHORITY_KEY, IDENTITY, Contexts, CredentialFiles, Credentials
from peers.frames import FrameReader, Malformed, frame
from peers.hello import PROTOCOL, Hello, Purpose
from peers.links import Link, dial, dialled, serve
from peers.tokens import Token, make_token, parse_token

__all__ = [
    "AUTHORITY",
    "AUTHORITY_KEY",
    "CA_DAYS",
    "HANDSHAKE_S",
    "IDENTITY",
    "NODE_DAYS",
    "PROTOCOL",
    "Address",
    "Authority",
    "Channel",
    "Contexts",
    "CredentialFiles",
    "Credentials",
    "FrameReader",
    "Hello",
    "Link",
    "Malformed",
    "Peer",
    "Purpose",
    "Role",
    "Token",
    "certify",
    "dial",
    "dialled",
    "expires_at",
    "fingerprint",
    "frame",
    "make_token",
    "new_authority",
    "new_key",
    "new_serial",
    "parse_address",
    "parse_token",
    "request",
    "requested_by",
    "role_of",
    "serial_of",
    "serial_text",
    "serve",
    "sign",
    "to_der",
    "to_pem",
]
