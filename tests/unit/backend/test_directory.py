"""What a file system answers, in our kinds; and that a listing whose page is tried again misses nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from backend import open_store
from backend.directory import DirectoryRequests, translate
from vpool.errors import Denied, Internal, Unavailable, VPoolError


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EACCES, Denied, "permissions"),
        (errno.EROFS, Denied, "read-only"),
        (errno.ENOSPC, Unavailable, "full"),
        (errno.EDQUOT, Unavailable, "full"),
        (errno.EIO, Unavailable, "fails"),
        (errno.EMFILE, Unavailable, "fails"),
    ],
)
def test_errors_of_the_file_system_have_kinds(number: int, kind: type[VPoolError], words: str) -> None:
    error = translate(OSError(number, os.strerror(number), "/srv/a"))
    assert type(error) is kind
    assert words in str(error)


def test_what_is_no_error_of_the_file_system_is_internal() -> None:
    assert isinstance(translate(ZeroDivisionError()), Internal)


def test_a_page_that_is_tried_again_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    """The walk of a try that failed is lost; the next one starts above the last name, not at the end."""
    requests = DirectoryRequests(tmp_path / "store", 3)
    requests.create_bucket("vol-a")
    names = sorted(f"{kind}/{number}" for kind in ("map", "sco", "sco.x", "tlog") for number in range(5))
    for name in names:
        requests.put("vol-a", name, b"")
    page, cursor = requests.page("vol-a", "", None)
    seen = [info.name for info in page]
    while cursor is not None:
        cursor.walk = None  # as after a try that was abandoned with it
        page, cursor = requests.page("vol-a", "", cursor)
        seen += [info.name for info in page]
    requests.close()
    assert seen == names


async def test_a_store_whose_directory_is_gone_is_closed_quietly(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/store")
    (tmp_path / "store").rename(tmp_path / "away")
    (tmp_path / "store").touch()  # ENOTDIR for all that is below
    await store.aclose()
