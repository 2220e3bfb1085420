"""How a command says no: ``Refused`` is raised inside the state machine, and becomes the ``Refusal`` that travels. Pure."""

from __future__ import annotations

from registry.commands import ErrorKind, Refusal


class Refused(Exception):
    """A command that is not applied; carries what the caller is told."""

    def __init__(self, kind: ErrorKind, message: str, /, **details: str | int) -> None:
        super().__init__(message)
        self.refusal = Refusal(kind, message, tuple(sorted(details.items())))
