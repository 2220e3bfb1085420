"""Join tokens: all that a new node needs to be believed once, as one line of text. Pure.

``vpool1.`` and base64url of a MessagePack list: vPool id, authority's certificate (DER), the token's certificate (DER) and key
(PEM), addresses, end of life (unix seconds), and SHA-256 over all that, so that a token cut by a terminal is told from a wrong
one.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
from dataclasses import dataclass

import msgpack

from peers.addresses import parse_address
from peers.certificates import (
    Authority,
    Role,
    certify,
    fingerprint,
    new_key,
    new_serial,
    serial_of,
    serial_text,
    to_der,
    to_pem,
)
from peers.credentials import Credentials
from vpool.errors import Invalid

PREFIX = "vpool1."
CUT_SHORT = "the join token is cut short or changed; copy it again, whole"
SERIAL_PREFIX = "token-"


@dataclass(frozen=True, slots=True)
class Token:
    """A token that has been read; nothing in it has been believed yet."""

    vpool: str
    credentials: Credentials
    addresses: tuple[str, ...]
    expires: dt.datetime

    @property
    def serial(self) -> str:
        return serial_of(self.credentials.identity)

    @property
    def node(self) -> str:
        """The id that the token's certificate has."""
        return SERIAL_PREFIX + self.serial

    @property
    def fingerprint(self) -> str:
        """Of the authority."""
        return fingerprint(self.credentials.authority)


def make_token(authority: Authority, vpool: str, addresses: tuple[str, ...], now: dt.datetime, life_s: float) -> tuple[str, str]:
    """(text, serial) of a token; it is good when the registry knows the serial."""
    key, serial = new_key(), new_serial()
    node = SERIAL_PREFIX + serial_text(serial)
    certificate = certify(authority, key, node, vpool, Role.JOIN, serial, now, life_s / 86_400)
    expires = now + dt.timedelta(seconds=life_s)
    content = [vpool, to_der(authority.certificate), to_der(certificate), key, list(addresses), int(expires.timestamp())]
    packed = msgpack.packb(content, use_bin_type=True)
    text = PREFIX + base64.urlsafe_b64encode(packed + hashlib.sha256(packed).digest()).decode("ascii").rstrip("=")
    return text, serial_text(serial)


def parse_token(text: str) -> Token:
    """A token. Errors: ``Invalid`` (says what is wrong with it)."""
    text = "".join(text.split())
    if not text.startswith(PREFIX):
        raise Invalid(f"this is no join token; one begins with {PREFIX} and comes from `vpool cluster token`")
    try:
        data = base64.b64decode(text[len(PREFIX) :] + "=" * (-len(text[len(PREFIX) :]) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(CUT_SHORT) from None
    packed, digest = data[:-32], data[-32:]
    if hashlib.sha256(packed).digest() != digest:
        raise Invalid(CUT_SHORT)
    try:
        vpool, authority, certificate, key, addresses, expires = msgpack.unpackb(packed, raw=False)
        for address in addresses:
            parse_address(address)
        credentials = Credentials(to_pem(authority), to_pem(certificate) + key)
        return Token(str(vpool), credentials, tuple(addresses), dt.datetime.fromtimestamp(expires, dt.UTC))
    except (ValueError, TypeError) as error:
        raise Invalid(f"the join token cannot be read: {error}") from None
