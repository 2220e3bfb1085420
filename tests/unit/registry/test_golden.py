"""Bytes that must not change while the format's version is 1: docs/formats/registry.md."""

from __future__ import annotations

from hashlib import sha256

import pytest

from registry import (
    Abort,
    Admit,
    AdvanceHeads,
    ChangeMember,
    ClusterRecord,
    Command,
    Create,
    DropRemains,
    Dtl,
    DtlState,
    Envelope,
    ForgetFiles,
    FormCluster,
    GrantToken,
    Head,
    HeadAdvance,
    InodeKind,
    MemberRecord,
    MemberRole,
    NewEpoch,
    NodeRecord,
    NodeStatus,
    ObjectKind,
    ObjectRecord,
    ObjectState,
    OpenHandle,
    ProposeDtl,
    Remains,
    RemoveMember,
    RenewLease,
    Result,
    RevokeCertificate,
    RootName,
    SetAttribute,
    SetNode,
    SetRole,
    Steal,
    TlogName,
    TokenRecord,
    Transfer,
    Unlink,
)
from registry.codec import decode_envelope, decode_outcome, encode_envelope, encode_outcome, encode_record
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
    assert digest.hexdigest() == "09fdb8b125794379a894b72536696aabc14f749ff6980e72d3ac0121bc2c925e"


# -- the cluster: commands and answers ---------------------------------------------------------------------------------

OF_THE_CLUSTER = [
    (
        FormCluster("a", "h:1", "0A", "ff", "dir:/x", 1, "n"),
        "9601aa612e726567697374727901023c97a161a3683a31a23041a26666a66469723a2f7801a16e",
    ),
    (GrantToken("0B", 3, 2), "9601aa612e726567697374727901023d93a230420302"),
    (
        Admit("0B", "b", "h:2", MemberRole.WITNESS, "0C", 2, "m"),
        "9601aa612e726567697374727901023e97a23042a162a3683a32a77769746e657373a2304302a16d",
    ),
    (SetRole("b", MemberRole.REPLICA), "9601aa612e726567697374727901023f92a162a77265706c696361"),
    (RemoveMember("b", 4), "9601aa612e726567697374727901024092a16204"),
    (ChangeMember("a", "h:3", "0D", 5, "n"), "9601aa612e726567697374727901024195a161a3683a33a2304405a16e"),
    (RevokeCertificate("0E", 6, 5), "9601aa612e726567697374727901024293a230450605"),
]
ANSWERS = [
    (ClusterRecord("ff", "dir:/x", 1), "9301cc8c93a26666a66469723a2f7801"),
    (
        MemberRecord("b", MemberRole.WITNESS, "h:2", "0C", False, 2, "0B", "m"),
        "9301cc8d98a162a77769746e657373a3683a32a23043c202a23042a16d",
    ),
    (TokenRecord("0B", 3, "b"), "9301cc8e93a2304203a162"),
]


@pytest.mark.parametrize(("command", "bytes_"), OF_THE_CLUSTER)
def test_commands_on_the_cluster(command: Command, bytes_: str) -> None:
    envelope = Envelope("a.registry", 1, 2, command)
    assert encode_envelope(envelope).hex() == bytes_
    assert decode_envelope(bytes.fromhex(bytes_)) == envelope


@pytest.mark.parametrize(("record", "bytes_"), ANSWERS)
def test_answers_about_the_cluster(record: Result, bytes_: str) -> None:
    assert encode_outcome(record).hex() == bytes_
    assert decode_outcome(bytes.fromhex(bytes_)) == record


# -- ownership ---------------------------------------------------------------------------------------------------------

OBJECT = "1" * 32
ID = "31" * 32
OF_OWNERSHIP = [
    (Transfer(OBJECT, "a", "b", 1, 2, 3, True), "9601a16101022897d920" + ID + "a161a162010203c3"),
    (Abort(OBJECT, 2, 3), "9601a16101022993d920" + ID + "0203"),
    (ProposeDtl(OBJECT, 2, 3, "b", DtlState.IN_SYNC), "9601a16101022a96d920" + ID + "0203a162a7696e2d73796e63c2"),
    (Steal(OBJECT, "b", 2, 3, "c", True, False), "9601a16101022b97d920" + ID + "a1620203a163c3c2"),
    (DropRemains(OBJECT, "a", 2), "9601a16101022c93d920" + ID + "a16102"),
    (SetNode("b", NodeStatus.DRAINED, None), "9601a16101022d93a162a7647261696e6564c0"),
    (RenewLease(7, 4096), "9601a1610102039307cd1000950000000000"),
]


@pytest.mark.parametrize(("command", "bytes_"), OF_OWNERSHIP)
def test_commands_on_ownership(command: Command, bytes_: str) -> None:
    assert encode_envelope(Envelope("a", 1, 2, command)).hex() == bytes_
    assert decode_envelope(bytes.fromhex(bytes_)).command == command


def test_records_of_ownership() -> None:
    record = ObjectRecord(
        OBJECT, ObjectKind.VOLUME, ObjectState.LIVE, "a", 2, None, None, 1, 16, 0, "", "", 1,
        Dtl(DtlState.CATCHING_UP, "b", 3), 4, (Remains("c", 1, True),),
    )  # fmt: skip
    assert encode_record(record).hex() == (
        "dc0010d9203131313131313131313131313131313131313131313131313131313131313131a6766f6c7"
        "56d65a46c697665a16102c0c0011000a0a00194ab6361746368696e672d7570a16203c2049193a16301c3"
    )
    assert (
        encode_record(NodeRecord("a", 1, "", 2, False, NodeStatus.MAINTENANCE, "r", None)).hex()
        == "9aa16101a002c2ab6d61696e74656e616e6365a172c0a0950000000000"
    )
