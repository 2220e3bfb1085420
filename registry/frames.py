"""Frames on the registry's local socket: a length (u32, little-endian), then that many bytes. Pure."""

from __future__ import annotations

import struct

from registry.codec import FRAME_BYTES_MAX, Malformed

_LENGTH = struct.Struct("<I")


def frame(data: bytes) -> bytes:
    """Bytes with their length in front. Errors: ``Malformed`` (too long)."""
    if len(data) > FRAME_BYTES_MAX:
        raise Malformed(f"a frame of {len(data)} bytes; the limit is {FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(data)) + data


class FrameReader:
    """Takes a stream in pieces, gives whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are whole now. Errors: ``Malformed`` (too long: the stream is worth nothing any more)."""
        buffer = self._buffer
        buffer += data
        frames = []
        start = 0
        while len(buffer) - start >= 4:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > FRAME_BYTES_MAX:
                raise Malformed(f"a frame of {length} bytes; the limit is {FRAME_BYTES_MAX}")
            if len(buffer) - start - 4 < length:
                break
            frames.append(bytes(buffer[start + 4 : start + 4 + length]))
            start += 4 + length
        del buffer[:start]
        return frames
