"""``python without_lease.py python -m MODULE …``: the module, but no registry has a lease: each barrier costs a round."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

import registry.raft  # noqa: E402


def main() -> None:
    module = sys.argv[sys.argv.index("-m") + 1]
    registry.raft.LEASE_SHARE = 0.0
    sys.argv = [module, *sys.argv[sys.argv.index("-m") + 2 :]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
