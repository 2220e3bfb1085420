"""``host:port`` and ``[v6]:port``. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from vpool.errors import Invalid

_ANY = ("0.0.0.0", "::", "")  # noqa: S104  # recognised, not bound here


@dataclass(frozen=True, slots=True)
class Address:
    """Where somebody listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_any(self) -> bool:
        """Whether it means all of a host's addresses: good for listening, not for being found."""
        return self.host in _ANY

    def neighbour(self) -> Address:
        """The next port: a node's registry listens at one, its daemon at the next."""
        return Address(self.host, self.port + 1)


def parse_address(text: str) -> Address:
    """An address. Errors: ``Invalid`` says what would be right."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host and not bracketed) or any(c.isspace() for c in host) or len(host) > 253:
        raise Invalid(f"{text!r} is not an address; write host:port, like 10.0.0.1:9470 or [fd00::1]:9470")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65535):
        raise Invalid(f"{text!r} has no port between 1 and 65534 at its end")
    return Address(host, int(port))
