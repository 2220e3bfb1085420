"""Whether objects of a node are mirrored, by whom, and how patiently: what settings and registry say. Pure but for the view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from registry import MemberRole, RegistryView
from volumedriver import DtlTimings, choose_peer

VOTERS_FOR_DTL = 3


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    """What an operator may set.

    Attributes:
        mode: of objects for which nobody has said anything; "auto": synchronous if there are three voters or more, else off.
        change_peer_s: how long a peer may be away before another is chosen.
    """

    mode: Literal["auto", "sync", "async", "off"] = "auto"
    change_peer_s: float = 10.0
    timings: DtlTimings = DtlTimings()  # noqa: RUF009  # frozen


class MirrorPolicy:
    """See above."""

    def __init__(self, view: RegistryView, node: str, settings: MirrorSettings) -> None:
        self._view, self._node, self._settings = view, node, settings
        self.timings = settings.timings
        self.change_peer_s = settings.change_peer_s
        self.avoid_s = 6 * settings.change_peer_s

    @property
    def is_asynchronous(self) -> bool:
        """The way for objects that nobody has decided on."""
        return self._settings.mode == "async"

    def is_wanted(self) -> bool:
        """Whether an object that nobody has decided on is to be mirrored."""
        if self._settings.mode != "auto":
            return self._settings.mode != "off"
        voters = [member for member in self._view.members() if not member.removed and member.role is not MemberRole.REPLICA]
        return len(voters) >= VOTERS_FOR_DTL

    def choose(self, object_id: str, away: frozenset[str]) -> str:
        """A peer; "": there is none to be had."""
        return choose_peer(object_id, self._node, self._view.nodes(), away)
