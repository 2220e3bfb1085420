"""Addresses of stores: read, checked and turned into data before any I/O. Pure.

``dir:/path``, ``s3:https://host/PREFIX?region=..``, ``swift:https://host/auth/v1.0?prefix=..``; every form takes ``bucket=NAME``.
Credentials are never part of an address, so an address may be shown and logged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from backend.names import check_bucket, check_prefix
from vpool.errors import Invalid

_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_FORMS = "dir:/path, s3:https://host[:port][/PREFIX]?region=NAME or swift:https://host[:port]/auth/v1.0?prefix=PREFIX"
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class DirectoryUrl:
    """A directory of this host (or of a file system mounted on it)."""

    path: str  # absolute
    single_bucket: str | None = None


@dataclass(frozen=True, slots=True)
class S3Url:
    """An S3 endpoint. ``endpoint`` None: AWS's own for the region. ``prefix`` stands in front of each bucket name."""

    endpoint: str | None
    region: str
    prefix: str = ""
    single_bucket: str | None = None


@dataclass(frozen=True, slots=True)
class SwiftUrl:
    """A Swift account, by the address that hands out its tokens: ``v1`` (tempauth and alike) or ``v3`` (Keystone)."""

    auth_url: str
    auth_version: Literal["v1", "v3"]
    prefix: str = ""
    region: str | None = None
    single_bucket: str | None = None


StoreUrl = DirectoryUrl | S3Url | SwiftUrl


def parse_url(url: str) -> StoreUrl:
    """Read the address of a store.

    Raises:
        Invalid: says which part is wrong and what would be right.
    """
    scheme, colon, rest = url.partition(":")
    if _CONTROL.search(url):
        raise Invalid("the address of a store must not contain blanks or control characters; write a blank in a path as %20")
    if "@" in rest.partition("?")[0]:
        raise Invalid(
            "credentials do not belong into the address of a store; put them into the environment (see docs/backends.md)"
        )
    if not colon or scheme not in ("dir", "s3", "swift"):
        raise Invalid(f"unknown kind of store {scheme[:20]!r}; an address is one of {_FORMS}")
    if scheme == "dir":
        return _directory(rest)
    return _s3(rest) if scheme == "s3" else _swift(rest)


def _directory(rest: str) -> DirectoryUrl:
    path, _, query = rest.partition("?")
    options = _options(query, {"bucket"}, "dir")
    path = unquote(path)
    if not path.startswith("/") or path.startswith("//") or "#" in rest:
        raise Invalid(f"dir: needs an absolute path, as in dir:/srv/vpool, not {path!r}; write '?' as %3F and '#' as %23")
    if "\0" in path or ".." in path.split("/"):
        raise Invalid(f"dir: the path {path!r} must not contain '..' or NUL; write it out")
    if path.rstrip("/") == "":
        raise Invalid("dir: the root directory cannot be a store; name a directory of its own, as in dir:/srv/vpool")
    return DirectoryUrl(path=path.rstrip("/"), single_bucket=_single_bucket(options))


def _s3(rest: str) -> S3Url:
    parts = _split(rest, "s3")
    options = _options(parts.query, {"region", "bucket"}, "s3")
    if parts.scheme:
        endpoint: str | None = _origin(parts, "s3")
    elif parts.netloc:
        raise Invalid(f"s3: write the endpoint with its protocol, as in s3:https://{parts.netloc}")
    else:
        endpoint = None  # s3: and s3:///PREFIX, the endpoint of AWS itself
    prefix = unquote(parts.path).strip("/")
    if "/" in prefix:
        raise Invalid(f"s3: the path {parts.path!r} has several parts; one PREFIX for bucket names may follow the host")
    single = _single_bucket(options)
    _prefix_or_bucket(prefix, single)
    return S3Url(endpoint, _region(options) or "us-east-1", check_prefix(prefix), single)


def _swift(rest: str) -> SwiftUrl:
    parts = _split(rest, "swift")
    options = _options(parts.query, {"prefix", "bucket", "region"}, "swift")
    if not parts.scheme:
        raise Invalid(
            "swift: needs the address of the auth server, as in swift:https://host:5000/v3 or swift:http://host:8080/auth/v1.0"
        )
    path = parts.path.rstrip("/")
    version: Literal["v1", "v3"]
    if path.endswith("/v3"):
        version = "v3"
    elif path.endswith(("/v1.0", "/v1")):
        version = "v1"
    else:
        raise Invalid(
            f"swift: the path {parts.path!r} must end in /v3 (Keystone) or /v1.0 (tempauth), as in /identity/v3 or /auth/v1.0"
        )
    single = _single_bucket(options)
    prefix = options.get("prefix", "")
    _prefix_or_bucket(prefix, single)
    return SwiftUrl(_origin(parts, "swift") + path, version, check_prefix(prefix), _region(options), single)


def _split(rest: str, scheme: str) -> SplitResult:
    try:
        parts = urlsplit(rest)
        _ = parts.port
    except ValueError as error:
        raise Invalid(f"{scheme}: the address {rest!r} cannot be read: {error}") from None
    if parts.fragment or "#" in rest:
        raise Invalid(f"{scheme}: the address must not have a '#'")
    if not parts.scheme and not parts.netloc and parts.path not in ("", "/") and not rest.startswith("///"):
        raise Invalid(f"{scheme}: {rest!r} has no endpoint; write {scheme}:https://host[:port]/...")
    return parts


def _origin(parts: SplitResult, scheme: str) -> str:
    if parts.scheme not in ("http", "https"):
        raise Invalid(f"{scheme}: the endpoint must begin with https:// (or http:// in a trusted network), not {parts.scheme}:")
    if not parts.hostname:
        raise Invalid(f"{scheme}: the endpoint has no host; write {scheme}:https://host[:port]/...")
    if parts.port == 0:
        raise Invalid(f"{scheme}: port 0 is not possible; use 1 to 65535")
    return f"{parts.scheme}://{parts.netloc}"


def _options(query: str, known: set[str], scheme: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise Invalid(f"{scheme}: the options {query!r} cannot be read; write key=value&key=value") from None
    options: dict[str, str] = {}
    for key, value in pairs:
        if key not in known:
            raise Invalid(f"{scheme}: unknown option {key!r}; known are {', '.join(sorted(known))}")
        if key in options:
            raise Invalid(f"{scheme}: option {key!r} is given twice")
        if not value:
            raise Invalid(f"{scheme}: option {key!r} has no value; leave it out or write {key}=NAME")
        options[key] = value
    return options


def _region(options: dict[str, str]) -> str | None:
    region = options.get("region")
    if region is not None and not _REGION.fullmatch(region):
        raise Invalid(f"region {region!r} is not possible; it is a name like us-east-1 or RegionOne")
    return region


def _single_bucket(options: dict[str, str]) -> str | None:
    single = options.get("bucket")
    return None if single is None else check_bucket(single)


def _prefix_or_bucket(prefix: str, single: str | None) -> None:
    if prefix and single:
        raise Invalid(f"prefix {prefix!r} and bucket={single} exclude each other; with one bucket nothing needs a prefix")
