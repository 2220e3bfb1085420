"""docs/semantics.md must not promise by tests that do not exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_promises_name_exists() -> None:
    text = (ROOT / "docs/semantics.md").read_text()
    named = re.findall(r"`((?:engine/)?tests/[\w/.]+)(?:::(\w+))?`", text)
    assert len(named) > 20
    for path, function in named:
        found = ROOT / path
        assert found.exists(), f"{path} is named but is not there"
        if function:
            assert re.search(rf"\bdef {function}\b", found.read_text()), f"{path} has no {function}"


def test_every_promise_of_the_design_is_spoken_of() -> None:
    text = (ROOT / "docs/semantics.md").read_text()
    assert [int(n) for n in re.findall(r"^## (\d+)\.", text, re.M)] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert "7. Stale owners" in text
