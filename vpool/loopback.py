"""Addresses on which something is served that asks nobody who he is: of the loopback interface only. Imports errors only."""

from __future__ import annotations

import ipaddress

from vpool.errors import Invalid


def parse_loopback(address: str) -> tuple[str, int]:
    """``127.0.0.1:9420`` or ``[::1]:9420`` as host and port.

    Raises:
        Invalid: not of this form, or not of the loopback interface: what is served there is for everybody who can connect.
    """
    host, _, port = address.rpartition(":")
    wrong = Invalid(f"{address!r} is not an address; write one like 127.0.0.1:9420 or [::1]:9420")
    try:
        found = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port)
    except ValueError:
        raise wrong from None
    if not 1 <= number <= 65535 or (found.version == 6) != host.startswith("["):
        raise wrong
    if not found.is_loopback:
        raise Invalid(f"{address} is not on the loopback interface; use 127.0.0.1 or [::1], and a proxy that asks who may look")
    return str(found), number
