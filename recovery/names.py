"""Names of exports in the vPool's shared bucket, and which of them belong together. Pure. docs/formats/namespace-export.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from registry.export import ExportId

PREFIX = "namespace/"
_NAME = re.compile(
    r"namespace/(?P<generation>[0-9a-f]{16})/(?P<index>[0-9a-f]{16})\.(?P<since>[0-9a-f]{16})\.(?P<node>[A-Za-z0-9._-]{1,64})"
    r"\.(?P<incarnation>[0-9a-f]{16})\.(?P<part>[0-9a-f]{4})\.(?P<end>more|last)"
)


@dataclass(frozen=True, slots=True)
class Chain:
    """Who wrote an export: those of one chain follow each other."""

    generation: int
    node: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class ExportName:
    """A complete export, by the name of its last part."""

    chain: Chain
    index: int
    since: int  # 0: full
    parts: int

    @classmethod
    def of(cls, export: ExportId, parts: int) -> ExportName:
        """The name of an export with so many parts."""
        return cls(Chain(export.generation, export.node, export.incarnation), export.index, export.since, parts)

    @property
    def order(self) -> tuple[int, int]:
        """Newer ones are greater."""
        return self.chain.generation, self.index

    def objects(self) -> list[str]:
        """The names of its parts."""
        return [part_name(self.chain, self.index, self.since, number, number == self.parts - 1) for number in range(self.parts)]


@dataclass(frozen=True, slots=True)
class PartName:
    """What the name of one part says."""

    chain: Chain
    index: int
    since: int
    part: int
    last: bool

    @property
    def order(self) -> tuple[int, int]:
        """As that of its export."""
        return self.chain.generation, self.index


def part_name(chain: Chain, index: int, since: int, part: int, last: bool) -> str:
    """The name of a part."""
    return (
        f"{PREFIX}{chain.generation:016x}/{index:016x}.{since:016x}.{chain.node}.{chain.incarnation:016x}.{part:04x}."
        f"{'last' if last else 'more'}"
    )


def parse(name: str) -> PartName | None:
    """What a name says; None for one that is no part of an export."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    number = {key: int(match[key], 16) for key in ("generation", "index", "since", "incarnation", "part")}
    chain = Chain(number["generation"], match["node"], number["incarnation"])
    return PartName(chain, number["index"], number["since"], number["part"], match["end"] == "last")


def complete(names: Iterable[str]) -> list[ExportName]:
    """The exports whose last part is there."""
    parts = (parse(name) for name in names)
    return [ExportName(part.chain, part.index, part.since, part.part + 1) for part in parts if part is not None and part.last]


def chains(exports: Iterable[ExportName]) -> Iterator[tuple[ExportName, ...]]:
    """Every full export with the increments that lead furthest from it, the one that reaches the newest state first."""
    found = list(exports)
    following: dict[tuple[Chain, int], list[ExportName]] = {}
    for export in found:
        following.setdefault((export.chain, export.since), []).append(export)
    reached = []
    for full in found:
        if full.since:
            continue
        way = [full]
        while onward := following.get((full.chain, way[-1].index)):
            way.append(max(onward, key=lambda export: export.index))
        reached.append(tuple(way))
    return iter(sorted(reached, key=lambda way: (way[-1].order, -len(way)), reverse=True))


def superseded(names: Iterable[str], keep_full: int) -> list[str]:
    """Parts older than the ``keep_full`` newest complete full exports, and so than everything built on those."""
    known = [(name, part) for name in names if (part := parse(name)) is not None]
    full = sorted({part.order for _, part in known if part.last and not part.since}, reverse=True)
    if len(full) < keep_full:
        return []
    oldest = full[keep_full - 1]
    return [name for name, part in known if part.order < oldest]
