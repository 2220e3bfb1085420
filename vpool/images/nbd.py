"""A client of NBD, as much as it takes to read and write an image that ``qemu-nbd`` serves on a unix socket.

Protocol: doc/proto.md of https://github.com/NetworkBlockDevice/nbd (fixed newstyle, structured replies, base:allocation).
One request at a time; calls from several threads wait for each other.
"""

from __future__ import annotations

import socket
import struct
import threading

from vpool.errors import Invalid, NoSpace, Unavailable

OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

OPT_GO, OPT_STRUCTURED_REPLY, OPT_SET_META_CONTEXT = 7, 8, 10
REP_ACK, REP_INFO, REP_META_CONTEXT, REP_ERROR = 1, 3, 4, 1 << 31
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_BLOCK_STATUS = 0, 1, 2, 3, 7
CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_STATUS, CHUNK_ERROR = 0, 1, 2, 5, 1 << 15
CHUNK_DONE = 1
STATE_ZERO = 2
ENOSPC = 28

STATUS_BYTES_MAX = 1 << 30
PAYLOAD_MAX = 33 << 20


class NbdClient:
    """One connection, ready for requests. ``Unavailable`` where the server breaks off or refuses."""

    def __init__(self, connection: socket.socket) -> None:
        """Negotiate on a fresh connection, which this object owns from now on."""
        self._socket = connection
        self._lock = threading.Lock()
        self._handle = 0
        self.size = 0
        self._context: int | None = None
        self._negotiate()

    def close(self) -> None:
        """Say good-bye; what was not flushed may be lost."""
        try:
            self._socket.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, CMD_DISC, 0, 0, 0))
        except OSError:
            return  # it is gone already
        finally:
            self._socket.close()

    def read(self, offset: int, length: int) -> bytes:
        """Bytes within the size."""
        data = bytearray(length)
        for kind, payload in self._request(CMD_READ, offset, length):
            if kind not in (CHUNK_DATA, CHUNK_HOLE) or len(payload) < 8:
                continue
            at = struct.unpack_from(">Q", payload)[0] - offset
            part = payload[8:] if kind == CHUNK_DATA else bytes(struct.unpack_from(">I", payload, 8)[0])
            if at < 0 or at + len(part) > length:
                raise Unavailable("the NBD server answered with another range than was asked for")
            data[at : at + len(part)] = part
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        """Write a range; durable after ``flush``. NoSpace."""
        self._request(CMD_WRITE, offset, len(data), data)

    def flush(self) -> None:
        """Everything written before is durable when it returns."""
        self._request(CMD_FLUSH, 0, 0)

    def status(self, offset: int, end: int) -> list[tuple[int, int, bool]]:
        """(Offset, length, reads as zeros) from ``offset`` on; at least one, not all up to ``end``."""
        if self._context is None:
            return [(offset, end - offset, False)]
        found = []
        at = offset
        for kind, payload in self._request(CMD_BLOCK_STATUS, offset, min(end - offset, STATUS_BYTES_MAX)):
            if kind == CHUNK_STATUS and struct.unpack_from(">I", payload)[0] == self._context:
                for length, flags in struct.iter_unpack(">II", payload[4:]):
                    found.append((at, min(length, end - at), bool(flags & STATE_ZERO)))
                    at += length
        if not found or not found[0][1]:
            raise Unavailable("the NBD server said nothing of what is allocated")
        return found

    # -- within --------------------------------------------------------------------------------------------------------

    def _negotiate(self) -> None:
        magic, option_magic, flags = struct.unpack(">8sQH", self._take(18))
        if magic != b"NBDMAGIC" or option_magic != OPTION_MAGIC or not flags & 1:
            raise Unavailable("this is no NBD server of the fixed newstyle kind")
        self._send(struct.pack(">I", flags & 3))
        structured = self._option(OPT_STRUCTURED_REPLY, b"")[0] == REP_ACK
        if structured:
            name = b"base:allocation"
            self._option(OPT_SET_META_CONTEXT, struct.pack(">III", 0, 1, len(name)) + name)
        last, reason = self._option(OPT_GO, struct.pack(">IH", 0, 0))
        if last != REP_ACK:
            raise Unavailable(f"the NBD server refuses its export: {reason.decode(errors='replace') or hex(last)}")

    def _option(self, option: int, data: bytes) -> tuple[int, bytes]:
        """Send an option; its last reply. Takes what the others say of size and contexts."""
        self._send(struct.pack(">QII", OPTION_MAGIC, option, len(data)) + data)
        while True:
            magic, _, kind, length = struct.unpack(">QIII", self._take(20))
            if magic != OPTION_REPLY_MAGIC:
                raise Unavailable("the NBD server's answer makes no sense")
            payload = self._take(length)
            if kind == REP_INFO and struct.unpack_from(">H", payload)[0] == 0:
                self.size = struct.unpack_from(">Q", payload, 2)[0]
            elif kind == REP_META_CONTEXT:
                self._context = struct.unpack_from(">I", payload)[0]
            elif kind == REP_ACK or kind & REP_ERROR:
                return kind, payload

    def _request(self, command: int, offset: int, length: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Send one request; the chunks of its reply (a simple one as a chunk of data)."""
        with self._lock:
            self._handle += 1
            self._send(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, command, self._handle, offset, length) + data)
            chunks: list[tuple[int, bytes]] = []
            while True:
                magic = struct.unpack(">I", self._take(4))[0]
                if magic == SIMPLE_REPLY_MAGIC:
                    error, handle = struct.unpack(">IQ", self._take(12))
                    self._expect(handle, error, b"")
                    body = self._take(length) if command == CMD_READ else b""
                    return [(CHUNK_DATA, struct.pack(">Q", offset) + body)]
                if magic != STRUCTURED_REPLY_MAGIC:
                    raise Unavailable("the NBD server's answer makes no sense")
                flags, kind, handle, size = struct.unpack(">HHQI", self._take(16))
                payload = self._take(size)
                if kind & CHUNK_ERROR:
                    self._expect(handle, struct.unpack_from(">I", payload)[0], payload[6:])
                self._expect(handle, 0, b"")
                chunks.append((kind, payload))
                if flags & CHUNK_DONE:
                    return chunks

    def _expect(self, handle: int, error: int, message: bytes) -> None:
        if handle != self._handle:
            raise Unavailable("the NBD server answered another request")
        if error == ENOSPC:
            raise NoSpace("the disk of the image is full")
        if error:
            raise Unavailable(f"the NBD server cannot do it: error {error} {message.decode(errors='replace')}".strip())

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Unavailable(f"the NBD server broke off: {error}") from None

    def _take(self, count: int) -> bytes:
        if count > PAYLOAD_MAX:
            raise Invalid(f"the NBD server sends {count} bytes at once, which is too much")
        data = bytearray(count)
        view = memoryview(data)
        while view:
            try:
                got = self._socket.recv_into(view)
            except OSError as error:
                raise Unavailable(f"the NBD server broke off: {error}") from None
            if not got:
                raise Unavailable("the NBD server broke off")
            view = view[got:]
        return bytes(data)
