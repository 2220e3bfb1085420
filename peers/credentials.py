"""What a node shows and whom it believes, as TLS contexts; kept as PEM files in one directory (``DIR/cluster``).

``authority.pem`` whom to believe; ``node.pem`` what to show (certificate and key in one file, so that they change together);
``authority.key`` only where new nodes may be let in. Every file is replaced whole (written beside, synced, renamed), and a new
``node.pem`` counts for the next connection.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from peers.certificates import Authority
from vpool.durable import replace_file
from vpool.errors import Halted

AUTHORITY = "authority.pem"
AUTHORITY_KEY = "authority.key"
IDENTITY = "node.pem"


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM, all of it."""

    authority: bytes
    identity: bytes  # certificate, then key

    def context(self, *, server_side: bool) -> ssl.SSLContext:
        """TLS 1.3, the peer's certificate demanded on both sides and checked against this authority alone.

        Names of hosts are not checked: the subject is, by ``peers.channel``.
        Errors: ``Halted`` (the files do not fit each other).
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        if server_side:
            context.num_tickets = 0  # a session that is taken up again would not show its certificate
        try:
            context.load_verify_locations(cadata=self.authority.decode("ascii"))
            _load_chain(context, self.identity)
        except (ssl.SSLError, ValueError) as error:
            raise Halted(f"the node's certificate, key and authority do not fit each other: {error}") from None
        return context

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """(for accepting, for dialling). Errors: ``Halted``."""
        return self.context(server_side=True), self.context(server_side=False)


class Contexts(Protocol):
    """Where TLS contexts come from: :class:`Credentials` or :class:`CredentialFiles`."""

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """(for accepting, for dialling)."""


def _load_chain(context: ssl.SSLContext, identity: bytes) -> None:
    """``load_cert_chain`` takes files only: one in memory."""
    fd = os.memfd_create("credentials", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(identity)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


class CredentialFiles:
    """A directory of them. ``contexts`` are made again when ``node.pem`` has changed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stamp: tuple[int, int] | None = None
        self._contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None

    def load(self) -> Credentials:
        """All that is needed. Errors: ``Halted`` (a file is missing)."""
        return Credentials(*[self._read(name) for name in (AUTHORITY, IDENTITY)])

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """(for accepting, for dialling). Errors: ``Halted``."""
        found = os.stat(self.directory / IDENTITY)
        stamp = (found.st_mtime_ns, found.st_ino)
        if self._contexts is None or stamp != self._stamp:
            self._contexts = self.load().contexts()
            self._stamp = stamp
        return self._contexts

    @property
    def exist(self) -> bool:
        """Whether this node has an identity: it belongs to a cluster."""
        return (self.directory / IDENTITY).exists()

    def authority(self) -> Authority | None:
        """With its key; None where this node may not let others in."""
        if not (self.directory / AUTHORITY_KEY).exists():
            return None
        return Authority(self._read(AUTHORITY), self._read(AUTHORITY_KEY))

    def save(self, name: str, content: bytes) -> None:
        """Replace one file; durable on return. Errors: ``OSError``."""
        replace_file(self.directory / name, content)

    def _read(self, name: str) -> bytes:
        try:
            return (self.directory / name).read_bytes()
        except OSError as error:
            raise Halted(f"{self.directory / name} cannot be read: {error.strerror}; restore it, or join anew") from None
