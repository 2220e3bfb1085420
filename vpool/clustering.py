"""A vPool of several nodes: making it one, letting a node join, and asking a node about it.

``DIR/cluster`` has what a node of a cluster has besides: certificates (``peers.credentials``), ``seeds.json`` (where others
are, until the registry's copy knows), ``node.json`` (addresses as told). Whether ``node.pem`` is there decides whether a node
takes part.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

import peers
from backend import open_store
from peers import Address, CredentialFiles, Hello, Purpose, Role, Token
from registry import SEEDS, ClusterPlace, FormCluster, RegistryClient
from registry.control import decode_answer, encode_question
from registry.frames import FrameReader, frame
from registry.links import ANSWER, LINK_FRAME_BYTES_MAX, QUESTION
from vpool.errors import Conflict, Denied, Halted, Invalid, Unavailable, VPoolError
from vpool.place import FORMAT_CLUSTER, Identity, Place
from vpool.settings import ClusterSettings

ADDRESSES = "node.json"
JOINING_KEY = "joining.key"
ASK_S = 30.0
JOIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Joined:
    """What a node has become."""

    vpool: str
    node: str
    role: str
    backend: str


def cluster_place(place: Place, identity: Identity, settings: ClusterSettings) -> ClusterPlace | None:
    """What the registry needs to take part; None for a vPool of one node.

    Errors: ``Halted`` (the directory lacks a part), ``Invalid`` (addresses).
    """
    if not CredentialFiles(place.cluster).exist:
        return None
    try:
        told = json.loads((place.cluster / ADDRESSES).read_text(encoding="utf-8"))
        listen, advertise = settings.listen or told["listen"], settings.advertise
        if advertise is None:
            advertise = settings.listen or told["advertise"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Halted(f"{place.cluster / ADDRESSES} cannot be used ({error}); restore it, or set cluster.listen") from None
    addresses = _addresses(listen, advertise)
    return ClusterPlace(place.cluster, identity.vpool, identity.format, *addresses, socket.gethostname())


def _addresses(listen: str, advertise: str | None) -> tuple[Address, Address]:
    heard = peers.parse_address(listen)
    found = peers.parse_address(advertise) if advertise is not None else heard
    if found.is_any:
        raise Invalid(f"{found} cannot be found by others; say where with --advertise (cluster.advertise), like 10.0.0.1:9470")
    return heard, found


def initialise(directory: Path, *, backend: str | None, listen: str, advertise: str | None) -> Joined:
    """Make the vPool in DIR, or a new one, the first node of a cluster. Done again after an interruption it goes on.

    Errors: ``Conflict`` (a daemon runs there; it is a cluster already), ``Invalid`` (addresses; an embedded backend), those of
    the backend, which must answer, and those of the registry.
    """
    addresses = _addresses(listen, advertise)
    place = Place(directory)
    place.lock()
    if CredentialFiles(place.cluster).exist:
        raise Conflict(f"{directory} belongs to a cluster already; see `vpool cluster status --dir {directory}`")
    url = place.backend_url(backend)
    if place.is_embedded(url):
        raise Invalid(
            "the backend is a directory inside DIR, which no other node can reach; a cluster needs a shared one "
            "(--backend s3:… or swift:…, or dir:/path on storage that all hosts mount)"
        )
    place.check_store(url)
    trio.run(_try_out, url)
    identity = place.settle(url)
    try:
        return trio.run(_initialise, place, identity, url, addresses)
    finally:
        place.unlock()


async def _try_out(backend: str) -> None:
    """Before anything is written down that no command changes later. Errors: ``Invalid``, ``Denied``, ``Unavailable``."""
    store = await open_store(backend)
    try:
        await store.check()
    finally:
        await store.aclose()


async def _initialise(place: Place, identity: Identity, backend: str, addresses: tuple[Address, Address]) -> Joined:
    files, now = CredentialFiles(place.cluster), dt.datetime.now(dt.UTC)
    place.adopt(replace(identity, format=FORMAT_CLUSTER))  # first: from now on older releases stay out
    authority = files.authority()
    if authority is None:
        authority = peers.new_authority(identity.vpool, now)
        files.save(peers.AUTHORITY, authority.certificate)
        files.save(peers.AUTHORITY_KEY, authority.key)
    key, serial = peers.new_key(), peers.new_serial()
    certificate = peers.certify(authority, key, identity.node, identity.vpool, Role.NODE, serial, now, peers.NODE_DAYS)
    async with RegistryClient.start(place.registry, identity.node) as registry:
        await registry.submit(
            FormCluster(
                identity.node,
                str(addresses[1]),
                peers.serial_text(serial),
                peers.fingerprint(authority.certificate),
                backend,
                time.time_ns(),
                socket.gethostname(),
            )
        )
    _save_addresses(files, addresses)
    files.save(peers.IDENTITY, certificate + key)  # last: from now on it is a node of a cluster
    return Joined(identity.vpool, identity.node, "voter", backend)


def _save_addresses(files: CredentialFiles, addresses: tuple[Address, Address]) -> None:
    content = {"listen": str(addresses[0]), "advertise": str(addresses[1])}
    files.save(ADDRESSES, (json.dumps(content) + "\n").encode())


def join(directory: Path, text: str, *, role: str, listen: str, advertise: str | None) -> Joined:
    """Make DIR, which is new or empty, a node of the vPool that a token is for.

    What is refused has changed nothing. An interrupted one may be done again with the same token: it is the same node then.
    Errors: ``Invalid`` (token, addresses, clocks, DIR), ``Denied`` (token expired, used, unknown), ``Conflict``, ``Unavailable``.
    """
    token = peers.parse_token(text)
    if token.expires <= dt.datetime.now(dt.UTC):
        raise Denied(
            f"the join token has expired at {token.expires:%Y-%m-%d %H:%M:%S} UTC; ask for another with `vpool cluster token`"
        )
    addresses = _addresses(listen, advertise)
    place = _place_for_joining(directory, token)
    begun = directory.exists()
    try:
        return trio.run(_join, place, token, role, addresses)
    except VPoolError as error:
        if not begun and not isinstance(error, Unavailable):
            shutil.rmtree(directory, ignore_errors=True)  # nothing was there before
        raise


def _place_for_joining(directory: Path, token: Token) -> Place:
    if directory.exists() and (directory / "cluster" / JOINING_KEY).exists() and not (directory / "vpool.json").exists():
        others = {entry.name for entry in directory.iterdir()} - {"cluster"}
        if others:
            raise Invalid(f"{directory} is not a vPool and not empty; name a DIR that is empty or not there yet")
        return Place.empty(directory)
    place = Place(directory)
    if place.identity is not None:
        same = place.identity.vpool == token.vpool
        raise Conflict(
            f"{directory} is a node of {'this very' if same else 'another'} vPool already ({place.identity.vpool}); "
            "name a DIR that is empty or not there yet"
        )
    return place


async def _join(place: Place, token: Token, role: str, addresses: tuple[Address, Address]) -> Joined:
    place.directory.mkdir(mode=0o700, exist_ok=True)
    files = CredentialFiles(place.cluster)
    node, key = _joining_key(files)
    asked = encode_question("join", 1, peers.request(key, node), str(addresses[1]), role, socket.gethostname(), time.time())
    certificate, seeds, backend, became, authority_key = await _ask_to_join(token, asked)
    files.save(peers.AUTHORITY, token.credentials.authority)
    if authority_key:
        files.save(peers.AUTHORITY_KEY, authority_key)
    files.save(SEEDS, json.dumps(seeds).encode())
    _save_addresses(files, addresses)
    files.save(peers.IDENTITY, certificate + key)
    for path in (place.registry, place.cache):
        path.mkdir(mode=0o700, exist_ok=True)
    place.adopt(Identity(FORMAT_CLUSTER, token.vpool, node, backend))
    os.unlink(files.directory / JOINING_KEY)
    return Joined(token.vpool, node, became, backend)


def _joining_key(files: CredentialFiles) -> tuple[str, bytes]:
    """(node id, key): those of an attempt before, or new ones; durable before anybody is asked."""
    path = files.directory / JOINING_KEY
    if path.exists():
        node, _, key = path.read_bytes().partition(b"\n")
        return node.decode("ascii"), key
    node_id, key = Identity.new("").node, peers.new_key()
    files.save(JOINING_KEY, node_id.encode("ascii") + b"\n" + key)
    return node_id, key


async def _ask_to_join(token: Token, asked: bytes) -> list[Any]:
    """Of the addresses in the token, the first that answers decides."""
    hello = Hello(peers.PROTOCOL, Purpose.JOIN, token.vpool, token.node, FORMAT_CLUSTER, "joining", time.time())
    problems = []
    for text in token.addresses:
        try:
            with trio.fail_after(JOIN_S):
                link = await peers.dial(
                    peers.parse_address(text), token.credentials, hello, node=None, frame_bytes_max=LINK_FRAME_BYTES_MAX
                )
                async with link:
                    await link.send(QUESTION + asked)
                    while (data := await link.receive())[:1] != ANSWER:
                        pass  # pings
            _, _, result = decode_answer(data[1:])
        except (Unavailable, trio.TooSlowError) as error:
            problems.append(f"{text}: {error if isinstance(error, Unavailable) else 'no answer in time'}")
            continue
        if isinstance(result, VPoolError):
            raise result
        return list(result)
    raise Unavailable("no node of the vPool answers at the addresses in the token: " + "; ".join(problems))


def ask(directory: Path, kind: str, *arguments: Any) -> Any:
    """Ask the registry that runs in DIR about its cluster (``registry.control``).

    Errors: ``Unavailable`` (none runs there, no answer in time), and what it answers.
    """
    deadline = time.monotonic() + ASK_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ASK_S)
        try:
            descriptor = os.open(directory / "registry", os.O_PATH | os.O_DIRECTORY)
            try:
                connection.connect(f"/proc/self/fd/{descriptor}/socket")
            finally:
                os.close(descriptor)
            connection.sendall(frame(encode_question(kind, 1, *arguments)))
            reader = FrameReader()
            while time.monotonic() < deadline:
                for data in reader.feed(connection.recv(1 << 16)):
                    _, _, result = decode_answer(data)
                    if isinstance(result, VPoolError):
                        raise result
                    return result
        except TimeoutError:
            pass
        except OSError as error:
            raise Unavailable(f"no registry answers in {directory}: {error.strerror}; start the node first") from None
    raise Unavailable("the registry does not answer in time; perhaps a majority of the voters is away", seconds=ASK_S)


def run_witness(directory: Path, settings: ClusterSettings, started: Callable[[], None]) -> int:
    """A voter without storage: the registry alone, in the foreground until a signal; its exit code."""
    from registry.server import main

    place = Place(directory)
    if place.identity is None:
        raise Invalid(f"{directory} is not a node yet; let it join with `vpool cluster join --witness`")
    cluster = cluster_place(place, place.identity, settings)
    if cluster is None:
        raise Invalid(f"{directory} belongs to a vPool of one node, which has no witness")
    if peers.role_of(CredentialFiles(place.cluster).load().identity) is not Role.WITNESS:
        raise Invalid(f"{directory} is a node with storage; run it with `vpool up` or `vpool serve`")
    place.lock()
    started()
    arguments = ["--dir", str(place.registry), "--node", place.identity.node, "--cluster", str(cluster.directory)]
    arguments += ["--vpool", cluster.vpool, "--format", str(cluster.format), "--listen", str(cluster.listen)]
    arguments += ["--advertise", str(cluster.advertise), "--name", cluster.name]
    return main(arguments)
