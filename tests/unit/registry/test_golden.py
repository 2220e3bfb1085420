"""Bytes that must not change while the format's version is 1: docs/formats/registry.md."""

from __future__ import annotations

from hashlib import sha256

from registry import AdvanceHeads, Envelope, Head, HeadAdvance, InodeKind, NewEpoch, OpenHandle, RootName, TlogName, Unlink
from registry.codec import encode_envelope
from registry.lmdbdisk import seal
from tests.unit.registry.world import World, oid


def test_an_envelope() -> None:
    assert encode_envelope(Envelope("a", 1, 2, OpenHandle(16))).hex() == "9601a16101020b921001"


def test_a_sealed_value() -> None:
    assert seal(b"key", b"value").hex() == "76616c7565e6f355c6"


def test_a_state_with_everything_in_it(world: World) -> None:
    world.volume("v", 1)
    world.ok(NewEpoch(oid(1), 0, "a"))
    world.ok(AdvanceHeads((HeadAdvance(oid(1), 1, 0, Head(TlogName(1, 1, 0, 7), 2, RootName(1, 1, 32, 64, 9), 1)),)))
    inode = world.file("f\udcff", 2).number
    world.create(world.directory(1, "d"), "s", InodeKind.SYMLINK)
    world.ok(OpenHandle(inode))
    world.ok(Unlink(1, "f\udcff", 20))
    digest = sha256()
    for key, value in sorted(world.view.items.items()):
        digest.update(len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value)
    assert digest.hexdigest() == "1d165e3b085712ee81c638409570245b2f1398e7a5ac7870ef948ca4f8725d59"
