"""What an HTTP status of a store means, where S3 and Swift agree. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from vpool.errors import Corrupt, Denied, Invalid, NotFound, Unavailable, VPoolError

_RETRY_AFTER_S_MAX = 60.0
_PAUSE = {429, 498, 503}  # 498: Swift's own "rate limited"
_AGAIN = {408, 425, 499}  # time-outs that come as client errors


class Slow(Unavailable):
    """The store asks for a pause. Outside this room it is an ``Unavailable`` like any other."""

    def __init__(self, message: str, *, retry_after_s: float, **details: object) -> None:
        """Remember the pause that the store asked for."""
        super().__init__(message, **details)
        self.retry_after_s = retry_after_s


def error_of_status(status: int, headers: Mapping[str, str], **details: object) -> VPoolError:
    """The error that an HTTP status stands for, unless the kind of store knows better. Total.

    Args:
        status: not 2xx.
        headers: of the answer, names in lower case.
        details: for the error.
    """
    details["status"] = status
    if status in _PAUSE:
        return Slow("the store asks to slow down", retry_after_s=_retry_after_s(headers), **details)
    if status >= 500 or status in _AGAIN or status < 200:
        return Unavailable("the store fails", **details)
    if status == 401:
        return Denied("the store does not accept the credentials; check name and key in the environment", **details)
    if status == 403:
        return Denied("the credentials are accepted, but lack a permission; check the roles or policies of the user", **details)
    if status == 404:
        return NotFound("no such bucket or object", **details)
    if status in (413, 507):
        return Unavailable("a quota or the store itself is full; raise the quota or make room", **details)
    if status == 422:
        return Corrupt("the store received other bytes than were sent", **details)
    if status in (301, 302, 303, 307, 308):
        return Denied(
            "the store is elsewhere: wrong endpoint or region in its address", location=headers.get("location"), **details
        )
    return Invalid("the store refuses the request as malformed", **details)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """The pause that ``Retry-After`` asks for in seconds; its form as a date is not used by stores and counts as none."""
    text = headers.get("retry-after", "")
    return min(float(text), _RETRY_AFTER_S_MAX) if text.isdecimal() else 0.0
