"""Sizes as people write them: ``10G``, ``512MiB``, ``4096``. Pure."""

from __future__ import annotations

import re

from vpool.errors import Invalid

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(?P<number>[+-]?\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?)(?:i?B)?", re.IGNORECASE)
_FORMS = "write bytes, or a number with K, M, G or T (powers of 1,024), as in 10G or 512MiB"


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
    scale: int = 10 ** len(part)
    scaled, rest = divmod(int(whole + part) * unit, scale)
    if rest:
        raise Invalid(f"{text!r} is not a whole number of bytes; {_FORMS}")
    return scaled


def show_size(size_bytes: int) -> str:
    """A size for people, rounded: ``10 GiB``, ``1.5 MiB``, ``17 B``."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"
