"""The state machine: ``apply(view, envelope) -> outcome``. Deterministic: no clock, no I/O, no random. Pure.

All or nothing: a command works on an overlay that is merged only when it succeeds, so what is refused has changed nothing.
Whatever else goes wrong in here is a defect or a damaged view: the exception leaves ``apply`` and must stop the node.

At most once: the outcomes of a node's last ``WINDOW`` sequences are remembered in the view, and a repeated envelope gets
the outcome it got the first time. A client keeps fewer than ``WINDOW`` commands under way, so what falls out of the window has
been answered. A new incarnation of a node begins an empty session, and the older one is refused (``Fenced``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from registry import attributes, members, namespace, nodes, objects, ownership, settling
from registry import commands as c
from registry import member_commands as mc
from registry.codec import decode_envelope, decode_outcome, encode_outcome
from registry.kv import Overlay, View
from registry.refusals import Refused
from registry.tables import NUMBER_MAX, WritableTables, is_node_id

WINDOW = 1024

_HANDLERS: dict[type, Callable[[WritableTables, c.Envelope, Any], c.Result]] = {
    c.Initialise: nodes.initialise,
    c.RegisterNode: nodes.register_node,
    c.RenewLease: nodes.renew_lease,
    c.Expire: nodes.expire,
    c.Create: namespace.create,
    c.Rename: namespace.rename,
    c.Link: namespace.link,
    c.Unlink: namespace.unlink,
    c.RemoveDirectory: namespace.remove_directory,
    c.SetAttributes: namespace.set_attributes,
    c.OpenHandle: objects.open_handle,
    c.CloseHandle: objects.close_handle,
    c.CreateObject: objects.create_object,
    c.NewEpoch: ownership.new_epoch,
    c.Transfer: ownership.transfer,
    c.Abort: ownership.abort,
    c.ProposeDtl: ownership.propose_dtl,
    c.Steal: ownership.steal,
    c.DropRemains: ownership.drop_remains,
    c.SetNode: nodes.set_node,
    c.AdvanceHeads: objects.advance_heads,
    c.Publish: objects.publish,
    c.Resize: objects.resize,
    c.Condemn: objects.condemn,
    c.Forget: objects.forget,
    c.Halt: objects.halt,
    c.Unhalt: objects.unhalt,
    c.Settle: settling.settle,
    c.ForgetFiles: settling.forget_files,
    c.Relocate: settling.relocate,
    c.SetAttribute: attributes.set_attribute,
    c.RemoveAttribute: attributes.remove_attribute,
    mc.FormCluster: members.form_cluster,
    mc.GrantToken: members.grant_token,
    mc.Admit: members.admit,
    mc.SetRole: members.set_role,
    mc.RemoveMember: members.remove_member,
    mc.ChangeMember: members.change_member,
    mc.RevokeCertificate: members.revoke_certificate,
}
_OF_THE_CLUSTER = (
    mc.FormCluster,
    mc.GrantToken,
    mc.Admit,
    mc.SetRole,
    mc.RemoveMember,
    mc.ChangeMember,
    mc.RevokeCertificate,
)
_WITHOUT_REGISTRATION = (c.Initialise, c.RegisterNode, *_OF_THE_CLUSTER)


def apply(view: View, envelope: c.Envelope) -> c.Result | c.Refusal:
    """Apply a command, or give the answer it got before."""
    return decode_outcome(_apply(view, envelope))


def apply_bytes(view: View, data: bytes) -> tuple[c.Envelope, bytes]:
    """The same for an encoded envelope, as it stands in the log; the outcome is encoded too."""
    envelope = decode_envelope(data)
    return envelope, _apply(view, envelope)


def _apply(view: View, envelope: c.Envelope) -> bytes:
    tables = WritableTables(view)
    if not (is_node_id(envelope.node) and 0 < envelope.incarnation < NUMBER_MAX and 0 < envelope.sequence < NUMBER_MAX):
        return encode_outcome(c.Refusal("Invalid", "an envelope has a node id, and positive incarnation and sequence"))
    session = tables.session(envelope.node)
    if session is not None and session[0] == envelope.incarnation:
        remembered = tables.remembered(envelope.node, envelope.sequence)
        if remembered is not None:
            return remembered
        if envelope.sequence <= session[1] - WINDOW:
            return encode_outcome(c.Refusal("Conflict", "the sequence is too old to be remembered", (("top", session[1]),)))
    fenced = _fenced(tables, envelope, session)
    if fenced is not None:
        return encode_outcome(fenced)
    overlay = Overlay(view)
    outcome: c.Result | c.Refusal
    try:
        outcome = _HANDLERS[type(envelope.command)](WritableTables(overlay), envelope, envelope.command)
    except Refused as refused:
        outcome = refused.refusal
        if session is None or session[0] != envelope.incarnation:
            return encode_outcome(outcome)  # a stranger's refusal must not begin a session, which would end the one there is
    else:
        overlay.merge()
    data = encode_outcome(outcome)
    _remember(tables, envelope, data)
    return data


def _fenced(tables: WritableTables, envelope: c.Envelope, session: tuple[int, int] | None) -> c.Refusal | None:
    node = tables.node(envelope.node)
    if (session is not None and session[0] > envelope.incarnation) or (
        node is not None and node.incarnation > envelope.incarnation
    ):
        return c.Refusal("Fenced", "a later incarnation of the node is known", (("node", envelope.node),))
    if isinstance(envelope.command, _WITHOUT_REGISTRATION):
        return None
    if node is None or node.incarnation != envelope.incarnation:
        return c.Refusal("Fenced", "this incarnation has not registered", (("node", envelope.node),))
    if node.expired:
        return c.Refusal("Fenced", "the node has expired; it must register with a new incarnation", (("node", envelope.node),))
    return None


def _remember(tables: WritableTables, envelope: c.Envelope, outcome: bytes) -> None:
    session = tables.session(envelope.node)
    if session is None or session[0] != envelope.incarnation:
        tables.forget_outcomes(envelope.node)
        session = (envelope.incarnation, 0)
    top = max(session[1], envelope.sequence)
    for old in range(max(1, session[1] - WINDOW + 1), top - WINDOW + 1):
        tables.forget_outcome(envelope.node, old)
    tables.put_session(envelope.node, envelope.incarnation, top)
    tables.remember(envelope.node, envelope.sequence, outcome)
