"""Bytes that must not change while the format's version is 1: docs/formats/registry.md."""

from __future__ import annotations

from hashlib import sha256

from registry import (
    AdvanceHeads,
    Create,
    Envelope,
    ForgetFiles,
    Head,
    HeadAdvance,
    InodeKind,
    NewEpoch,
    OpenHandle,
    RootName,
    SetAttribute,
    TlogName,
    Unlink,
)
from registry.codec import encode_envelope
from registry.lmdbdisk import seal
from tests.unit.registry.world import LOG, World, oid


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
    world.ok(Create(1, "null", InodeKind.CHARACTER_DEVICE, 0o666, 0, 0, 21, rdev=0x103))
    world.ok(SetAttribute(1, "user.ü", b"\0value", 22))
    for name in ("old", "kept"):
        world.ok(Create(1, name, InodeKind.FILE, 0o600, 0, 0, 23, object=oid(len(name)), log=LOG, layout=2))
    world.ok(Unlink(1, "old", 24))
    world.ok(ForgetFiles((oid(3),)))
    digest = sha256()
    for key, value in sorted(world.view.items.items()):
        digest.update(len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value)
    assert digest.hexdigest() == "373353984787f6bbfa370aa6865358183213bcebbb2a47071d158da70b02ec71"
