"""Frames: a length (u32, little-endian), then that many bytes. Pure. Nothing but the length is looked at in here."""

from __future__ import annotations

import struct

_LENGTH = struct.Struct("<I")
PREFIX_BYTES = _LENGTH.size


class Malformed(ValueError):
    """Bytes that are not what they should be; says where."""


def frame(data: bytes, limit: int) -> bytes:
    """Bytes with their length in front. Errors: ``Malformed`` (too long)."""
    if len(data) > limit:
        raise Malformed(f"a frame of {len(data)} bytes; the limit is {limit}")
    return _LENGTH.pack(len(data)) + data


class FrameReader:
    """Takes a stream in pieces, gives whole frames; holds at most one frame that is not whole."""

    def __init__(self, limit: int) -> None:
        self.limit = limit  # bytes of one frame; may be changed between two calls
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are whole now. Errors: ``Malformed`` (too long: the stream is worth nothing any more)."""
        buffer = self._buffer
        buffer += data
        frames = []
        start = 0
        while len(buffer) - start >= PREFIX_BYTES:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > self.limit:
                raise Malformed(f"a frame of {length} bytes; the limit is {self.limit}")
            if len(buffer) - start - PREFIX_BYTES < length:
                break
            frames.append(bytes(buffer[start + PREFIX_BYTES : start + PREFIX_BYTES + length]))
            start += PREFIX_BYTES + length
        del buffer[:start]
        return frames

    @property
    def cut_short(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer)
