"""The registry's process: ``python -m registry --dir DIR/registry --node NODE``; see ``main``.

One thread, one ``select``: everything that can be read is read and proposed, one tick of Raft applies it and commits it with one
transaction (group commit: what arrives during a sync shares the next one), then the answers go out. It sleeps until a socket or
Raft's own clock (``due``) has something; with one node and no commands it never wakes.

On the socket (``DIR/registry/socket``, mode 0600) each request is an encoded envelope, each answer ``[incarnation, sequence,
outcome]``, both framed as in ``registry.frames``; answers may come in another order. Questions about the cluster and barriers are
in ``registry.control``. A connection that sends what is malformed is closed.

With ``--cluster DIR/cluster`` it is one of several: links to the others (``registry.links``), their affairs
(``registry.cluster``). What is applied *here* answers a client, so a read of this node's copy that follows sees it. While nobody
leads, commands wait here and are proposed to whoever leads next.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import gc
import os
import random
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from peers import parse_address
from registry.cluster import ClusterDesk, ClusterPlace, read_seeds
from registry.codec import Malformed, decode_envelope, pack
from registry.commands import Envelope
from registry.control import arguments_of, decode_question, encode_answer, encode_error, is_question
from registry.frames import FrameReader, frame
from registry.kv import View
from registry.links import PeerLinks
from registry.lmdbdisk import DAMAGE, LmdbDisk, damaged
from registry.raft import RaftNode, Timings
from registry.state import apply_bytes
from registry.tables import Tables
from registry.transport import FrameTransport, NoPeers
from vpool.errors import Conflict, Halted, Unavailable, VPoolError

EXIT_OK = 0
EXIT_DEFECT = 70  # an exception that should not be: the node has stopped, the disk is at its last commit
EXIT_HALTED = 75  # the database cannot be used; the message says why
EXIT_BUSY = 76  # another process has the directory

SOCKET = "socket"
READ_BYTES = 1 << 18
UNSENT_BYTES_MAX = 8 << 20  # per connection; beyond, its requests are not read
PR_SET_PDEATHSIG = 1

HAND_ON_S = 1.0  # how long a stop tries to have another lead
HAND_ON_AGAIN_S = 0.05

KEEP_ALONE = 64  # entries behind the applied ones
KEEP_CLUSTER = 8192  # so that who was away for some seconds needs no snapshot

Key = tuple[str, int, int]  # node, incarnation, sequence


class _Connection:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader = FrameReader()
        self.unsent = bytearray()
        self.waiting: set[Key] = set()
        self.gone = False


class Server:
    """The loop around one ``RaftNode``. Not for use by several threads."""

    def __init__(self, directory: Path, node: str, cluster: ClusterPlace | None = None) -> None:
        """Open the database and listen.

        Errors: ``Halted``, ``Conflict`` (another process has the directory), ``Invalid`` (the address cannot be had).
        """
        self._directory = directory
        self._lock = _lock(directory)
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        transport: FrameTransport = NoPeers()
        self._desk: ClusterDesk | None = None
        self._links: PeerLinks | None = None
        if cluster is not None:
            self._desk = ClusterDesk(cluster, node)
            transport = self._links = self._make_links(self._desk)
        self._disk = LmdbDisk(directory)
        self._raft = RaftNode(
            node,
            [],
            self._disk,
            transport,
            _apply,
            clock=boottime,
            random=random.Random(),  # noqa: S311  # spreads elections, keeps no secret
            timings=Timings(keep_entries=KEEP_ALONE if cluster is None else KEEP_CLUSTER),
            on_applied=self._on_applied,
            validate=decode_envelope,
            joining=cluster is not None and bool(read_seeds(cluster.directory)),
            on_readable=self._on_readable,
        )
        voters = self._raft.membership.voters
        if cluster is None and voters != (node,):
            self._disk.close(abort=True)
            raise Halted(
                "the registry in this directory is of another node than vpool.json names; restore vpool.json from a backup",
                named=node,
                registry=", ".join(voters),
            )
        self._seen = (self._raft.adoptions, self._raft.leader)
        if self._desk is not None and self._links is not None:
            self._desk.attach(self._raft, self._links, self._tables)
        self._waiting: dict[Key, tuple[_Connection, bytes]] = {}
        self._listener = _listen(directory)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._stopping = False
        self._hand_on_until: float | None = None  # a stop waits no longer for another leader

    def _make_links(self, desk: ClusterDesk) -> PeerLinks:
        return PeerLinks(
            self._selector,
            desk.credentials,
            node=desk.node,
            vpool=desk.place.vpool,
            vpool_format=desk.place.format,
            listen=desk.place.listen,
            known=desk.known,
            refuse=desk.refuse,
            on_frame=desk.on_link_frame,
            wake=self._wake_up,
        )

    def _tables(self) -> Tables:
        return Tables(self._disk.state)

    def _wake_up(self) -> None:
        with contextlib.suppress(OSError):  # full: it wakes anyway; closed: it has ended
            self._wake.send(b"s")

    def stop(self) -> None:
        """Leave ``run`` after what is under way; may be called by a signal handler."""
        self._stopping = True
        self._wake_up()

    def run(self) -> None:
        """Serve until ``stop``. Whatever Raft or the state machine raises leaves here: the process must end."""
        self._raft.doTick()
        while not self._may_end():
            wait_s = self._raft.due() - boottime()
            if self._links is not None:
                wait_s = min(wait_s, self._links.due() - time.monotonic())
            if self._stopping:
                wait_s = min(wait_s, HAND_ON_AGAIN_S)
            timeout = None if wait_s == float("inf") else max(0.0, wait_s)
            happened = self._selector.select(timeout)
            began, began_cpu = time.monotonic(), time.thread_time()
            for key, events in happened:
                self._on_event(key.fileobj, key.data, events)
            if self._links is not None:
                self._turn(self._links)
                assert self._desk is not None
                self._desk.turned(time.monotonic() - began, time.thread_time() - began_cpu)
            elif boottime() >= self._raft.due():
                self._raft.doTick()

    def _may_end(self) -> bool:
        """When it is to stop; who leads others lets one of them lead first, if that is quickly done."""
        if not self._stopping or not self._raft.is_leader or len(self._raft.membership.voters) == 1:
            return self._stopping
        now = time.monotonic()
        self._hand_on_until = self._hand_on_until or now + HAND_ON_S
        if now >= self._hand_on_until:
            return True
        return self._raft.hand_on() is None and len(self._raft.progress.alive) == 1

    def _turn(self, links: PeerLinks) -> None:
        """One of several: whatever has come may have something to say."""
        assert self._desk is not None
        links.tend()
        self._desk.tend()
        self._raft.doTick()
        seen = (self._raft.adoptions, self._raft.leader)
        if seen[0] != self._seen[0]:
            self._desk.state_changed()
        if seen[1] is not None and seen[1] != self._seen[1]:
            self._desk.say_again()
            for _, request in list(self._waiting.values()):
                self._propose(request)  # what the last leader was sent may be lost; it is applied at most once
        self._seen = seen
        links.flush()

    def close(self, *, abort: bool = False) -> None:
        """Let go of everything; ``abort`` drops a transaction that is open."""
        for connection in {key.data for key in self._selector.get_map().values() if isinstance(key.data, _Connection)}:
            self._drop(connection)
        if self._links is not None:
            self._links.close()
        self._selector.close()
        for sock in (self._listener, self._wake, self._woken):
            sock.close()
        (self._directory / SOCKET).unlink(missing_ok=True)
        self._disk.close(abort=abort)
        os.close(self._lock)

    def _on_event(self, source: Any, connection: Any, events: int) -> None:
        if source is self._woken:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
        elif source is self._listener:
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ, _Connection(sock))
        elif not isinstance(connection, _Connection):
            connection(events)  # of the links
        else:
            try:
                if events & selectors.EVENT_WRITE:
                    self._send(connection)
                if events & selectors.EVENT_READ:
                    self._read(connection)
            except (OSError, Malformed) as error:
                self._drop(connection)
                if isinstance(error, Malformed):
                    print(f"registry: connection closed: {error}", file=sys.stderr, flush=True)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._drop(connection)
            return
        for request in connection.reader.feed(data):
            if is_question(request):
                self._on_question(connection, request)
                continue
            envelope = decode_envelope(request)
            key = _key(envelope)
            self._waiting[key] = connection, request
            connection.waiting.add(key)
            self._propose(request)

    def _propose(self, request: bytes) -> None:
        """While nobody leads it waits: ``_turn`` proposes all that waits to whoever leads next."""
        if self._raft.leader is not None or self._links is None:
            with contextlib.suppress(Unavailable):  # too many wait: its client asks again
                self._raft.propose(request)

    def _on_question(self, connection: _Connection, request: bytes) -> None:
        kind, number, arguments = decode_question(request)
        if kind == "barrier":
            arguments_of(arguments)
            self._raft.read((connection, number))
            return

        def answer(result: Any) -> None:
            failed = isinstance(result, VPoolError)
            self._say(connection, encode_error(kind, number, result) if failed else encode_answer(kind, number, result))

        try:
            if self._desk is None:
                raise Conflict("this vPool is no cluster; make it one with `vpool cluster init`")
            self._desk.on_local(kind, arguments, answer)
        except VPoolError as error:
            answer(error)

    def _on_readable(self, token: Any) -> None:
        connection, number = token
        self._say(connection, encode_answer("barrier", number, None))

    def _on_applied(self, applied: tuple[Envelope, bytes]) -> None:
        envelope, outcome = applied
        if self._desk is not None:
            self._desk.on_applied(envelope, outcome)
        key = _key(envelope)
        connection, _ = self._waiting.pop(key, (None, b""))
        if connection is None:
            return
        connection.waiting.discard(key)
        self._say(connection, pack([envelope.incarnation, envelope.sequence, outcome]))

    def _say(self, connection: _Connection, data: bytes) -> None:
        if connection.gone:
            return
        connection.unsent += frame(data)
        try:
            self._send(connection)
        except OSError:
            self._drop(connection)

    def _send(self, connection: _Connection) -> None:
        with contextlib.suppress(BlockingIOError):
            while connection.unsent:
                del connection.unsent[: connection.sock.send(connection.unsent)]
        events = selectors.EVENT_WRITE if connection.unsent else 0
        if len(connection.unsent) < UNSENT_BYTES_MAX:
            events |= selectors.EVENT_READ
        if self._selector.get_key(connection.sock).events != events:
            self._selector.modify(connection.sock, events, connection)

    def _drop(self, connection: _Connection) -> None:
        connection.gone = True
        for key in connection.waiting:
            self._waiting.pop(key, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.sock)
        connection.sock.close()


def _apply(view: View, data: bytes) -> tuple[Envelope, bytes]:
    return apply_bytes(view, data)


def boottime() -> float:
    """Seconds that go on while the host sleeps: a leader that wakes must not believe that it has a lease."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _key(envelope: Envelope) -> Key:
    return envelope.node, envelope.incarnation, envelope.sequence


def _lock(directory: Path) -> int:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise Conflict("another process runs the registry of this directory", directory=directory) from error
    return fd


def _listen(directory: Path) -> socket.socket:
    """Listen on the socket in a directory, whatever the length of its path (``sun_path`` has 108 bytes)."""
    (directory / SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    mask = os.umask(0o077)
    try:
        listener.bind(f"/proc/self/fd/{fd}/{SOCKET}")
    finally:
        os.umask(mask)
        os.close(fd)
    listener.listen(16)
    listener.setblocking(False)
    return listener


def _die_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when the thread that started us ends. Linux: prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(EXIT_OK)  # it has ended before we asked


def _place_of(options: argparse.Namespace) -> ClusterPlace | None:
    if options.cluster is None:
        return None
    listen = parse_address(options.listen or "")
    advertise = parse_address(options.advertise) if options.advertise else listen
    return ClusterPlace(options.cluster, options.vpool, options.format, listen, advertise, options.name)


def main(arguments: list[str] | None = None) -> int:
    """Run the registry until SIGTERM or SIGINT.

    On ``--ready-fd`` one line says ``ready``, or what hinders: ``halted …``, ``busy …``.
    """
    parser = argparse.ArgumentParser(prog="python -m registry", description="The registry of one vPool node.")
    parser.add_argument("--dir", type=Path, required=True, help="directory of its database and socket")
    parser.add_argument("--node", required=True, help="id of this node")
    parser.add_argument("--ready-fd", type=int, help="descriptor that is told when it serves, and closed")
    parser.add_argument("--parent", type=int, help="process id of the daemon; the registry ends with it")
    parser.add_argument("--cluster", type=Path, help="directory of the certificates; the registry is one of several")
    parser.add_argument("--vpool", default="", help="id of the vPool")
    parser.add_argument("--format", type=int, default=0, help="format of the vPool")
    parser.add_argument("--listen", help="where it listens for the others, host:port")
    parser.add_argument("--advertise", help="where the others find it; by default --listen")
    parser.add_argument("--name", default="", help="the host's name, for people")
    options = parser.parse_args(arguments)
    if options.parent is not None:
        _die_with(options.parent)

    def tell(line: str) -> None:
        if options.ready_fd is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(options.ready_fd, line.encode() + b"\n")
            os.close(options.ready_fd)

    try:
        server = Server(options.dir, options.node, _place_of(options))
    except VPoolError as error:
        busy = isinstance(error, Conflict)
        tell(f"{'busy' if busy else 'halted'} {error}")
        print(f"registry: {error}", file=sys.stderr, flush=True)
        return EXIT_BUSY if busy else EXIT_HALTED
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    gc.collect()
    gc.freeze()  # what is there by now stays; looking through it again and again would take tens of milliseconds each time
    tell("ready")
    try:
        server.run()
    except DAMAGE as error:
        server.close(abort=True)
        print(f"registry: {damaged(error)}", file=sys.stderr, flush=True)
        return EXIT_HALTED
    except BaseException:
        server.close(abort=True)
        raise
    server.close()
    return EXIT_OK
