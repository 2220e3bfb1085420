"""Names that every store can have: the common part of S3, Swift and a file system. Pure."""

from __future__ import annotations

import re

from vpool.errors import Invalid

BUCKET_CHARS_MIN = 3
BUCKET_CHARS_MAX = 63
PREFIX_CHARS_MAX = 19  # the longest bucket is vpool-<32 digits>-files
OBJECT_CHARS_MAX = 512
STORED_CHARS_MAX = OBJECT_CHARS_MAX + BUCKET_CHARS_MAX + 1  # with a logical bucket in front; S3 and Swift take 1,024 bytes
SEGMENT_CHARS_MAX = 200  # a file system allows 255 bytes per component

_BUCKET = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9][a-z0-9-]*")
_OBJECT = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


def check_bucket(bucket: str, *, prefix: str = "") -> str:
    """Return ``prefix + bucket``, the name at the store.

    Raises:
        Invalid: the result is no name that S3, Swift and a directory can all have.
    """
    whole = prefix + bucket
    if not bucket or not BUCKET_CHARS_MIN <= len(whole) <= BUCKET_CHARS_MAX or not _BUCKET.fullmatch(whole):
        raise Invalid(
            f"bucket name {whole!r} is not possible: use {BUCKET_CHARS_MIN} to {BUCKET_CHARS_MAX} lower-case letters, digits and "
            "hyphens, beginning and ending with a letter or digit",
            bucket=bucket,
        )
    return whole


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` if bucket names can begin with it.

    Raises:
        Invalid: no bucket can.
    """
    if prefix and (len(prefix) > PREFIX_CHARS_MAX or not _PREFIX.fullmatch(prefix)):
        raise Invalid(
            f"prefix {prefix!r} cannot begin a bucket name: use up to {PREFIX_CHARS_MAX} lower-case letters, digits and hyphens, "
            "beginning with a letter or digit, for example 'site1-'"
        )
    return prefix


def check_object(name: str, *, chars_max: int = OBJECT_CHARS_MAX) -> str:
    """Return ``name`` if every store can have an object of that name.

    Raises:
        Invalid: some store cannot; nothing has been sent.
    """
    segments = name.split("/")
    if (
        len(name) > chars_max
        or not _OBJECT.fullmatch(name)
        or any(segment in (".", "..") or len(segment) > SEGMENT_CHARS_MAX for segment in segments)
    ):
        raise Invalid(
            f"object name {name[:80]!r} is not possible: use up to {chars_max} letters, digits, '.', '_' and '-', in parts of "
            f"up to {SEGMENT_CHARS_MAX} joined by single '/', none of them '.' or '..'"
        )
    return name


def check_range(start: int, length: int | None) -> None:
    """Refuse a range that begins or ends before its object does.

    Raises:
        Invalid: it does.
    """
    if start < 0 or (length is not None and length < 0):
        raise Invalid("a range needs a start and a length of at least 0", start=start, length=length)
