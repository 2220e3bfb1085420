"""The next membership on the way to the wanted one, and commands on members."""

from __future__ import annotations

import itertools
import random

import pytest

from registry import Admit, ChangeMember, FormCluster, GrantToken, MemberRole, RemoveMember, SetRole
from registry.codec import Malformed
from registry.member_commands import RevokeCertificate
from registry.membership import Membership, decode_membership, encode_membership, is_one_step, next_step
from registry.tables import Tables
from tests.unit.registry.world import World

EVERYBODY = frozenset("abcdefgh")


def steps(now: Membership, wanted: Membership, alive: frozenset[str] = EVERYBODY, leader: str = "a") -> list[Membership]:
    found = []
    while (step := next_step(now, wanted, alive, EVERYBODY & alive, leader)) is not None:
        assert is_one_step(now, step) or now.voters == step.voters
        assert step.is_majority(alive)
        found.append(step)
        now = step
        assert len(found) < 50
    return found


def test_a_new_voter_comes_as_a_learner() -> None:
    found = steps(Membership(("a",)), Membership(("a", "b")))
    assert found == [Membership(("a",), ("b",)), Membership(("a", "b"))]


def test_a_dead_voter_goes_before_its_replacement_votes() -> None:
    found = steps(Membership(("a", "b", "c")), Membership(("a", "b", "d")), EVERYBODY - {"c"})
    assert [step.voters for step in found] == [("a", "b", "c"), ("a", "b"), ("a", "b", "d")]


def test_a_living_voter_goes_after_its_replacement_votes() -> None:
    found = steps(Membership(("a", "b", "c")), Membership(("a", "b", "d")))
    assert [step.voters for step in found] == [("a", "b", "c"), ("a", "b", "c", "d"), ("a", "b", "d")]


def test_the_leader_goes_last() -> None:
    found = steps(Membership(("a", "b", "c")), Membership(("b",)), leader="a")
    assert [step.voters for step in found] == [("a", "b"), ("b",)]


def test_no_step_leaves_less_than_a_living_majority() -> None:
    assert next_step(Membership(("a", "b", "c")), Membership(("a", "b")), frozenset("ac"), frozenset(), "a") is None
    assert next_step(Membership(("a",)), Membership(()), EVERYBODY, EVERYBODY, "a") is None


def test_who_has_not_caught_up_does_not_vote() -> None:
    assert next_step(Membership(("a",), ("b",)), Membership(("a", "b")), EVERYBODY, frozenset(), "a") is None


def test_any_wish_is_reached_while_all_live() -> None:
    chosen = random.Random(4)
    for _ in range(300):
        drawn = []
        for _ in range(2):
            nodes = chosen.sample("abcdef", chosen.randrange(1, 6))
            voters = chosen.randrange(1, len(nodes) + 1)
            drawn.append(Membership(tuple(sorted(nodes[:voters])), tuple(sorted(nodes[voters:]))))
        now, wanted = drawn
        found = steps(now, wanted, leader=now.voters[0])
        assert (found[-1] if found else now) == wanted


def test_majorities_of_neighbours_meet() -> None:
    for size in range(1, 6):
        before = tuple("abcdef"[:size])
        for after in (tuple("abcdef"[: size + 1]), before[:-1]):
            if not after:
                continue
            assert is_one_step(Membership(before), Membership(after))
            for one in itertools.combinations(before, len(before) // 2 + 1):
                for two in itertools.combinations(after, len(after) // 2 + 1):
                    assert set(one) & set(two)


def test_its_bytes() -> None:
    membership = Membership(("a", "b"), ("c",))
    assert encode_membership(membership).hex() == "9292a161a16291a163"
    assert decode_membership(encode_membership(membership)) == membership
    for wrong in (b"\x90", b"\x92\x90\xc0", b"\x92\x92\xa1b\xa1a\x90", b"\x92\x91\xa1a\x91\xa1a"):
        with pytest.raises(Malformed):
            decode_membership(wrong)


NOW = 1_000_000_000


@pytest.fixture
def formed(world: World) -> World:
    world.ok(FormCluster("a", "h:1", "0A", "f" * 64, "dir:/x", NOW))
    return world


def admit(world: World, node: str, role: MemberRole = MemberRole.VOTER, token: str = "AA") -> None:
    world.ok(GrantToken(token, NOW + 100, NOW))
    world.ok(Admit(token, node, f"{node}:1", role, "0B" + token, NOW + 50))


def test_a_token_is_good_once_and_in_its_time(formed: World) -> None:
    formed.refused(Admit("AA", "b", "b:1", MemberRole.VOTER, "0B", NOW), "Denied")
    formed.ok(GrantToken("AA", NOW + 100, NOW))
    formed.refused(Admit("AA", "b", "b:1", MemberRole.VOTER, "0B", NOW + 101), "Denied")
    formed.refused(Admit("AA", "a", "b:1", MemberRole.VOTER, "0B", NOW), "Exists")
    formed.refused(Admit("AA", "b", "h:1", MemberRole.VOTER, "0B", NOW), "Conflict")
    formed.refused(Admit("AA", "b.c", "b:1", MemberRole.VOTER, "0B", NOW), "Invalid")
    first = formed.ok(Admit("AA", "b", "b:1", MemberRole.VOTER, "0B", NOW))
    assert formed.ok(Admit("AA", "b", "b:1", MemberRole.VOTER, "0C", NOW)) == first, "asked again"
    formed.refused(Admit("AA", "c", "c:1", MemberRole.VOTER, "0D", NOW), "Denied")
    formed.refused(GrantToken("BB", NOW, NOW), "Invalid")


def test_the_last_voter_with_storage_stays(formed: World) -> None:
    admit(formed, "w", MemberRole.WITNESS, "AA")
    admit(formed, "r", MemberRole.REPLICA, "BB")
    formed.refused(RemoveMember("a", NOW), "Conflict")
    formed.refused(SetRole("a", MemberRole.REPLICA), "Conflict")
    formed.refused(SetRole("w", MemberRole.VOTER), "Invalid")
    formed.ok(SetRole("r", MemberRole.VOTER))
    formed.ok(SetRole("a", MemberRole.REPLICA))
    formed.refused(RemoveMember("r", NOW), "Conflict")
    formed.refused(RemoveMember("nobody", NOW), "NotFound")


def test_who_is_removed_does_not_come_back(formed: World) -> None:
    admit(formed, "b")
    formed.ok(RemoveMember("b", NOW))
    formed.ok(RemoveMember("b", NOW))
    record = Tables(formed.view).node("b")
    assert record is not None
    assert record.expired
    formed.refused(ChangeMember("b", "b:1", "0C", NOW), "Denied")
    formed.refused(SetRole("b", MemberRole.REPLICA), "Denied")


def test_certificates_that_are_changed_are_taken_back(formed: World) -> None:
    formed.ok(ChangeMember("a", "h:2", "0B", NOW + 10))
    assert Tables(formed.view).revoked("0A")
    assert not Tables(formed.view).revoked("0B")
    formed.refused(ChangeMember("a", "h:2", "0A", NOW + 10), "Denied")
    formed.refused(RevokeCertificate("0B", NOW + 10, NOW), "Conflict")
    formed.ok(RevokeCertificate("0C", NOW + 20, NOW + 11))
    assert not Tables(formed.view).revoked("0A"), "it has ended by itself"


def test_there_is_one_cluster(formed: World) -> None:
    formed.ok(FormCluster("a", "h:1", "0A", "f" * 64, "dir:/x", NOW))
    formed.refused(FormCluster("a", "h:1", "0A", "e" * 64, "dir:/x", NOW), "Conflict")
