"""Frames: a length (u32, little-endian), then that many bytes. Pure. Nothing but the length is looked at in here."""

from __future__ import annotations

import struct
from io import BytesIO

_LENGTH = struct.Struct("<I")
PREFIX_BYTES = _LENGTH.size
_STAGE_BYTES = 1 << 15  # frames that fit here are copied out of it; a longer one gets memory of its own


class Malformed(ValueError):
    """Bytes that are not what they should be; says where."""


def prefix(length: int, limit: int) -> bytes:
    """What goes in front of so many bytes. Errors: ``Malformed`` (too long)."""
    if length > limit:
        raise Malformed(f"a frame of {length} bytes; the limit is {limit}")
    return _LENGTH.pack(length)


def frame(data: bytes, limit: int) -> bytes:
    """Bytes with their length in front. Errors: ``Malformed`` (too long)."""
    return prefix(len(data), limit) + data


class FrameReader:
    """Takes a stream in pieces, gives whole frames; holds at most one frame that is not whole.

    Whoever can, reads into ``space`` and says how much (``filled``): then a long frame is never copied.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit  # bytes of one frame; may be changed between two calls
        self._stage = memoryview(bytearray(_STAGE_BYTES))
        self._begin = self._end = 0  # of what is in it
        self._long: BytesIO | None = None  # a frame that does not fit there
        self._left = memoryview(b"")  # what is to come of it

    def space(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        return self._stage[self._end :] if self._long is None else self._left

    def filled(self, count: int) -> list[bytes]:
        """So many bytes are there; the frames that are whole now. Errors: ``Malformed`` (too long: the stream is worthless)."""
        if self._long is not None:
            self._left = self._left[count:]
            if self._left:
                return []
            whole, self._long = self._long, None
            return [whole.getvalue()]  # the very bytes that were read into
        self._end += count
        return self._whole()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are whole now. Errors: ``Malformed`` (as ``filled``)."""
        frames: list[bytes] = []
        left = memoryview(data)
        while left:
            space = self.space()
            count = min(len(space), len(left))
            space[:count] = left[:count]
            frames += self.filled(count)
            left = left[count:]
        return frames

    @property
    def cut_short(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._long is not None or self._begin != self._end

    def _whole(self) -> list[bytes]:
        frames: list[bytes] = []
        stage, begin, end = self._stage, self._begin, self._end
        while end - begin >= PREFIX_BYTES:
            (length,) = _LENGTH.unpack_from(stage, begin)
            if length > self.limit:
                raise Malformed(f"a frame of {length} bytes; the limit is {self.limit}")
            first = begin + PREFIX_BYTES
            if end - first < length:
                if length + PREFIX_BYTES > _STAGE_BYTES:
                    self._long = BytesIO(bytes(length))
                    self._left = self._long.getbuffer()
                    self._left[: end - first] = stage[first:end]
                    self._left = self._left[end - first :]
                    begin = end
                break
            begin = first + length
            frames.append(bytes(stage[first:begin]))
        if begin == end:
            begin = end = 0
        elif begin:  # what is left moves to the front, so that the rest of it fits
            left = bytes(stage[begin:end])
            begin, end = 0, len(left)
            stage[:end] = left
        self._begin, self._end = begin, end
        return frames
