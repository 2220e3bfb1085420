"""Which format an image has: by what the operator says, else by its name; never by its content alone.

A guest can write the magic of qcow2, with any file of the host as its backing file, into the first sector of a raw disk.
"""

from __future__ import annotations

import stat
from pathlib import Path

from vpool.errors import Invalid
from vpool.images.image import Source, Target
from vpool.images.qcow2 import Qcow2Source, Qcow2Target
from vpool.images.raw import RawSource, RawTarget, failure

FORMATS = ("raw", "qcow2")
MAGIC = b"QFI\xfb"
SUFFIXES = {".qcow2": "qcow2", ".raw": "raw", ".img": "raw", ".iso": "raw", ".bin": "raw"}
OTHER_SUFFIXES = {".vmdk", ".vdi", ".vhd", ".vhdx", ".qcow", ".qed", ".dmg"}


def _named(path: Path, wanted: str | None) -> str | None:
    if wanted is not None and wanted not in FORMATS:
        raise Invalid(f"there is no format {wanted!r}; choose {' or '.join(FORMATS)}")
    suffix = path.suffix.lower()
    if wanted is None and suffix in OTHER_SUFFIXES:
        raise Invalid(
            f"{path.name!r} is named like a format that is not known here; convert it with qemu-img to raw or qcow2 first, or "
            "give --format if it is one of these"
        )
    return wanted or SUFFIXES.get(suffix)


def open_source(path: Path, wanted: str | None, *, with_backing: bool) -> Source:
    """Open an image to read it.

    Raises:
        Invalid: its format is not told, or not the one that is told. NotFound, Denied.
    """
    format_ = _named(path, wanted)
    try:
        kind = path.stat().st_mode  # before it is opened: a fifo would wait for a writer
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind) or stat.S_ISDIR(kind)):
            raise Invalid(f"{path} is neither a file nor a block device")
        with path.open("rb") as image:
            is_qcow2 = image.read(4) == MAGIC
    except OSError as error:
        raise failure(error, path) from None
    if format_ is None and is_qcow2:
        raise Invalid(f"{path} begins like qcow2, but its name does not say so; say which it is with --format")
    if format_ == "raw" and is_qcow2 and wanted is None:
        raise Invalid(f"{path} is named like a raw image but begins like qcow2; say which it is with --format")
    if format_ == "qcow2":
        if not is_qcow2:
            raise Invalid(f"{path} is not a qcow2 image; if it is raw, give --format raw")
        return Qcow2Source(path, with_backing=with_backing)
    return RawSource(path)


def target_format(path: Path, wanted: str | None) -> str:
    """The format of an image that is to be made. Invalid."""
    format_ = _named(path, wanted)
    if format_ is None:
        raise Invalid(f"the name {path.name!r} does not say which format is wanted; give --format raw or --format qcow2")
    return format_


def open_target(path: Path, part: Path, format_: str, size: int, *, resumed: bool) -> Target:
    """Make an image at ``part``, or go on with one (``resumed``). NotFound, Denied, NoSpace, Invalid."""
    kind = Qcow2Target if format_ == "qcow2" else RawTarget
    return kind(path, part, size, resumed=resumed)
