"""The version, as the distribution says it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("vpool")
except PackageNotFoundError:  # run from a tree that is not installed
    VERSION = "0+unknown"
