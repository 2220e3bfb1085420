"""Errors of the project as HTTP status: one table, total over ``vpool.errors``. Pure."""

from __future__ import annotations

from http import HTTPStatus

from vpool.errors import (
    Conflict,
    Corrupt,
    Denied,
    Exists,
    Fenced,
    Halted,
    Internal,
    Invalid,
    Moved,
    NoSpace,
    NotFound,
    Unavailable,
    VPoolError,
)

STATUSES: dict[type[VPoolError], HTTPStatus] = {
    Invalid: HTTPStatus.BAD_REQUEST,
    Denied: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Exists: HTTPStatus.CONFLICT,
    Conflict: HTTPStatus.CONFLICT,
    Fenced: HTTPStatus.GONE,
    Moved: HTTPStatus.MISDIRECTED_REQUEST,
    Halted: HTTPStatus.LOCKED,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    NoSpace: HTTPStatus.INSUFFICIENT_STORAGE,
    Corrupt: HTTPStatus.INTERNAL_SERVER_ERROR,
    Internal: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def kind_of(error: BaseException) -> type[VPoolError]:
    """The class of the table that an error belongs to; anything that is not ours is internal."""
    return next((kind for kind in STATUSES if isinstance(error, kind)), Internal)


def status_of(error: BaseException) -> HTTPStatus:
    """The HTTP status that a client of the management API gets."""
    return STATUSES[kind_of(error)]
