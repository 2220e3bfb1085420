"""Sizes as people write them: ``10G``, ``512MiB``, ``4096``. Pure."""

from __future__ import annotations

import re

from vpool.errors import Invalid

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(?P<number>[+-]?\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?)(?:i?B)?", re.IGNORECASE)
_FORMS = "write bytes, or a number with K, M, G or T (powers of 1,024), as in 10G or 512MiB"

VOLUME_BYTES_MAX = 64 << 40
SECTOR_BYTES = 512


def parse_size(text: str) -> int:
    """Bytes of a written size; ``G``, ``GiB`` and ``GB`` all mean 2³⁰, as with qemu-img.

    Raises:
        Invalid: it is not a size, or not a whole number of bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise Invalid(f"{text!r} is not a size; {_FORMS}")
    number, unit = match["number"], _UNITS[match["unit"].upper()]
    if "." not in number:
        return int(number) * unit
    whole, _, part = number.partition(".")
    scaled, rest = divmod(int(whole + part) * unit, 10 ** len(part))
    if rest:
        raise Invalid(f"{text!r} is not a whole number of bytes; {_FORMS}")
    return scaled


def check_volume_size(size_bytes: int) -> int:
    """The size, if a volume can have it.

    Raises:
        Invalid: says the limit that it breaks.
    """
    if size_bytes <= 0:
        raise Invalid(f"a volume cannot have {size_bytes} bytes; its size must be greater than 0")
    if size_bytes % SECTOR_BYTES:
        raise Invalid(
            f"{size_bytes} bytes is not a multiple of {SECTOR_BYTES}; the next larger size is {-(-size_bytes // 512) * 512}"
        )
    if size_bytes > VOLUME_BYTES_MAX:
        raise Invalid(f"{size_bytes} bytes is too large; a volume has at most 64 TiB ({VOLUME_BYTES_MAX} bytes)")
    return size_bytes


def show_size(size_bytes: int) -> str:
    """A size for people, rounded: ``10 GiB``, ``1.5 MiB``, ``17 B``."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"
