"""Disk images outside of a vPool: raw files and devices by ourselves, qcow2 by ``qemu-nbd``, which knows all of that format.

The room promises that reading an image changes nothing, that an image being written has another name until it is complete, and
that the kind of an image is never guessed from bytes that a guest may have written. It calls nobody of the project but
``vpool.errors``.
"""

from vpool.images.choosing import FORMATS, open_source, open_target, target_format
from vpool.images.image import Source, Target

__all__ = ["FORMATS", "Source", "Target", "open_source", "open_target", "target_format"]
