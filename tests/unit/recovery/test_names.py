"""Which exports belong together, which is the newest, and what may go."""

from __future__ import annotations

from recovery.names import Chain, ExportName, chains, complete, parse, part_name, superseded

ONE = Chain(1, "node-1", 1)
TWO = Chain(1, "node-1", 2)
LATER = Chain(2, "node.2", 1)


def export(chain: Chain, index: int, since: int, parts: int = 1) -> ExportName:
    return ExportName(chain, index, since, parts)


def test_a_name_says_what_it_was_made_of() -> None:
    name = part_name(LATER, 255, 16, 3, True)
    assert name == "namespace/0000000000000002/00000000000000ff.0000000000000010.node.2.0000000000000001.0003.last"
    part = parse(name)
    assert part is not None
    assert (part.chain, part.index, part.since, part.part, part.last) == (LATER, 255, 16, 3, True)
    assert parse("namespace/else") is None


def test_an_export_without_its_last_part_is_none() -> None:
    whole, half = export(ONE, 5, 0, 3), export(ONE, 6, 5, 2)
    assert complete([*whole.objects(), *half.objects()[:-1]]) == [whole]


def test_the_newest_state_comes_first() -> None:
    """A later generation beats any index; a gap ends a chain; an earlier life's increments are not mixed in."""
    found = [
        export(ONE, 10, 0), export(ONE, 20, 10), export(ONE, 30, 20), export(ONE, 50, 40),
        export(TWO, 25, 0), export(TWO, 40, 25),
        export(LATER, 3, 0), export(LATER, 4, 3),
    ]  # fmt: skip
    order = [[item.index for item in way] for way in chains(found)]
    assert order == [[3, 4], [25, 40], [10, 20, 30]]


def test_of_several_increments_on_one_export_the_one_that_leads_further_counts() -> None:
    found = [export(ONE, 10, 0), export(ONE, 12, 10), export(ONE, 15, 10)]
    assert [[item.index for item in way] for way in chains(found)] == [[10, 15]]


def test_what_newer_full_exports_supersede_goes_and_nothing_else() -> None:
    old, middle, new = export(ONE, 10, 0, 2), export(TWO, 25, 0), export(TWO, 60, 0)
    unfinished = [part_name(TWO, 70, 0, 0, False)]
    names = [
        *old.objects(), *export(ONE, 20, 10).objects(), *middle.objects(), *export(TWO, 40, 25).objects(), *new.objects(),
        *unfinished, "namespace/strange",
    ]  # fmt: skip
    assert superseded(names, 2) == [*old.objects(), *export(ONE, 20, 10).objects()]
    assert superseded(names, 3) == []
    assert superseded(names, 4) == []
