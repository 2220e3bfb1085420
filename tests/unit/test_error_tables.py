"""Each edge's table of errors is total: a new error class without a row would reach clients as the wrong thing."""

from __future__ import annotations

import errno

import pytest

from admin.statuses import STATUSES, status_of
from fuse.errnos import ERRNOS, REASON_ERRNOS, errno_of
from registry.commands import REASONS
from vpool import errors
from vpool.errors import Conflict, Invalid, VPoolError
from vpool.exitcodes import EXIT_CODES, INTERRUPTED, LEFT_IN_CACHE, REGISTRY_UNTOLD, STOP_TIMED_OUT, exit_code

ALL = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, VPoolError) and kind is not VPoolError
]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_has_a_row_at_every_edge(kind: type[VPoolError]) -> None:
    assert kind in ERRNOS
    assert kind in STATUSES
    assert kind in EXIT_CODES


def test_exit_codes_tell_all_errors_apart() -> None:
    codes = [*EXIT_CODES.values(), INTERRUPTED, LEFT_IN_CACHE, STOP_TIMED_OUT, REGISTRY_UNTOLD, 0]
    assert len(set(codes)) == len(codes)


def test_what_is_not_ours_is_internal() -> None:
    assert exit_code(KeyError("x")) == 1
    assert status_of(KeyError("x")) == 500


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Conflict("in use"), errno.EBUSY),
        (Conflict("not empty", reason="not_empty"), errno.ENOTEMPTY),
        (Invalid("wrong"), errno.EINVAL),
        (Invalid("dir", reason="is_directory"), errno.EISDIR),
        (Invalid("wrong", reason="something new"), errno.EINVAL),
    ],
)
def test_reasons_make_an_errno_more_precise(error: VPoolError, code: int) -> None:
    assert errno_of(error) == code


def test_every_reason_of_the_registry_that_clients_can_meet_has_an_errno() -> None:
    ownership = {"owner_alive", "steal", "attempt", "dtl", "loss", "peer_unfenced", "node_status", "incarnation"}
    internal = {"epoch", "handles", "previous"} | ownership
    assert set(REASONS) - internal <= set(REASON_ERRNOS)
