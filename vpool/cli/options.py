"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", envvar="VPOOL_DIR", help="The node's directory; found by itself when one node runs here."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
