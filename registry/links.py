"""Links to the registries of the other nodes, in the registry's own ``select`` loop: dialling, accepting, pinging, letting go.

Of two nodes the one with the lower id dials, and a node that has no link at all dials everybody. A link carries frames that
begin with one byte: Raft's messages, pings, questions and answers (``registry.cluster``). What a turn of the loop wants to say
leaves in ``flush``, in one write per link. Nothing here waits: names are resolved in a thread. A link that has been silent for
``SILENCE_S`` is dropped; both ends say something each ``PING_S``.
"""

from __future__ import annotations

import errno
import random
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from peers import HANDSHAKE_S, Address, Channel, CredentialFiles, Hello, Malformed, Peer, Purpose, parse_address
from registry.transport import FrameTransport
from vpool.errors import Conflict, Denied, Invalid, Unavailable, VPoolError

RAFT, PING, QUESTION, ANSWER = b"R", b"P", b"Q", b"A"
LINK_FRAME_BYTES_MAX = 4 << 20  # a batch of entries, one of which may have 1 MiB
UNSENT_BYTES_MAX = 32 << 20  # per link; what does not fit is lost, as by a broken link, and Raft says it again
READ_BYTES = 1 << 18
PING_S = 0.5
SILENCE_S = 5.0
LONELY_S = 3.0  # without any link: then a node dials everybody, and learns why nobody dials it (it may have been removed)
ALIVE_S = 2.0  # a link that has been heard of since is in use
DIAL_AGAIN_S = (0.1, 1.0)  # least and longest pause after a failure, doubled each time
CONNECTIONS_MAX = 256


@dataclass(frozen=True, slots=True)
class LinkState:
    """Of one other node, for those who watch."""

    node: str
    connected: bool
    problem: str  # why not; ""


class _Connection:
    """One TCP connection; becomes a node's link when it is established."""

    def __init__(self, sock: socket.socket, channel: Channel | None, dialled: str | None) -> None:
        self.sock = sock
        self.channel = channel  # None while TCP connects
        self.dialled = dialled  # the node that was dialled
        self.unsent = bytearray()
        self.opened_at = self.heard_at = self.said_at = time.monotonic()
        self.closing = False  # close when the rest has been sent: the peer is being told why

    @property
    def established(self) -> bool:
        return self.channel is not None and self.channel.established and not self.closing


class PeerLinks(FrameTransport):
    """All links of one registry. Not for use by several threads.

    Args of the constructor: ``on_frame(peer, hello, data)`` gets questions and answers with their first byte; ``refuse(peer,
    hello)`` raises why a peer is not welcome; ``known()`` is where the other members are.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        credentials: CredentialFiles,
        *,
        node: str,
        vpool: str,
        vpool_format: int,
        listen: Address,
        known: Callable[[], Mapping[str, str]],
        refuse: Callable[[Peer, Hello], None],
        on_frame: Callable[[Peer, Hello, bytes], None],
        wake: Callable[[], None],
    ) -> None:
        """Listen. Errors: ``Invalid`` (the address cannot be had)."""
        super().__init__()
        self._selector, self._credentials, self._wake = selector, credentials, wake
        self._node, self._vpool, self._format = node, vpool, vpool_format
        self._known, self._refuse, self._on_frame = known, refuse, on_frame
        self._process = f"{random.SystemRandom().getrandbits(64):016x}"
        self._connections: set[_Connection] = set()
        self._links: dict[str, _Connection] = {}
        self._dirty: set[_Connection] = set()
        self._dial_at: dict[str, tuple[float, float]] = {}  # node -> (when, pause after the next failure)
        self._problems: dict[str, str] = {}
        self._resolved: dict[str, list[tuple[int, tuple[str, int]]] | str] = {}  # by thread: where, or why not
        self._resolving: set[str] = set()
        self._linked_at = time.monotonic()  # when there was a link last
        self._listener = _listen(listen)
        selector.register(self._listener, selectors.EVENT_READ, self._on_listener)

    # -- what Raft and the server ask ----------------------------------------------------------------------------------

    def send_frame(self, peer: str, frame: bytes) -> bool:
        return self.say(peer, RAFT + frame)

    def say(self, peer: str, data: bytes) -> bool:
        """Queue one frame; False if there is no link, or it is full."""
        link = self._links.get(peer)
        if link is None or link.channel is None or len(link.unsent) + link.channel.outgoing_bytes > UNSENT_BYTES_MAX:
            return False
        try:
            link.channel.send(data)
        except (Unavailable, Malformed) as error:
            self._drop(link, str(error))
            return False
        self._dirty.add(link)
        return True

    def states(self) -> list[LinkState]:
        """Of all other members, by id."""
        return [
            LinkState(node, node in self._links, "" if node in self._links else self._problems.get(node, "not connected yet"))
            for node in sorted(self._known())
            if node != self._node
        ]

    def drop_node(self, node: str) -> None:
        """The node is no longer welcome."""
        link = self._links.get(node)
        if link is not None:
            self._drop(link, "the node has been removed")

    def flush(self) -> None:
        """Send what has been queued."""
        while self._dirty:
            connection = self._dirty.pop()
            if connection in self._connections:
                self._send(connection)

    def due(self) -> float:
        """When ``tend`` has something to do."""
        others = any(node != self._node for node in self._known())
        return time.monotonic() + (PING_S / 2 if self._connections or others else 3600.0)

    def tend(self) -> None:
        """Dial, ping and drop what is due; cheap, to be called every turn."""
        now = time.monotonic()
        for connection in list(self._connections):
            limit = SILENCE_S if connection.established else HANDSHAKE_S
            since = connection.heard_at if connection.established else connection.opened_at
            if now - since > limit:
                self._drop(connection, "silent for too long")
            elif connection.established and now - connection.said_at >= PING_S:
                assert connection.channel is not None
                connection.said_at = now
                with suppress(Unavailable):
                    connection.channel.send(PING)
                    self._dirty.add(connection)
        if self._links:
            self._linked_at = now
        lonely = now - self._linked_at > LONELY_S
        dialled = {connection.dialled for connection in self._connections if connection.dialled is not None}
        for node, address in self._known().items():
            if (node > self._node or (lonely and node != self._node)) and node not in self._links and node not in dialled:
                when, _ = self._dial_at.get(node, (0.0, 0.0))
                if now >= when:
                    self._dial(node, address)

    def close(self) -> None:
        for connection in list(self._connections):
            self._drop(connection, "closing")
        self._selector.unregister(self._listener)
        self._listener.close()

    # -- connections -----------------------------------------------------------------------------------------------------

    def _hello(self) -> Hello:
        from peers import PROTOCOL

        return Hello(PROTOCOL, Purpose.REGISTRY, self._vpool, self._node, self._format, self._process, time.time())

    def _on_listener(self, _: int) -> None:
        try:
            sock, _address = self._listener.accept()
        except OSError:
            return  # it has gone again
        if len(self._connections) >= CONNECTIONS_MAX:
            sock.close()
            return
        _prepare(sock)
        channel = Channel(
            self._credentials.contexts()[0],
            self._hello(),
            server_side=True,
            frame_bytes_max=LINK_FRAME_BYTES_MAX,
            admit=self._admit,
        )
        self._add(_Connection(sock, channel, None), selectors.EVENT_READ)

    def _add(self, connection: _Connection, events: int) -> None:
        self._connections.add(connection)
        self._selector.register(connection.sock, events, lambda happened: self._on_event(connection, happened))

    def _admit(self, peer: Peer, hello: Hello) -> None:
        if peer.node == self._node:
            raise Conflict("this is the very node, or another with its identity: two with one id cannot be in a vpool")
        self._refuse(peer, hello)
        link = self._links.get(peer.node)
        if (
            link is not None
            and link.channel is not None
            and link.channel.hello is not None
            and link.channel.hello.process != hello.process
            and time.monotonic() - link.heard_at < ALIVE_S
        ):
            raise Conflict("a node with this id is connected already: two with one id cannot be in a vpool", node=peer.node)

    def _dial(self, node: str, address: str) -> None:
        _, pause = self._dial_at.get(node, (0.0, 0.0))
        pause = min(max(DIAL_AGAIN_S[0], 2 * pause), DIAL_AGAIN_S[1])
        self._dial_at[node] = (time.monotonic() + pause, pause)
        try:
            found = self._where(address)
        except Invalid as error:
            self._problems[node] = str(error)
            return
        if found is None:
            return
        family, where = found
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        _prepare(sock)
        code = sock.connect_ex(where)
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            self._problems[node] = f"{address}: {errno.errorcode.get(code, code)}"
            return
        self._add(_Connection(sock, None, node), selectors.EVENT_WRITE)

    def _where(self, address: str) -> tuple[int, tuple[str, int]] | None:
        """None: a thread is looking it up. Errors: ``Invalid``."""
        parsed = parse_address(address)
        flags = socket.AI_NUMERICHOST
        with suppress(socket.gaierror):
            family, *_, where = socket.getaddrinfo(parsed.host, parsed.port, type=socket.SOCK_STREAM, flags=flags)[0]
            return family, where  # type: ignore[return-value]
        known = self._resolved.pop(address, None)
        if isinstance(known, str):
            raise Invalid(known)
        if known:
            return known[0]
        if address not in self._resolving:
            self._resolving.add(address)
            threading.Thread(target=self._resolve, args=(address, parsed), daemon=True).start()
        return None

    def _resolve(self, address: str, parsed: Address) -> None:
        """In a thread of its own: the resolver may take seconds."""
        found: list[tuple[int, tuple[str, int]]] | str
        try:
            rows = socket.getaddrinfo(parsed.host, parsed.port, type=socket.SOCK_STREAM)
            found = [(row[0], row[4]) for row in rows]  # type: ignore[misc]
        except OSError as error:
            found = f"{address}: {error}"
        self._resolved[address] = found
        self._resolving.discard(address)
        self._wake()

    def _on_event(self, connection: _Connection, events: int) -> None:
        if connection not in self._connections:
            return
        if connection.channel is None:
            self._on_connected(connection)
            return
        if events & selectors.EVENT_WRITE:
            self._send(connection)
        if events & selectors.EVENT_READ and connection in self._connections:
            self._read(connection)

    def _on_connected(self, connection: _Connection) -> None:
        code = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._drop(connection, errno.errorcode.get(code, str(code)))
            return
        node = connection.dialled

        def admit(peer: Peer, hello: Hello) -> None:
            if peer.node != node:
                raise Denied("another node answers at this address", wanted=node, found=peer.node)
            self._refuse(peer, hello)

        connection.channel = Channel(
            self._credentials.contexts()[1],
            self._hello(),
            server_side=False,
            frame_bytes_max=LINK_FRAME_BYTES_MAX,
            admit=admit,
        )
        self._send(connection)

    def _read(self, connection: _Connection) -> None:
        channel = connection.channel
        assert channel is not None
        try:
            data = connection.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._drop(connection, str(error))
            return
        before = channel.established
        try:
            frames = channel.receive(data)
        except (VPoolError, Malformed) as error:
            self._end(connection, error)
            return
        connection.heard_at = time.monotonic()
        if channel.outgoing_bytes:
            self._dirty.add(connection)
        if channel.established and not before:
            self._on_established(connection)
        for frame in frames:
            if connection not in self._connections:
                return
            self._on_data(connection, frame)

    def _on_established(self, connection: _Connection) -> None:
        channel = connection.channel
        assert channel is not None
        assert channel.peer is not None
        assert channel.hello is not None
        if channel.hello.purpose is not Purpose.REGISTRY:
            return
        node = channel.peer.node
        old = self._links.get(node)
        if old is not None:
            self._drop(old, "the node has connected anew")
        self._links[node] = connection
        self._dial_at.pop(node, None)
        self._problems.pop(node, None)
        self.connected(node)

    def _on_data(self, connection: _Connection, data: bytes) -> None:
        channel = connection.channel
        assert channel is not None
        assert channel.peer is not None
        assert channel.hello is not None
        kind = data[:1]
        try:
            if kind == RAFT and self._links.get(channel.peer.node) is connection:
                self.receive(channel.peer.node, data[1:])
            elif kind in (QUESTION, ANSWER):
                self._answering = connection
                self._on_frame(channel.peer, channel.hello, data)
            elif kind != PING:
                raise Malformed("a frame of a kind that this release does not know")
        except Malformed as error:
            self._end(connection, error)

    _answering: _Connection | None = None

    def answering(self) -> Callable[[bytes], None]:
        """While ``on_frame`` runs: a way to answer over the very connection, then or later."""
        connection = self._answering
        assert connection is not None

        def answer(data: bytes) -> None:
            if connection in self._connections and connection.channel is not None:
                with suppress(Unavailable):
                    connection.channel.send(data)
                    self._dirty.add(connection)

        return answer

    def _send(self, connection: _Connection) -> None:
        if connection.channel is not None:
            connection.unsent += connection.channel.outgoing()
            connection.said_at = time.monotonic()
        try:
            with suppress(BlockingIOError):
                while connection.unsent:
                    del connection.unsent[: connection.sock.send(connection.unsent)]
        except OSError as error:
            self._drop(connection, str(error))
            return
        if connection.closing and not connection.unsent:
            self._drop(connection, "refused")
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        key = self._selector.get_key(connection.sock)
        if key.events != events:
            self._selector.modify(connection.sock, events, key.data)

    def _end(self, connection: _Connection, error: Exception) -> None:
        """The connection is worth nothing any more; the peer may be owed a reason."""
        node = connection.dialled or (connection.channel.peer.node if connection.channel and connection.channel.peer else "?")
        if not isinstance(error, Unavailable):
            print(f"registry: link with {node} ended: {error}", file=sys.stderr, flush=True)
        if connection.dialled is not None:
            self._problems[connection.dialled] = str(error)
        link = connection.channel is not None and self._links.get(node) is connection
        connection.closing = True
        if link:
            self._drop(connection, str(error))
        else:
            self._send(connection)

    def _drop(self, connection: _Connection, why: str) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._dirty.discard(connection)
        with suppress(KeyError, ValueError):
            self._selector.unregister(connection.sock)
        connection.sock.close()
        if connection.dialled is not None and not connection.closing:
            self._problems[connection.dialled] = why
        peer = connection.channel.peer if connection.channel is not None else None
        if peer is not None and self._links.get(peer.node) is connection:
            del self._links[peer.node]
            self._problems[peer.node] = why
            self.disconnected(peer.node)


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE_S * 1000))


def _listen(address: Address) -> socket.socket:
    try:
        family, *_, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(64)
    except OSError as error:
        raise Invalid(f"cannot listen at {address}: {error.strerror}; change cluster.listen") from None
    listener.setblocking(False)
    return listener
