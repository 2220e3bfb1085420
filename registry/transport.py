"""The seam between Raft and the wire: PySyncObj's ``Transport`` with plain-data frames, and what a message may look like. Pure.

PySyncObj's own TCP transport pickles, and unpickles what anybody sends; nothing of it is used. A transport here hands over bytes
of msgpack, checked field by field (``check_message``) before Raft sees them. The one for several real hosts (mutually
authenticated TLS) is to be a subclass of :class:`FrameTransport` that authenticates before it calls ``receive``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from pysyncobj.node import Node
from pysyncobj.transport import Transport

from registry.codec import Malformed, pack, unpack

Message = dict[str, Any]

_INDEX = "index"  # a number ≥ 0
_FIELDS: dict[str, dict[str, object]] = {
    "pre_vote": {"term": _INDEX, "last_log_index": _INDEX, "last_log_term": _INDEX},
    "pre_vote_reply": {"term": _INDEX, "current": _INDEX, "granted": bool},
    "read_index": {"number": _INDEX},
    "read_index_reply": {"number": _INDEX, "index": _INDEX},
    "timeout_now": {"term": _INDEX},
    "request_vote": {"term": _INDEX, "last_log_index": _INDEX, "last_log_term": _INDEX, "by_leader": bool},
    "response_vote": {"term": _INDEX, "granted": bool},
    "append_entries": {
        "term": _INDEX,
        "session": _INDEX,
        "round": _INDEX,
        "commit_index": _INDEX,
        "prevLogIdx": _INDEX,
        "prevLogTerm": _INDEX,
        "entries": "entries",
    },
    "next_node_idx": {"term": _INDEX, "session": _INDEX, "round": _INDEX, "next_node_idx": _INDEX, "success": bool},
    "install_snapshot": {
        "term": _INDEX,
        "session": _INDEX,
        "round": _INDEX,
        "voters": "ids",
        "learners": "ids",
        "index": _INDEX,
        "index_term": _INDEX,
        "number": _INDEX,
        "items": "items",
        "done": bool,
        "checksum": _INDEX,
    },
    "snapshot_reply": {"term": _INDEX, "session": _INDEX, "round": _INDEX, "number": _INDEX, "success": bool},
    "apply_command": {"command": bytes},
}


def check_message(message: Any) -> Message:
    """A message whose fields all have the right types. Errors: ``Malformed``."""
    wanted = _FIELDS.get(message.get("type", "")) if isinstance(message, dict) else None
    if wanted is None or set(message) != {"type", *wanted}:
        raise Malformed("not a message of raft")
    for name, kind in wanted.items():
        if not _fits(kind, message[name]):
            raise Malformed(f"{message['type']}.{name} is not what it should be")
    return dict(message)


def _fits(kind: object, value: Any) -> bool:
    if kind == _INDEX:
        return type(value) is int and value >= 0
    if kind == "entries":
        return isinstance(value, list) and all(
            isinstance(row, list) and len(row) == 3 and [type(field) for field in row] == [bytes, int, int] for row in value
        )
    if kind == "items":
        return isinstance(value, list) and all(
            isinstance(row, list) and len(row) == 2 and [type(field) for field in row] == [bytes, bytes] for row in value
        )
    if kind == "ids":
        return isinstance(value, list) and all(isinstance(node, str) for node in value) and value == sorted(set(value))
    return type(value) is kind


class FrameTransport(Transport):  # type: ignore[misc]
    """Turns messages into frames. A subclass moves the frames, in order per link, and says when links come and go."""

    def __init__(self) -> None:
        super().__init__(None, None, [])

    @property
    def ready(self) -> bool:
        return True

    def waitReady(self) -> None:  # noqa: N802
        """Always."""

    def addNode(self, node: Node) -> None:  # noqa: N802
        """Links belong to the subclass."""

    def dropNode(self, node: Node) -> None:  # noqa: N802
        """Links belong to the subclass."""

    def destroy(self) -> None:
        """Links belong to the subclass."""

    def send(self, node: Node, message: Message) -> bool:
        return self.send_frame(node.id, pack(message))

    def receive(self, peer: str, frame: bytes) -> None:
        """Hand a frame of an authenticated peer to Raft.

        Errors: ``Malformed`` (drop the link); what Raft raises stops the node.
        """
        self._onMessageReceived(Node(peer), check_message(unpack(frame)))

    def connected(self, peer: str) -> None:
        """A link is up; nothing sent before will arrive any more."""
        self._onNodeConnected(Node(peer))

    def disconnected(self, peer: str) -> None:
        """A link is down; what was under way is lost."""
        self._onNodeDisconnected(Node(peer))

    def flush(self) -> None:
        """Let what has been queued leave now; a subclass that gathers frames does it here."""

    @abstractmethod
    def send_frame(self, peer: str, frame: bytes) -> bool:
        """Queue a frame; False if the link is down."""


class NoPeers(FrameTransport):
    """For a registry of one node."""

    def send_frame(self, peer: str, frame: bytes) -> bool:
        return False
