"""The registry's process: ``python -m registry --dir DIR/registry --node NODE``; see ``main``.

One thread, one ``select``: everything that can be read is read and proposed, one tick of Raft applies it and commits it with one
transaction (group commit: what arrives during a sync shares the next one), then the answers go out. It sleeps until a socket or
Raft's own clock (``due``) has something; with one node and no commands it never wakes.

On the socket (``DIR/registry/socket``, mode 0600) each request is an encoded envelope, each answer ``[incarnation, sequence,
outcome]``,
both framed as in ``registry.frames``; answers may come in another order. A connection that sends what is malformed is closed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import random
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from registry.codec import Malformed, decode_envelope, pack
from registry.commands import Envelope
from registry.frames import FrameReader, frame
from registry.kv import View
from registry.lmdbdisk import DAMAGE, LmdbDisk, damaged
from registry.raft import RaftNode, Timings
from registry.state import apply_bytes
from registry.transport import NoPeers
from vpool.errors import Conflict, VPoolError

EXIT_OK = 0
EXIT_DEFECT = 70  # an exception that should not be: the node has stopped, the disk is at its last commit
EXIT_HALTED = 75  # the database cannot be used; the message says why
EXIT_BUSY = 76  # another process has the directory

SOCKET = "socket"
READ_BYTES = 1 << 18
UNSENT_BYTES_MAX = 8 << 20  # per connection; beyond, its requests are not read
PR_SET_PDEATHSIG = 1

Key = tuple[str, int, int]  # node, incarnation, sequence


class _Connection:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader = FrameReader()
        self.unsent = bytearray()
        self.waiting: set[Key] = set()


class Server:
    """The loop around one ``RaftNode``. Not for use by several threads."""

    def __init__(self, directory: Path, node: str) -> None:
        """Open the database and listen. Errors: ``Halted``, ``Conflict`` (another process has the directory)."""
        self._directory = directory
        self._lock = _lock(directory)
        self._disk = LmdbDisk(directory)
        self._raft = RaftNode(
            node,
            [],
            self._disk,
            NoPeers(),
            _apply,
            clock=time.monotonic,
            random=random.Random(),  # noqa: S311  # spreads elections, keeps no secret
            timings=Timings(keep_entries=64),
            on_applied=self._on_applied,
            validate=decode_envelope,
        )
        self._waiting: dict[Key, _Connection] = {}
        self._selector = selectors.DefaultSelector()
        self._listener = _listen(directory)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._stopping = False

    def stop(self) -> None:
        """Leave ``run`` after what is under way; may be called by a signal handler."""
        self._stopping = True
        with contextlib.suppress(OSError):  # full: it wakes anyway; closed: it has ended
            self._wake.send(b"s")

    def run(self) -> None:
        """Serve until ``stop``. Whatever Raft or the state machine raises leaves here: the process must end."""
        self._raft.doTick()
        while not self._stopping:
            due = self._raft.due()
            timeout = None if due == float("inf") else max(0.0, due - time.monotonic())
            for key, events in self._selector.select(timeout):
                self._on_event(key.fileobj, key.data, events)
            if time.monotonic() >= self._raft.due():
                self._raft.doTick()

    def close(self, *, abort: bool = False) -> None:
        """Let go of everything; ``abort`` drops a transaction that is open."""
        for connection in {key.data for key in self._selector.get_map().values() if key.data is not None}:
            self._drop(connection)
        self._selector.close()
        for sock in (self._listener, self._wake, self._woken):
            sock.close()
        (self._directory / SOCKET).unlink(missing_ok=True)
        self._disk.close(abort=abort)
        os.close(self._lock)

    def _on_event(self, source: Any, connection: _Connection | None, events: int) -> None:
        if source is self._listener:
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ, _Connection(sock))
        elif connection is not None:
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
            envelope = decode_envelope(request)
            key = _key(envelope)
            self._waiting[key] = connection
            connection.waiting.add(key)
            self._raft.propose(request)

    def _on_applied(self, applied: tuple[Envelope, bytes]) -> None:
        envelope, outcome = applied
        key = _key(envelope)
        connection = self._waiting.pop(key, None)
        if connection is None:
            return
        connection.waiting.discard(key)
        connection.unsent += frame(pack([envelope.incarnation, envelope.sequence, outcome]))
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
        for key in connection.waiting:
            self._waiting.pop(key, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.sock)
        connection.sock.close()


def _apply(view: View, data: bytes) -> tuple[Envelope, bytes]:
    return apply_bytes(view, data)


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


def main(arguments: list[str] | None = None) -> int:
    """Run the registry until SIGTERM or SIGINT.

    On ``--ready-fd`` one line says ``ready``, or what hinders: ``halted …``, ``busy …``.
    """
    parser = argparse.ArgumentParser(prog="python -m registry", description="The registry of one vPool node.")
    parser.add_argument("--dir", type=Path, required=True, help="directory of its database and socket")
    parser.add_argument("--node", required=True, help="id of this node")
    parser.add_argument("--ready-fd", type=int, help="descriptor that is told when it serves, and closed")
    parser.add_argument("--parent", type=int, help="process id of the daemon; the registry ends with it")
    options = parser.parse_args(arguments)
    if options.parent is not None:
        _die_with(options.parent)

    def tell(line: str) -> None:
        if options.ready_fd is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(options.ready_fd, line.encode() + b"\n")
            os.close(options.ready_fd)

    try:
        server = Server(options.dir, options.node)
    except VPoolError as error:
        busy = isinstance(error, Conflict)
        tell(f"{'busy' if busy else 'halted'} {error}")
        print(f"registry: {error}", file=sys.stderr, flush=True)
        return EXIT_BUSY if busy else EXIT_HALTED
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
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
