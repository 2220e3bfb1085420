"""One authenticated connection without its socket: bytes in, frames out, and back. Pure but for OpenSSL.

Order of events: TLS 1.3 with certificates of both sides; the peer's identity from its certificate; the client's *hello*, then
the server's, which says that the client is welcome, or a refusal instead; at most ``HELLO_BYTES_MAX`` each; then frames up to
the limit given. Before the handshake has ended nothing of ours reads anything, and of a frame only its length is read before it
is whole. Whoever moves the bytes also gives the handshake its deadline.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

from peers.certificates import Peer, peer_of
from peers.frames import FrameReader, frame, prefix
from peers.hello import HELLO_BYTES_MAX, Hello, check_hello, decode_hello, encode_hello, encode_refusal
from vpool.errors import Denied, Unavailable, VPoolError

HANDSHAKE_BYTES_MAX = 1 << 16  # of the peer's, before it is known
HANDSHAKE_S = 10.0  # for whoever moves the bytes

Admit = Callable[[Peer, Hello], None]


class Channel:
    """Not for use by several threads.

    Attributes:
        peer: who is at the other end; None until the handshake has ended.
        hello: what the peer has said first; None until then. Only from then on are frames given and taken.
    """

    def __init__(
        self, context: ssl.SSLContext, mine: Hello, *, server_side: bool, frame_bytes_max: int, admit: Admit | None = None
    ) -> None:
        """``admit(peer, hello)`` raises what the peer is refused with, beyond ``check_hello``."""
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server_side)
        self._mine, self._admit, self._server_side = mine, admit, server_side
        self._limit = frame_bytes_max
        self._reader = FrameReader(HELLO_BYTES_MAX)
        self._handshake_bytes = 0
        self._refused = False
        self._at_end = False  # of what the socket gives
        self.peer: Peer | None = None
        self.hello: Hello | None = None
        self._shake()

    @property
    def established(self) -> bool:
        """Whether frames may be sent."""
        return self.hello is not None and not self._refused

    def outgoing(self) -> bytes:
        """What has to go to the socket, taken out; to be asked for after every call, also after one that raised."""
        return self._out.read()

    @property
    def outgoing_bytes(self) -> int:
        """How much that is."""
        return self._out.pending

    def receive(self, data: bytes | memoryview) -> list[bytes]:
        """Bytes of the socket, none at its end. Frames that are whole now.

        Errors: ``Denied`` (the peer is not who it must be, or refuses us), ``Conflict``, ``Invalid`` (what ``admit`` raises,
        after the peer has been told), ``Malformed`` (frames that cannot be), ``Unavailable`` (the connection has ended). After
        any the connection is worth nothing: send what is outgoing, and close.
        """
        if len(data):
            self._in.write(data)
        else:
            self._at_end = True
            self._in.write_eof()
        if self.peer is None:
            self._handshake_bytes += len(data)
            self._shake()
            if self.peer is None:
                if self._handshake_bytes > HANDSHAKE_BYTES_MAX:
                    raise Denied("a handshake that does not end")
                return []
        return self._read()

    def send(self, data: bytes) -> None:
        """Queue one frame. Errors: ``Malformed`` (too long), ``Unavailable`` (not established)."""
        if not self.established:
            raise Unavailable("the connection is not established")
        self._write(frame(data, self._limit))

    def prefix(self, length: int) -> bytes:
        """What goes in front of a frame of so many bytes. Errors: as ``send``."""
        if not self.established:
            raise Unavailable("the connection is not established")
        return prefix(length, self._limit)

    def put(self, framed: bytes | memoryview) -> None:
        """Queue bytes of frames that have their ``prefix``. Errors: ``Unavailable``."""
        self._write(framed)

    def _write(self, data: bytes | memoryview) -> None:
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise Unavailable(f"the connection has ended: {error.reason}") from None

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLCertVerificationError as error:
            raise Denied(f"the peer's certificate is not accepted: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise Denied(f"the handshake has failed: {error.reason or error}") from None
        self.peer = peer_of(self._tls.getpeercert())
        if not self._server_side:
            self._write(frame(encode_hello(self._mine), HELLO_BYTES_MAX))

    def _read(self) -> list[bytes]:
        frames: list[bytes] = []
        while True:
            space = self._reader.space()
            try:
                count: int = self._tls.read(len(space), space)  # type: ignore[assignment]  # into a buffer: how much
            except ssl.SSLWantReadError:
                return frames
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                count = 0
            except ssl.SSLError as error:
                raise Denied(f"the peer has ended the connection: {error.reason or error}") from None
            if not count:
                if frames:
                    return frames  # the end is found again by the next call
                raise Unavailable("the peer has closed the connection" + (" within a frame" if self._reader.cut_short else ""))
            for found in self._reader.filled(count):
                if self.hello is None:
                    self._on_hello(found)
                else:
                    frames.append(found)
            if not (self._in.pending or self._tls.pending() or self._at_end):
                return frames

    def _on_hello(self, found: bytes) -> None:
        assert self.peer is not None
        try:
            hello = decode_hello(found)
            if isinstance(hello, str):
                raise Denied(f"the peer refuses: {hello}")
            check_hello(self.peer, hello, self._mine)
            if self._admit is not None:
                self._admit(self.peer, hello)
        except VPoolError as error:
            self._refused = True
            if self._server_side:
                self._write(frame(encode_refusal(error.message), HELLO_BYTES_MAX))
            raise
        if self._server_side:
            self._write(frame(encode_hello(self._mine), HELLO_BYTES_MAX))
        self.hello = hello
        self._reader.limit = self._limit
