"""The one hierarchy of errors. A class exists only where a caller acts differently.

Every error carries a sentence for people and ``details`` for the log (``key=value``). The tables that turn
a class into an errno, an HTTP status or an exit code stand beside the edge that uses them.

This module imports nothing of the project, so that every room may use it.
"""

from __future__ import annotations


class VPoolError(Exception):
    """Base of all errors of the project; never raised itself."""

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __str__(self) -> str:
        facts = " ".join(f"{key}={value}" for key, value in self.details.items())
        return f"{self.message} ({facts})" if facts else self.message


class Unavailable(VPoolError):
    """Something needed does not answer now; the same request may succeed later. The outcome may be unknown."""


class Moved(VPoolError):
    """Another node owns the object now; ask the registry again."""


class Fenced(VPoolError):
    """The caller's epoch or incarnation is over; it must not retry under it."""


class NotFound(VPoolError):
    """The named thing does not exist."""


class Exists(VPoolError):
    """The name is taken."""


class Conflict(VPoolError):
    """The state is not the one the request was made for (compare-and-set failed, in use, not empty)."""


class Invalid(VPoolError):
    """The request itself is wrong; the message says what would be right. Nothing has changed."""


class Denied(VPoolError):
    """Credentials or permissions are wrong; retrying will not help."""


class NoSpace(VPoolError):
    """A limit of a disk or of a setting has been reached."""


class Corrupt(VPoolError):
    """Data do not match their checksum and no good copy is at hand. Never returned as data."""


class Halted(VPoolError):
    """The object refuses service to protect data; the message says why and what to do."""


class Internal(VPoolError):
    """A broken assumption in our own code."""
