"""The mark of a volume that is being filled: golden bytes, and that damage is not taken for a mark."""

from __future__ import annotations

import pytest

from volumedriver import Filling
from vpool.errors import Corrupt

FILLING = Filling("import", "/tmp/web.qcow2 (qcow2)", "a" * 40, 7 << 20)
GOLDEN = (
    "76506f6f6c46494c010000006c0000000000700000000000"
    + b'{"fingerprint":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","kind":"import","source":"/tmp/web.qcow2 (qcow2)"}'.hex()
)


def test_the_format_is_the_one_that_is_written_down() -> None:
    cluster = FILLING.encode()
    assert len(cluster) == 4096
    assert cluster.hex().startswith(GOLDEN)
    assert cluster[len(GOLDEN) // 2 + 4 :].count(0) == 4096 - len(GOLDEN) // 2 - 4
    assert Filling.decode(cluster) == FILLING
    assert Filling.decode(bytes(4096)) is None


@pytest.mark.parametrize("offset", [0, 8, 12, 16, 24, 100, len(GOLDEN) // 2])
def test_damage_is_no_mark(offset: int) -> None:
    cluster = bytearray(FILLING.encode())
    cluster[offset] ^= 4
    with pytest.raises(Corrupt):
        Filling.decode(bytes(cluster))
