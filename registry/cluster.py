"""The cluster's affairs in the registry's process: who should be a member, letting others in, certificates, questions.

Commands of its own go through Raft like all others, in a session of its own (``<node>.registry``), and are said again until they
are answered. Everything runs on the registry's one loop; nothing in here waits.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers
from peers import Address, CredentialFiles, Hello, Peer, Role
from registry.admission import check_welcome
from registry.codec import Malformed, decode_outcome, encode_envelope
from registry.commands import Command, Envelope, Refusal, Result, SetNode
from registry.control import arguments_of, decode_answer, decode_question, encode_answer, encode_error, encode_question
from registry.links import ANSWER, QUESTION, PeerLinks
from registry.member_commands import Admit, ChangeMember, GrantToken, RemoveMember, SetRole
from registry.membership import Membership
from registry.model import MemberRecord, MemberRole, NodeStatus
from registry.raft import RaftNode
from registry.tables import Tables
from vpool import errors

SEEDS = "seeds.json"  # where others are, until the replica knows
CLOCKS_APART_S_MAX = 30.0
SAY_AGAIN_S = 1.0
HAND_ON_AGAIN_S = 0.5  # a node in maintenance that leads lets another do so
ROTATE_BEFORE = dt.timedelta(days=120)  # of a year: a certificate is changed when so much of its life is left
VOTERS_WANTED = 3

Answer = Callable[[Any | errors.VPoolError], None]


@dataclass(frozen=True, slots=True)
class ClusterPlace:
    """What a registry needs to take part in a cluster."""

    directory: Path  # DIR/cluster
    vpool: str
    format: int
    listen: Address
    advertise: Address
    name: str  # of the host


@dataclass(slots=True)
class _Own:
    """A command of this process that is not answered yet."""

    data: bytes
    said_at: float
    answer: Answer


def read_seeds(directory: Path) -> dict[str, str]:
    """Node id to address, as the node that let this one in knew them; empty for the first node of a cluster."""
    path = directory / SEEDS
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {str(node): str(address) for node, address in found.items()}


class ClusterDesk:
    """See the module. ``attach`` gives it Raft and links, once they are there."""

    def __init__(self, place: ClusterPlace, node: str) -> None:
        self.place, self.node = place, node
        self.credentials = CredentialFiles(place.directory)
        self.members: dict[str, MemberRecord] = {}
        self.wanted: Membership | None = None
        self._seeds = read_seeds(place.directory)
        self._backend = self._fingerprint = ""
        self._session = f"{node}.registry"
        self._incarnation = 0
        self._sequence = 0
        self._own: dict[int, _Own] = {}
        self._questions: dict[int, Answer] = {}
        self._question = 0
        self._looked_at_age_at = float("-inf")
        self._proposed: tuple[str, str] | None = None  # (address, serial) of this node, on its way into the registry
        self._in_maintenance = False
        self._hand_on_at = float("-inf")
        self._refresh_due = True
        self._longest_turn_s = self._longest_turn_cpu_s = 0.0  # since somebody asked

    def attach(self, raft: RaftNode, links: PeerLinks, tables: Callable[[], Tables]) -> None:
        """Before anything else."""
        self._raft, self._links, self._tables = raft, links, tables
        session = tables().session(self._session)
        self._incarnation = max(time.time_ns(), session[0] + 1 if session else 0)
        self.refresh()

    # -- what the state says -------------------------------------------------------------------------------------------

    def state_changed(self) -> None:
        """Members, tokens or certificates have changed, or the whole state has been replaced."""
        self._refresh_due = True

    def refresh(self) -> None:
        """Read the members again, if something has changed."""
        if not self._refresh_due:
            return
        self._refresh_due = False
        tables = self._tables()
        cluster = tables.cluster()
        self.members = {member.id: member for member in tables.members()}
        node = tables.node(self.node)
        self._in_maintenance = node is not None and node.status is NodeStatus.MAINTENANCE
        if cluster is not None:
            self._backend, self._fingerprint = cluster.backend, cluster.fingerprint
            present = [member for member in self.members.values() if not member.removed]
            voters = sorted(member.id for member in present if member.role is not MemberRole.REPLICA)
            replicas = sorted(member.id for member in present if member.role is MemberRole.REPLICA)
            self.wanted = Membership(tuple(voters), tuple(replicas))
            self._looked_at_age_at = float("-inf")
        for member in self.members.values():
            if member.removed:
                self._links.drop_node(member.id)

    def known(self) -> dict[str, str]:
        """Where members are."""
        if self.wanted is None:
            return self._seeds
        return {member.id: member.address for member in self.members.values() if not member.removed}

    def refuse(self, peer: Peer, hello: Hello) -> None:
        """Errors: ``Denied`` (see ``check_welcome``)."""
        check_welcome(self._tables(), peer, hello)

    def turned(self, seconds: float, cpu_seconds: float) -> None:
        """A turn of the loop took so long: with its disk, and without."""
        self._longest_turn_s = max(self._longest_turn_s, seconds)
        self._longest_turn_cpu_s = max(self._longest_turn_cpu_s, cpu_seconds)

    # -- each turn of the loop -----------------------------------------------------------------------------------------

    def tend(self) -> None:
        """What is due."""
        self.refresh()
        if self.wanted is not None:
            self._raft.change_membership(self.wanted)
        now = time.monotonic()
        if self._in_maintenance and now >= self._hand_on_at and self._raft.is_leader:
            self._hand_on_at = now + HAND_ON_AGAIN_S
            self._raft.hand_on()
        for own in self._own.values():
            if now - own.said_at >= SAY_AGAIN_S:
                self._propose(own)
        self._tell_where_this_is()
        self._rotate_when_old()

    def say_again(self) -> None:
        """There is another leader: what the last one was sent may be lost."""
        for own in self._own.values():
            own.said_at = float("-inf")

    def _tell_where_this_is(self) -> None:
        """Address and certificate of this node in the registry are to be those it has."""
        member = self.members.get(self.node)
        if member is None or member.removed or self._raft.leader is None:
            return
        if self._proposed is not None:
            return  # looked at; again after a rotation, or in the next life
        certificate = self.credentials.load().identity
        mine = (str(self.place.advertise), peers.serial_of(certificate))
        self._proposed = mine
        if (member.address, member.serial) != mine:
            until = dt.datetime.now(dt.UTC) + dt.timedelta(days=peers.NODE_DAYS)
            change = ChangeMember(self.node, *mine, int(until.timestamp() * 1e9), self.place.name)
            self.submit(change, lambda _: None)

    def _rotate_when_old(self) -> None:
        """Once an hour, and when the members have changed."""
        now = time.monotonic()
        if now - self._looked_at_age_at < 3600.0:
            return
        self._looked_at_age_at = now
        self._fetch_authority()
        if peers.expires_at(self.credentials.load().identity) - dt.datetime.now(dt.UTC) < ROTATE_BEFORE:
            with suppress(errors.VPoolError):  # in an hour again; `vpool cluster status` shows the date
                self._rotate(lambda _: None)

    def _fetch_authority(self) -> None:
        """A replica that has become a voter may let others in too."""
        member = self.members.get(self.node)
        if member is None or member.removed or member.role is not MemberRole.VOTER or self.credentials.authority() is not None:
            return

        def given(result: Any | errors.VPoolError) -> None:
            if isinstance(result, bytes):
                self.credentials.save(peers.AUTHORITY_KEY, result)
            else:
                self._looked_at_age_at = time.monotonic() - 3590.0  # in ten seconds again

        self._ask_others("authority", [], given, [m.id for m in self._voters() if m.id != self.node])

    # -- commands of its own -------------------------------------------------------------------------------------------

    def submit(self, command: Command, answer: Answer) -> None:
        """Have a command applied; ``answer`` gets its result, or the error that it was refused with."""
        self._sequence += 1
        data = encode_envelope(Envelope(self._session, self._incarnation, self._sequence, command))
        own = self._own[self._sequence] = _Own(data, float("-inf"), answer)
        self._propose(own)

    def _propose(self, own: _Own) -> None:
        """While nobody leads it waits."""
        if self._raft.leader is not None:
            own.said_at = time.monotonic()
            with suppress(errors.Unavailable):  # too many wait: in a second again
                self._raft.propose(own.data)

    def on_applied(self, envelope: Envelope, outcome: bytes) -> None:
        """Whatever has been applied here."""
        if type(envelope.command).__module__ == "registry.member_commands" or isinstance(envelope.command, SetNode):
            self.state_changed()
        if (envelope.node, envelope.incarnation) != (self._session, self._incarnation):
            return
        own = self._own.pop(envelope.sequence, None)
        if own is None:
            return
        self.refresh_later(own.answer, _result(decode_outcome(outcome)))

    def refresh_later(self, answer: Answer, result: Any | errors.VPoolError) -> None:
        """Answer; the members are read again first, so that what follows sees the change."""
        self._refresh_due = True
        answer(result)

    # -- questions -----------------------------------------------------------------------------------------------------

    def on_local(self, kind: str, arguments: list[Any], answer: Answer) -> None:
        """A question on the local socket. Errors: ``Malformed``, ``VPoolError`` (the answer)."""
        if kind == "status":
            arguments_of(arguments)
            answer(self._status())
        elif kind == "token":
            (life_s,) = arguments_of(arguments, int)
            self._token(life_s, answer)
        elif kind == "remove":
            (node,) = arguments_of(arguments, str)
            self.submit(RemoveMember(self._member_named(node), time.time_ns()), _without_result(answer))
        elif kind == "role":
            node, role = arguments_of(arguments, str, str)
            self.submit(SetRole(self._member_named(node), _role(role)), _without_result(answer))
        elif kind == "rotate":
            arguments_of(arguments)
            self._rotate(answer)
        else:
            raise Malformed("not a question for this socket")

    def on_link_frame(self, peer: Peer, hello: Hello, data: bytes) -> None:
        """A question of another node or of the bearer of a token, or an answer. Errors: ``Malformed``."""
        if data[:1] == ANSWER:
            kind, number, found = decode_answer(data[1:])
            waiting = self._questions.pop(number, None)
            if waiting is not None and peer.role is not Role.JOIN:
                waiting(found)
            return
        kind, number, arguments = decode_question(data[1:])
        say = self._links.answering()

        def answer(result: Any | errors.VPoolError) -> None:
            failed = isinstance(result, errors.VPoolError)
            say(ANSWER + (encode_error(kind, number, result) if failed else encode_answer(kind, number, result)))

        try:
            self._on_question(peer, kind, arguments, answer)
        except errors.VPoolError as error:
            answer(error)

    def _on_question(self, peer: Peer, kind: str, arguments: list[Any], answer: Answer) -> None:
        if peer.role is Role.JOIN:
            if kind != "join":
                raise errors.Denied("a join token is good for joining only")
            self._join(peer, arguments, answer)
        elif kind == "sign":
            (csr,) = arguments_of(arguments, bytes)
            answer(self._sign_for(peer, csr))
        elif kind == "authority":
            answer(self._authority_for(peer))
        else:
            raise errors.Invalid("a node does not ask that of another", kind=kind)

    def _ask_others(self, kind: str, arguments: list[Any], answer: Answer, nodes: list[str]) -> None:
        """One after the other until one has an answer that is not an error."""
        if not nodes:
            answer(errors.Unavailable("no voter that could answer is connected", question=kind))
            return
        first, rest = nodes[0], nodes[1:]

        def answered(result: Any | errors.VPoolError) -> None:
            if isinstance(result, errors.VPoolError) and rest:
                self._ask_others(kind, arguments, answer, rest)
            else:
                answer(result)

        self._question += 1
        self._questions[self._question] = answered
        if not self._links.say(first, QUESTION + encode_question(kind, self._question, *arguments)):
            del self._questions[self._question]
            answered(errors.Unavailable("the node is not connected", node=first))

    # -- letting in ----------------------------------------------------------------------------------------------------

    def _authority(self) -> peers.Authority:
        authority = self.credentials.authority()
        if authority is None:
            others = [f"{member.name or member.id[:8]} ({member.address})" for member in self._voters()]
            raise errors.Denied("this node does not have the authority's key; ask a voter", voters=", ".join(others) or "none")
        return authority

    def _voters(self) -> list[MemberRecord]:
        return [m for m in self.members.values() if m.role is MemberRole.VOTER and not m.removed]

    def _token(self, life_s: int, answer: Answer) -> None:
        if self.wanted is None:
            raise errors.Conflict("this vPool is no cluster; make it one with `vpool cluster init`")
        addresses = [str(self.place.advertise)] + [m.address for m in self._voters() if m.id != self.node]
        now = dt.datetime.now(dt.UTC)
        text, serial = peers.make_token(self._authority(), self.place.vpool, tuple(addresses), now, life_s)
        expires_ns = int((now.timestamp() + life_s) * 1e9)

        def granted(result: Any | errors.VPoolError) -> None:
            answer(result if isinstance(result, errors.VPoolError) else text)

        self.submit(GrantToken(serial, expires_ns, time.time_ns()), granted)

    def _join(self, peer: Peer, arguments: list[Any], answer: Answer) -> None:
        """``[csr, address, role ("" for what is best), host's name, the joiner's clock]``."""
        csr, address, role_name, name, unix_s = arguments_of(arguments, bytes, str, str, str, float)
        authority = self._authority()
        apart = abs(unix_s - time.time())
        if apart > CLOCKS_APART_S_MAX:
            raise errors.Invalid(
                f"the clocks of the two hosts are {apart:.0f} s apart, at most {CLOCKS_APART_S_MAX:.0f} s are allowed; "
                "set them by NTP first"
            )
        node = peers.requested_by(csr)
        peers.parse_address(address)
        voters = [member for member in self.members.values() if member.role is not MemberRole.REPLICA and not member.removed]
        best = MemberRole.VOTER if len(voters) < VOTERS_WANTED else MemberRole.REPLICA
        role = _role(role_name) if role_name else best
        serial = peers.new_serial()

        def admitted(result: Any | errors.VPoolError) -> None:
            if isinstance(result, errors.VPoolError):
                answer(result)
                return
            assert isinstance(result, MemberRecord)
            answer(self._welcome(authority, csr, result))

        command = Admit(peer.serial, node, address, role, peers.serial_text(serial), time.time_ns(), name[:255])
        self.submit(command, admitted)

    def _welcome(self, authority: peers.Authority, csr: bytes, member: MemberRecord) -> list[Any]:
        """What a new member needs: certificate, where the others are, backend, role; the authority's key if it may have that."""
        role = Role.WITNESS if member.role is MemberRole.WITNESS else Role.NODE
        certificate = peers.sign(
            authority, csr, self.place.vpool, role, int(member.serial, 16), dt.datetime.now(dt.UTC), peers.NODE_DAYS
        )
        key = authority.key if member.role is MemberRole.VOTER else b""
        return [certificate, self.known() | {self.node: str(self.place.advertise)}, self._backend, member.role.value, key]

    # -- certificates --------------------------------------------------------------------------------------------------

    def _sign_for(self, peer: Peer, csr: bytes) -> bytes:
        """Another certificate for a member that has one."""
        member = self.members.get(peer.node)
        if member is None or member.removed or peers.requested_by(csr) != peer.node:
            raise errors.Denied("only a member gets a certificate, and for itself", node=peer.node)
        return self._signed(self._authority(), csr, peer.role)

    def _signed(self, authority: peers.Authority, csr: bytes, role: Role) -> bytes:
        return peers.sign(authority, csr, self.place.vpool, role, peers.new_serial(), dt.datetime.now(dt.UTC), peers.NODE_DAYS)

    def _authority_for(self, peer: Peer) -> bytes:
        member = self.members.get(peer.node)
        if peer.role is not Role.NODE or member is None or member.removed or member.role is not MemberRole.VOTER:
            raise errors.Denied("only a voter with storage gets the authority's key", node=peer.node)
        return self._authority().key

    def _rotate(self, answer: Answer) -> None:
        """Another key and certificate for this node; the old one is taken back as soon as the registry knows the new one."""
        key = peers.new_key()
        csr = peers.request(key, self.node)

        def signed(result: Any | errors.VPoolError) -> None:
            if isinstance(result, errors.VPoolError):
                answer(result)
                return
            self.credentials.save(peers.IDENTITY, result + key)
            self._proposed = None
            answer(peers.serial_of(result))

        member = self.members.get(self.node)
        if member is None or member.removed:
            raise errors.Conflict("this node is not a member (any more)", node=self.node)
        authority = self.credentials.authority()
        if authority is not None:
            signed(self._signed(authority, csr, Role.NODE))
        else:
            self._ask_others("sign", [csr], signed, [m.id for m in self._voters() if m.id != self.node])

    # -- what there is -------------------------------------------------------------------------------------------------

    def _member_named(self, text: str) -> str:
        """A member's id, by id, its beginning, or its host's name. Errors: ``NotFound``, ``Invalid`` (of several)."""
        if text in self.members:
            return text
        found = [m.id for m in self.members.values() if not m.removed and text and (m.name == text or m.id.startswith(text))]
        if not found:
            raise errors.NotFound(f"no member {text!r}; `vpool cluster status` shows all")
        if len(found) > 1:
            raise errors.Invalid(f"{text!r} means several members; write more of the id", members=", ".join(found))
        return found[0]

    def _status(self) -> dict[str, Any]:
        raft, progress = self._raft, self._raft.progress
        links = {state.node: state for state in self._links.states()}
        identity = self.credentials.load().identity
        membership = raft.membership
        longest, self._longest_turn_s = self._longest_turn_s, 0.0
        longest_cpu, self._longest_turn_cpu_s = self._longest_turn_cpu_s, 0.0
        return {
            "longest_turn_ms": round(longest * 1e3, 1),
            "longest_turn_cpu_ms": round(longest_cpu * 1e3, 1),
            "vpool": self.place.vpool,
            "node": self.node,
            "leader": raft.leader or "",
            "term": progress.term,
            "committed": progress.committed,
            "applied": progress.applied,
            "authority": self._fingerprint,
            "certificate_expires": peers.expires_at(identity).isoformat(),
            "members": [
                {
                    "id": member.id,
                    "name": member.name,
                    "address": member.address,
                    "role": member.role.value,
                    "state": _state_of(member, membership),
                    "connected": member.id == self.node or (member.id in links and links[member.id].connected),
                    "problem": links[member.id].problem if member.id in links else "",
                    "confirmed": progress.committed if member.id == self.node else progress.matched.get(member.id, 0),
                }
                for member in self.members.values()
                if not member.removed
            ],
            "removed": [member.id for member in self.members.values() if member.removed],
        }


def _state_of(member: MemberRecord, membership: Membership) -> str:
    """What Raft makes of a member now."""
    if member.id in membership.voters:
        return "votes" if member.role is not MemberRole.REPLICA else "leaving the voters"
    if member.id in membership.learners:
        return "receives" if member.role is MemberRole.REPLICA else "catching up"
    return "joining"


def _role(text: str) -> MemberRole:
    try:
        return MemberRole(text)
    except ValueError:
        raise errors.Invalid(f"{text!r} is not a role; there are {', '.join(role.value for role in MemberRole)}") from None


def _without_result(answer: Answer) -> Answer:
    def answered(result: Any | errors.VPoolError) -> None:
        answer(result if isinstance(result, errors.VPoolError) else None)

    return answered


def _result(outcome: Result | Refusal) -> Any | errors.VPoolError:
    if isinstance(outcome, Refusal):
        kind: type[errors.VPoolError] = getattr(errors, outcome.kind)
        return kind(outcome.message, **dict(outcome.details))
    return outcome
