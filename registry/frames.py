"""Frames on the registry's local socket: as between nodes (``peers.frames``), at most ``FRAME_BYTES_MAX``. Pure."""

from __future__ import annotations

import peers
from registry.codec import FRAME_BYTES_MAX


def frame(data: bytes) -> bytes:
    """Bytes with their length in front. Errors: ``Malformed`` (too long)."""
    return peers.frame(data, FRAME_BYTES_MAX)


class FrameReader(peers.FrameReader):
    """Takes a stream in pieces, gives whole frames."""

    def __init__(self) -> None:
        super().__init__(FRAME_BYTES_MAX)
