"""Images without a daemon: which format one has, what a source has and what has changed in it."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from vpool.cli.transfer import Piece, data_runs, pieces
from vpool.errors import Invalid, NotFound
from vpool.images import open_source, open_target, target_format

MIB = 1 << 20


def test_pieces_are_cut_at_four_mebibytes_and_begin_where_an_interrupted_transfer_ended() -> None:
    assert list(pieces([(0, 9 * MIB)], 0)) == [Piece(0, 4 * MIB), Piece(4 * MIB, 4 * MIB), Piece(8 * MIB, MIB)]
    assert list(pieces([(0, MIB), (5 * MIB, MIB)], MIB // 2)) == [Piece(MIB // 2, MIB // 2), Piece(5 * MIB, MIB)]
    assert list(pieces([(0, MIB)], MIB)) == []


def test_zeros_are_left_out() -> None:
    step = 64 << 10
    data = bytes(step) + b"x" * step + b"y" + bytes(step - 1) + bytes(3 * step) + b"z" * 10
    assert list(data_runs(data)) == [(step, 3 * step), (6 * step, 6 * step + 10)]
    assert list(data_runs(bytes(MIB))) == []


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_what_is_written_is_what_is_read(tmp_path: Path, kind: str) -> None:
    path, part = tmp_path / f"disk.{kind}", tmp_path / f"disk.{kind}.part"
    data = random.Random(1).randbytes(3 * MIB)
    with open_target(path, part, kind, 64 * MIB, resumed=False) as target:
        target.write(5 * MIB + 512, data[:MIB])
        target.flush()
    assert not path.exists()
    with open_target(path, part, kind, 64 * MIB, resumed=True) as target:
        target.write(6 * MIB + 512, data[MIB:])
        target.finish()
    assert os.listdir(tmp_path) == [path.name]
    with open_source(path, None, with_backing=False) as source:
        assert source.size == 64 * MIB
        assert source.read(5 * MIB + 512, 3 * MIB) == data
        assert source.read(0, 4096) == bytes(4096)
        extents = list(source.extents(0))
        assert sum(length for _, length in extents) < 4 * MIB
        assert extents[0][0] <= 5 * MIB + 512
        assert extents[-1][0] + extents[-1][1] >= 8 * MIB + 512
        first = source.fingerprint
    with open_source(path, None, with_backing=False) as source:
        assert source.fingerprint == first
        assert source.is_unchanged()
        os.utime(path)
        assert not source.is_unchanged()
    with open_source(path, None, with_backing=False) as source:
        assert source.fingerprint != first


def test_without_qemu_a_qcow2_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"], check=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Invalid, match="install Debian's qemu-utils"):
        open_source(path, None, with_backing=False)
    with pytest.raises(Invalid, match="install Debian's qemu-utils"):
        open_target(tmp_path / "new.qcow2", tmp_path / "part", "qcow2", MIB, resumed=False)
    assert os.listdir(tmp_path) == ["disk.qcow2"]


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("x.qcow2", None, None),
        ("x", "raw", None),
        ("x", None, "--format"),
        ("x.vmdk", None, "convert"),
        ("x.raw", "vdi", "no format"),
    ],
)
def test_the_format_of_a_target_is_told(name: str, wanted: str | None, message: str | None) -> None:
    if message is None:
        assert target_format(Path(name), wanted) in ("raw", "qcow2")
    else:
        with pytest.raises(Invalid, match=message):
            target_format(Path(name), wanted)


def test_a_block_device_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        open_source(tmp_path / "none.raw", None, with_backing=False)
    with pytest.raises(Invalid, match="neither a file nor a block device"):
        open_source(Path("/dev/null"), "raw", with_backing=False)
