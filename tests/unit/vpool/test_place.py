"""DIR: whose it is and who may use it; a mistake here overwrites somebody's data or runs two daemons on them."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from vpool.errors import Conflict, Denied, Invalid, NoSpace, VPoolError
from vpool.place import FORMAT_NEWEST, FORMAT_OLDEST, Place


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def test_looking_changes_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path / "pool")
    place.backend_url(None)
    place.check_room(1)
    place.lock()
    assert files(tmp_path) == set()


def test_a_new_place_is_marked_and_found_again(tmp_path: Path) -> None:
    place = Place(tmp_path / "pool")
    made = place.settle(place.backend_url(None))
    again = Place(tmp_path / "pool")
    assert again.identity == made
    assert again.backend_url(None) == f"dir:{tmp_path}/pool/backend"


def test_the_cache_may_be_deleted(tmp_path: Path) -> None:
    first = Place(tmp_path / "pool")
    made = first.settle(first.backend_url(None))
    first.cache.rmdir()
    again = Place(tmp_path / "pool")
    first.unlock()
    assert again.settle(again.backend_url(None)) == made
    assert again.cache.is_dir()


def test_a_directory_may_be_moved_with_its_embedded_backend(tmp_path: Path) -> None:
    place = Place(tmp_path / "pool")
    place.settle(place.backend_url(None))
    (tmp_path / "pool").rename(tmp_path / "elsewhere")
    assert Place(tmp_path / "elsewhere").backend_url(None) == f"dir:{tmp_path}/elsewhere/backend"


def test_another_backend_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path / "pool")
    place.settle(place.backend_url("dir:/srv/one"))
    again = Place(tmp_path / "pool")
    assert again.backend_url("dir:/srv/one") == again.backend_url(None) == "dir:/srv/one"
    with pytest.raises(Invalid, match="belongs to the backend dir:/srv/one, not dir:/srv/two"):
        again.backend_url("dir:/srv/two")


def test_somebody_elses_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(Invalid, match=r"not a vPool and not empty \(it has 'letter.txt'\)"):
        Place(tmp_path)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Invalid, match="is not a directory"):
        Place(tmp_path / "file")


def test_a_missing_parent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot be made"):
        Place(tmp_path / "a" / "b")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path / "pool")
    place.settle(place.backend_url(None))
    content = json.loads(place.marker.read_text())
    place.marker.write_text(json.dumps(content | {"format": FORMAT_NEWEST + 1, "shape": "new"}))
    with pytest.raises(Invalid, match=f"has format {FORMAT_NEWEST + 1}, made by a newer release"):
        Place(tmp_path / "pool")


def test_an_older_format_is_upgraded_only_when_the_place_is_taken(tmp_path: Path) -> None:
    place = Place(tmp_path / "pool")
    made = place.settle(place.backend_url(None))
    place.unlock()
    content = json.loads(place.marker.read_text())
    place.marker.write_text(json.dumps(content | {"format": FORMAT_OLDEST}))
    again = Place(tmp_path / "pool")
    assert again.identity is not None
    assert again.identity.format == json.loads(place.marker.read_text())["format"] == FORMAT_OLDEST
    assert again.settle(again.backend_url(None)) == made
    assert json.loads(place.marker.read_text()) == content


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "1"}', '{"format": 1}'])
def test_a_broken_marker_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "vpool.json").write_text(text)
    with pytest.raises(Invalid, match=r"vpool\.json"):
        Place(tmp_path)
    assert (tmp_path / "vpool.json").read_text() == text


def test_a_place_in_use_is_refused(tmp_path: Path) -> None:
    first = Place(tmp_path / "pool")
    first.settle(first.backend_url(None))
    second = Place(tmp_path / "pool")
    with pytest.raises(Conflict, match="in use by a running daemon"):
        second.lock()
    first.unlock()
    second.lock()


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match=r"cache\.size_bytes is 1024 TiB"):
        Place(tmp_path / "pool").check_room(1 << 50)


def test_a_cache_that_has_been_in_use_comes_up_on_a_full_disk(tmp_path: Path) -> None:
    place = Place(tmp_path / "pool")
    place.settle(place.backend_url(None))
    place.cache.mkdir(exist_ok=True)
    (place.cache / "segment").write_bytes(b"x" * 4096)
    Place(tmp_path / "pool").check_room(1 << 50)


def test_a_disk_may_be_mounted_for_the_cache_before_the_first_start(tmp_path: Path) -> None:
    (tmp_path / "pool" / "cache" / "lost+found").mkdir(parents=True)
    assert Place(tmp_path / "pool").identity is None
    (tmp_path / "pool" / "cache" / "something").touch()
    with pytest.raises(Invalid, match="cache"):
        Place(tmp_path / "pool")


def test_blanks_in_a_path_make_a_valid_address(tmp_path: Path) -> None:
    from backend.url import DirectoryUrl, parse_url

    (tmp_path / "a b%c").mkdir()
    url = Place(tmp_path / "a b%c" / "pool").backend_url(None)
    assert parse_url(url) == DirectoryUrl(f"{tmp_path}/a b%c/pool/backend")


@pytest.mark.parametrize(("code", "kind"), [(errno.EROFS, Denied), (errno.EPERM, Denied), (errno.ENOSPC, NoSpace)])
def test_a_directory_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[VPoolError]
) -> None:
    place = Place(tmp_path / "pool")

    def refused(self: Path, **_: object) -> None:
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(kind, match=r"pool cannot be written: "):
        place.settle(place.backend_url(None))
