"""What the command line prints of names that mean something to the library that prints."""

from __future__ import annotations

import pytest

from vpool.cli import show


def test_names_with_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    report = {"path": "[red]/[/x].raw", "size": 512, "object": "0", "state": "closed", "handles": 0, "dirty_bytes": 0}
    show.created(report)
    show.volumes([report])
    assert capsys.readouterr().out.count("[red]/[/x].raw") == 2
