"""Pages that must say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from vpool.exitcodes import EXIT_CODES, INTERRUPTED

TOP = Path(__file__).parents[3]


def test_the_page_of_exit_codes_is_current() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w*) ?\|", (TOP / "docs/exit-codes.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {int(code): kind for code, kind in rows if kind} == {code: kind.__name__ for kind, code in EXIT_CODES.items()}
    assert {0, INTERRUPTED} <= {int(code) for code, _ in rows}


def test_the_readme_opens_with_the_two_commands() -> None:
    assert (TOP / "README.md").read_text(encoding="utf-8").splitlines()[2:6] == ["```", "make run", "make test", "```"]
