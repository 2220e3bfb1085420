"""X.509 for one vPool: its own authority, certificates of nodes, requests for them. No files, no clock: ``now`` is handed in.

A certificate's subject is ``CN=<node id>, O=<vPool id>, OU=<role>`` and its only alternative name ``vpool://<vPool id>/<node
id>``. Addresses are not in it: they change, and who answers at one is decided by the id. Keys are P-256 (RFC 5480), signatures
ECDSA with SHA-256. A certificate is accepted by its chain, then by its subject; what has been taken back is known to the
registry.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vpool.errors import Denied, Invalid

CA_DAYS = 3650
NODE_DAYS = 365
BACKDATED = dt.timedelta(minutes=5)  # for clocks that differ a little


class Role(str, Enum):
    """What the holder of a certificate may ask for."""

    NODE = "node"
    WITNESS = "witness"
    JOIN = "join"  # the bearer of a token: may ask to become a member, once, and nothing else


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as its certificate says; only made of certificates that have been verified."""

    node: str
    vpool: str
    role: Role
    serial: str  # of the certificate, hexadecimal


@dataclass(frozen=True, slots=True)
class Authority:
    """The vPool's authority: its certificate, and its key where this node has it (PEM)."""

    certificate: bytes
    key: bytes


def new_key() -> bytes:
    """A private key, PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def new_authority(vpool: str, now: dt.datetime) -> Authority:
    """An authority that signs for one vPool; its key signs itself."""
    key = new_key()
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "vPool authority"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, vpool)]
    )
    private = _private(key)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + dt.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .sign(private, hashes.SHA256())
    )
    return Authority(certificate.public_bytes(serialization.Encoding.PEM), key)


def request(key: bytes, node: str) -> bytes:
    """A signing request (DER) for a node's key. The signer decides what else stands in the certificate."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
    built = x509.CertificateSigningRequestBuilder().subject_name(name).sign(_private(key), hashes.SHA256())
    return built.public_bytes(serialization.Encoding.DER)


def requested_by(csr: bytes) -> str:
    """The node id that a signing request names. Errors: ``Invalid`` (not a request, or not signed by its own key)."""
    return _text(_checked_request(csr).subject, NameOID.COMMON_NAME)


def sign(authority: Authority, csr: bytes, vpool: str, role: Role, serial: int, now: dt.datetime, days: float) -> bytes:
    """A certificate (PEM) for what a request names. Errors: ``Invalid``."""
    asked = _checked_request(csr)
    key = asked.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Invalid("a node's key is on the curve P-256")
    return _certificate(authority, key, _text(asked.subject, NameOID.COMMON_NAME), vpool, role, serial, now, days)


def certify(
    authority: Authority, key: bytes, node: str, vpool: str, role: Role, serial: int, now: dt.datetime, days: float
) -> bytes:
    """The same for a key at hand."""
    return _certificate(authority, _private(key).public_key(), node, vpool, role, serial, now, days)


def new_serial() -> int:
    """159 random bits."""
    return x509.random_serial_number()


def serial_text(serial: int) -> str:
    """How a serial number is written, here and by ``ssl``."""
    text = f"{serial:X}"
    return "0" + text if len(text) % 2 else text


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate (PEM), hexadecimal."""
    return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()


def expires_at(certificate: bytes) -> dt.datetime:
    """The end of a certificate's (PEM) life, UTC."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def serial_of(certificate: bytes) -> str:
    """The serial number of a certificate (PEM)."""
    return serial_text(x509.load_pem_x509_certificate(certificate).serial_number)


def role_of(certificate: bytes) -> Role:
    """What the certificate (PEM) of a node of ours says that it is. Errors: ``ValueError``."""
    name = x509.load_pem_x509_certificate(certificate).subject
    return Role(_text(name, NameOID.ORGANIZATIONAL_UNIT_NAME))


def to_der(certificate: bytes) -> bytes:
    """PEM to DER, which is shorter."""
    return x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.DER)


def to_pem(certificate: bytes) -> bytes:
    """DER to PEM. Errors: ``Invalid``."""
    try:
        return x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)
    except ValueError as error:
        raise Invalid(f"not a certificate: {error}") from None


def peer_of(found: dict[str, Any] | None) -> Peer:
    """Who a verified certificate, as ``SSLObject.getpeercert`` has it, belongs to. Errors: ``Denied``."""
    if not found:
        raise Denied("the peer has shown no certificate")
    subject = {key: value for part in found.get("subject", ()) for key, value in part}
    node, vpool = subject.get("commonName", ""), subject.get("organizationName", "")
    names = found.get("subjectAltName", ())
    if not node or names != (("URI", f"vpool://{vpool}/{node}"),):
        raise Denied("the peer's certificate is not one of a vpool's node")
    try:
        role = Role(subject.get("organizationalUnitName", ""))
    except ValueError:
        raise Denied("the peer's certificate has a role that this release does not know") from None
    return Peer(node, vpool, role, str(found.get("serialNumber", "")))


def _certificate(
    authority: Authority,
    key: ec.EllipticCurvePublicKey,
    node: str,
    vpool: str,
    role: Role,
    serial: int,
    now: dt.datetime,
    days: float,
) -> bytes:
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    built = (
        x509.CertificateBuilder()
        .subject_name(
            x509.Name(
                [
                    x509.NameAttribute(NameOID.COMMON_NAME, node),
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, vpool),
                    x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role.value),
                ]
            )
        )
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(min(now + dt.timedelta(days=days), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"vpool://{vpool}/{node}")]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(_issuer_key(issuer)), critical=False)
        .sign(_private(authority.key), hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM)


def _issuer_key(issuer: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = issuer.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # we made it
    return key


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: bytes) -> ec.EllipticCurvePrivateKey:
    loaded = serialization.load_pem_private_key(key, None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise Invalid("the key is not one of this vpool's")
    return loaded


def _checked_request(csr: bytes) -> x509.CertificateSigningRequest:
    try:
        asked = x509.load_der_x509_csr(csr)
        valid = asked.is_signature_valid
    except (ValueError, InvalidSignature) as error:
        raise Invalid(f"not a signing request: {error}") from None
    if not valid:
        raise Invalid("a signing request that its own key has not signed")
    return asked


def _text(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    found = name.get_attributes_for_oid(oid)
    if len(found) != 1 or not isinstance(found[0].value, str):
        raise Invalid("a signing request names one node")
    return found[0].value
