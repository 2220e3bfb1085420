"""The daemon's side of the registry: starts and watches its process, numbers commands, asks again until it is answered.

A time-out, a lost connection, a registry that was killed: all mean *unknown*, never *no*. So a command keeps its number, is sent
again over each new connection and after ``ASK_AGAIN_S`` without an answer, and the registry's memory of numbers makes that
harmless. A
caller that gives up (is cancelled) leaves its command to run its course.

Trio: everything here runs on one loop. ``submit`` numbers, encodes and queues without waiting unless ``IN_FLIGHT`` are under way,
so commands leave in the order of the calls. Between ``_pending[sequence] = …`` and ``_push`` nothing may wait.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast, overload

import trio

from registry.cluster import ClusterPlace
from registry.codec import Malformed, decode_outcome, encode_envelope, unpack
from registry.commands import (
    AdvanceHeads,
    Closed,
    CloseHandle,
    Command,
    Condemn,
    Create,
    Created,
    CreateObject,
    Envelope,
    Expire,
    Forget,
    ForgetFiles,
    Halt,
    HeadAdvanced,
    Initialise,
    Link,
    NewEpoch,
    OpenHandle,
    Publish,
    Refusal,
    RegisterNode,
    Relocate,
    RemoveAttribute,
    RemoveDirectory,
    Rename,
    Renamed,
    RenewLease,
    Resize,
    Result,
    SetAttribute,
    SetAttributes,
    Settle,
    Settled,
    Unhalt,
    Unlink,
)
from registry.control import decode_answer, encode_question, is_question
from registry.counters import RegistryCounters
from registry.frames import FrameReader, frame
from registry.leases import Lease
from registry.member_commands import FormCluster
from registry.model import ClusterRecord, Inode, NodeRecord, ObjectRecord, Unsaved, VPoolRecord
from registry.owner_commands import Abort, DropRemains, ProposeDtl, SetNode, Steal, Transfer
from registry.server import EXIT_BUSY, EXIT_DEFECT, EXIT_HALTED, SOCKET
from registry.state import WINDOW
from registry.view import RegistryView
from vpool import errors

IN_FLIGHT = WINDOW // 2
ASK_AGAIN_S = 2.0
START_S = 60.0
STOP_S = 10.0
RESTART_PAUSE_S = 0.2
RESTARTS_MAX = 10
RECEIVE_BYTES = 1 << 18


def error_of(refusal: Refusal) -> errors.VPoolError:
    """A refusal as the error that it names."""
    return cast(type[errors.VPoolError], getattr(errors, refusal.kind))(refusal.message, **dict(refusal.details))


class _Pending:
    """One command that is not answered yet."""

    __slots__ = ("answered", "asked_at", "command", "frame", "numbered_at", "outcome")

    def __init__(self, command: str, data: bytes) -> None:
        self.command = command
        self.frame = data
        self.numbered_at = self.asked_at = trio.current_time()
        self.answered = trio.Event()
        self.outcome: Result | Refusal | errors.VPoolError = None


class _Question:
    """One question that is not answered yet."""

    __slots__ = ("answer", "answered", "asked_at", "frame")

    def __init__(self, data: bytes) -> None:
        self.frame = data
        self.asked_at = trio.current_time()
        self.answered = trio.Event()
        self.answer: Any = None


class RegistryClient:
    """``async with RegistryClient.start(directory, node) as client``; then ``await client.submit(command)``.

    Attributes:
        node: this node's id.
        incarnation: a number that no earlier life of the node has had; to be registered with ``RegisterNode``.
        view: reads of the state (see ``registry.view``).
        counters: how long its commands take.
        untold: names of commands that the registry has not answered since patience with it was lost (``lose_patience``); not of
            those that tell it of a node's life only, which the stop ends.
    """

    view: RegistryView
    prefix: tuple[str, ...] = ()  # of the process's command line

    def __init__(self, directory: Path, node: str, cluster: ClusterPlace | None = None) -> None:
        self._directory = directory
        self._cluster = cluster
        self.node = node
        self.incarnation = 0
        self.counters = RegistryCounters()
        self.untold: set[str] = set()
        self._sequence = 0
        self._renewals = 0  # of this incarnation
        self._pending: dict[int, _Pending] = {}
        self._questions: dict[int, _Question] = {}  # by number
        self._patience_s = math.inf
        self._question = 0
        self._unsent = bytearray()
        self._something_unsent = trio.Event()
        self._socket: socket.socket | None = None  # of the connection there is; non-blocking
        self._sending = False
        self._room = trio.lowlevel.ParkingLot()
        self._process: subprocess.Popen[bytes] | None = None
        self._broken: errors.VPoolError | None = None
        self._closing = self._patience_lost = False

    @classmethod
    @asynccontextmanager
    async def start(
        cls, directory: Path, node: str, cluster: ClusterPlace | None = None, *, member: bool = True
    ) -> AsyncIterator[RegistryClient]:
        """Start the process in ``directory`` (the registry's own) and keep it running; stop it at the end.

        In a cluster it waits until this node's copy has all that was committed when it came up, so until a majority is there;
        ``member`` false spares that: only questions may be asked, and the incarnation is not to be used.
        Must be entered in a thread that outlives the block (the main thread): the process is bound to its life.
        Errors: ``Halted`` (the database cannot be used), ``Conflict`` (another process has it), ``Unavailable`` (no answer in
        time).
        """
        client = cls(Path(directory), node, cluster)
        stream = None
        try:
            stream = await client._start_process()
            client.view = RegistryView(client._directory)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client._supervise, stream)
                    nursery.start_soon(client._ask_again)
                    try:
                        if cluster is not None and member:
                            await client.barrier()
                        client.incarnation = client.view.last_incarnation(node) + 1
                        yield client
                    finally:
                        client._closing = True
                        nursery.cancel_scope.cancel()
            finally:
                client.view.close()
        finally:
            client._fail_all(errors.Unavailable("the registry's client has been closed; the outcome is unknown"))
            with trio.CancelScope(shield=True):
                await client._stop_process()

    @overload
    async def submit(self, command: Initialise) -> VPoolRecord: ...

    @overload
    async def submit(self, command: RegisterNode | RenewLease | Expire | SetNode) -> NodeRecord: ...

    @overload
    async def submit(self, command: Create) -> Created: ...

    @overload
    async def submit(self, command: Rename) -> Renamed: ...

    @overload
    async def submit(
        self, command: Link | Unlink | RemoveDirectory | SetAttributes | Publish | SetAttribute | RemoveAttribute
    ) -> Inode: ...

    @overload
    async def submit(self, command: OpenHandle) -> int: ...

    @overload
    async def submit(self, command: CloseHandle) -> Closed: ...

    @overload
    async def submit(self, command: CreateObject | NewEpoch | Resize | Condemn | Halt | Unhalt | Relocate) -> ObjectRecord: ...

    @overload
    async def submit(self, command: Transfer | Abort | ProposeDtl | Steal | DropRemains) -> ObjectRecord: ...

    @overload
    async def submit(self, command: AdvanceHeads) -> tuple[HeadAdvanced, ...]: ...

    @overload
    async def submit(self, command: Settle | ForgetFiles) -> tuple[Settled, ...]: ...

    @overload
    async def submit(self, command: Forget) -> None: ...

    @overload
    async def submit(self, command: FormCluster) -> ClusterRecord: ...

    async def submit(self, command: Command) -> Result:
        """Have a command applied; durable when this returns. The result's type is named in the command's docstring.

        Errors: whatever the command is refused with (``vpool.errors``, by its docstring); ``Invalid`` (cannot be encoded);
        ``Halted`` (the registry has stopped for good); ``Unavailable`` (the client was closed meanwhile: unknown).
        """
        while self._pending and self._sequence - next(iter(self._pending)) >= IN_FLIGHT and self._broken is None:
            await self._room.park()
        if self._broken is not None:
            if self._patience_lost:
                self._note_untold(type(command).__name__)
            raise self._broken
        if self._closing:
            raise errors.Unavailable("the registry's client is closed")
        sequence = self._sequence + 1
        try:
            data = frame(encode_envelope(Envelope(self.node, self.incarnation, sequence, command)))
        except (Malformed, KeyError) as error:
            raise errors.Invalid(f"the command cannot be encoded: {error}") from error
        self._sequence = sequence
        pending = self._pending[sequence] = _Pending(type(command).__name__, data)
        self._push(data)
        await pending.answered.wait()
        outcome = pending.outcome
        if not isinstance(outcome, errors.VPoolError):
            elapsed_s = trio.current_time() - pending.numbered_at
            self.counters.answered(type(command).__name__, elapsed_s, refused=isinstance(outcome, Refusal))
        if isinstance(outcome, Refusal):
            raise error_of(outcome)
        if isinstance(outcome, errors.VPoolError):
            raise outcome
        return outcome

    @property
    def waiting_s(self) -> float:
        """For how long the command that waits longest has waited for its answer, asked again or not; 0.0 when none waits."""
        return max((trio.current_time() - pending.numbered_at for pending in self._pending.values()), default=0.0)

    @property
    def has_ended(self) -> bool:
        """Whether it is closed, or the registry has stopped for good: what a command's outcome is will not be known here."""
        return self._closing or self._broken is not None

    async def renew_lease(
        self, lease: Lease | None = None, room_bytes: int | None = None, unsaved: Unsaved | None = None
    ) -> NodeRecord:
        """Prove that the registry commits for this node now: a renewal goes through its log, and is durable on return.

        ``lease`` is told of the sending and of the commit. ``room_bytes``: what the cache can still take; ``unsaved``: what only
        it has. Errors: as ``submit``; ``Conflict`` (a later one was applied before it).
        """
        self._renewals += 1
        number = self._renewals
        if lease is not None:
            lease.sent(number, time.clock_gettime(time.CLOCK_BOOTTIME))
        record = await self.submit(RenewLease(number, room_bytes, unsaved or Unsaved()))
        if lease is not None:
            lease.committed(number)
        return record

    async def barrier(self) -> None:
        """Wait until ``view`` has everything that was committed anywhere when this was called.

        For look-ups that must not miss what another node has been answered (names). What several ask together the registry's
        process asks the leader once. Without a majority it waits. Errors: ``Unavailable`` (the client was closed), ``Halted``.
        """
        if self._cluster is not None:
            await self.ask("barrier")

    async def ask(self, kind: str, *arguments: Any) -> Any:
        """Ask this node's registry about the cluster (``registry.control``).

        Errors: what it answers; ``Unavailable`` (the client was closed), ``Halted``.
        """
        if self._broken is not None:
            raise self._broken
        if self._closing:
            raise errors.Unavailable("the registry's client is closed")
        self._question += 1
        number = self._question
        question = self._questions[number] = _Question(frame(encode_question(kind, number, *arguments)))
        try:
            self._push(question.frame)
            await question.answered.wait()
        finally:
            self._questions.pop(number, None)
        if isinstance(question.answer, errors.VPoolError):
            raise question.answer
        return question.answer

    def lose_patience(self, seconds: float) -> None:
        """The node stops: when something has waited so long, all that waits fails as ``Unavailable``, and all that comes.

        A majority that is away must not keep a host from stopping. What was asked may be done all the same.
        """
        self._patience_s = seconds

    def _note_untold(self, command: str) -> None:
        if command not in (RenewLease.__name__, Expire.__name__):
            self.untold.add(command)

    # -- the connection ----------------------------------------------------------------------------------------------------

    def _push(self, data: bytes) -> None:
        """Send at once what the socket takes, if nothing waits before it: that spares the way through another task."""
        sent = 0
        if self._socket is not None and not (self._unsent or self._sending):
            with suppress(OSError):  # full, or broken: the task that sends will find out
                sent = self._socket.send(data)
        if sent < len(data):
            self._unsent += data[sent:]
            self._something_unsent.set()

    async def _talk(self, stream: trio.SocketStream) -> None:
        """Until the connection ends: what is pending is asked again first, in order."""
        self._unsent = bytearray(b"".join(pending.frame for pending in self._pending.values()))
        self._unsent += b"".join(question.frame for question in self._questions.values())
        self._something_unsent = trio.Event()
        self._sending = False
        if self._unsent:
            self._something_unsent.set()
        with socket.socket(fileno=os.dup(stream.socket.fileno())) as self._socket:
            self._socket.setblocking(False)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, stream)
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await self._receive(stream)
                    nursery.cancel_scope.cancel()
            finally:
                self._socket = None

    async def _send(self, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                await self._something_unsent.wait()
                self._something_unsent = trio.Event()
                data, self._unsent = self._unsent, bytearray()
                self._sending = True
                await stream.send_all(data)
                self._sending = False

    async def _receive(self, stream: trio.SocketStream) -> None:
        reader = FrameReader()
        while data := await stream.receive_some(RECEIVE_BYTES):
            for answer in reader.feed(bytes(data)):
                if is_question(answer):
                    _, number, result = decode_answer(answer)
                    self._answer_question(number, result)
                    continue
                incarnation, sequence, outcome = unpack(answer)
                if incarnation == self.incarnation:
                    self._answer(sequence, decode_outcome(outcome))

    def _answer(self, sequence: int, outcome: Result | Refusal | errors.VPoolError) -> None:
        pending = self._pending.pop(sequence, None)
        if pending is not None:
            pending.outcome = outcome
            pending.answered.set()
            self._room.unpark_all()

    def _answer_question(self, number: int, result: Any) -> None:
        question = self._questions.pop(number, None)
        if question is not None:
            question.answer = result
            question.answered.set()

    def _fail_all(self, error: errors.VPoolError) -> None:
        self._broken = error
        for number in list(self._questions):
            self._answer_question(number, error)
        for sequence in list(self._pending):
            self._answer(sequence, error)
        self._room.unpark_all()

    async def _ask_again(self) -> None:
        while True:
            await trio.sleep(ASK_AGAIN_S / 4)
            now = trio.current_time()
            if max([self.waiting_s, *(now - each.asked_at for each in self._questions.values())]) > self._patience_s:
                self._patience_lost = True
                for pending in self._pending.values():
                    self._note_untold(pending.command)
                self._fail_all(errors.Unavailable("the node stops, and the registry does not answer; the outcome is unknown"))
                return
            for pending in self._pending.values():
                if now - pending.asked_at >= ASK_AGAIN_S:
                    pending.asked_at = now
                    self._unsent += pending.frame
                    self._something_unsent.set()

    # -- the process -------------------------------------------------------------------------------------------------------

    async def _supervise(self, stream: trio.SocketStream) -> None:
        """Talk to the process; start it again when it has been killed. What stopped it for good stops the client."""
        while True:
            try:
                async with stream:
                    await self._talk(stream)
                code = await self._exit_code()
                _refuse_what_is_final(code)
                stream = await self._restart_process()
            except errors.VPoolError as error:
                self._fail_all(error)
                return

    async def _restart_process(self) -> trio.SocketStream:
        for _ in range(RESTARTS_MAX):
            await trio.sleep(RESTART_PAUSE_S)
            try:
                return await self._start_process()
            except errors.Unavailable:
                await self._exit_code()
        raise errors.Halted("the registry's process does not come up again", tries=RESTARTS_MAX)

    async def _exit_code(self) -> int:
        """Of the process, which is ending: it has closed the connection."""
        process = self._process
        if process is None:
            return 0
        with trio.move_on_after(STOP_S):
            while process.poll() is None:  # noqa: ASYNC110  # a few turns at most
                await trio.sleep(0.01)
        if process.poll() is None:
            process.kill()
            process.wait()
        return process.returncode

    async def _start_process(self) -> trio.SocketStream:
        """A process that serves, and a connection to it. Popen in this very thread: PR_SET_PDEATHSIG watches threads."""
        readable, writable = os.pipe()
        command = [*self.prefix, sys.executable, "-m", "registry", "--dir", str(self._directory), "--node", self.node]
        if self._cluster is not None:
            place = self._cluster
            command += ["--cluster", str(place.directory), "--vpool", place.vpool, "--format", str(place.format)]
            command += ["--listen", str(place.listen), "--advertise", str(place.advertise), "--name", place.name]
        command += ["--ready-fd", str(writable), "--parent", str(os.getpid())]
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
        try:
            self._process = subprocess.Popen(  # noqa: S603, ASYNC220  # a few ms, at start only
                command, pass_fds=[writable], stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}
            )
        except BaseException:
            os.close(readable)
            raise
        finally:
            os.close(writable)
        line = b""
        async with trio.lowlevel.FdStream(readable) as ready:
            with trio.move_on_after(START_S) as scope:
                while data := await ready.receive_some(4096):
                    line += data
        if scope.cancelled_caught:
            raise errors.Unavailable("the registry's process does not get ready", seconds=START_S)
        word, _, message = line.decode(errors="replace").strip().partition(" ")
        if word == "ready":
            try:
                return await self._connect()
            except errors.Unavailable:
                _refuse_what_is_final(await self._exit_code())
                raise
        code = await self._exit_code()
        if word == "busy" or code == EXIT_BUSY:
            raise errors.Conflict(message or "another process runs the registry of this directory")
        if code < 0 and -code not in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT):
            raise errors.Unavailable("the registry's process was killed as it started", signal=-code)
        raise errors.Halted(
            message or "the registry's process died as it opened its database, which is probably damaged; restore it",
            exit_code=code,
        )

    async def _connect(self) -> trio.SocketStream:
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            await sock.connect(f"/proc/self/fd/{fd}/{SOCKET}")
        except OSError as error:
            sock.close()
            raise errors.Unavailable(f"no connection to the registry: {error}") from error
        finally:
            os.close(fd)
        return trio.SocketStream(sock)

    async def _stop_process(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        await self._exit_code()


def _refuse_what_is_final(code: int) -> None:
    """Halted, where a process that ended so would end so again."""
    if code in (EXIT_HALTED, EXIT_DEFECT):
        raise errors.Halted("the registry has stopped; its log says why", exit_code=code)
