"""The process that reads an LMDB environment for ``vpool inspect``: DIRECTORY ROWS LOCK; says JSON on standard output."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import lmdb

from vpool.inspecting.findings import Findings
from vpool.inspecting.registries import inspect_registry


def main(path: str, rows_max: int, lock: bool) -> None:
    """Read it. With ``lock``, which somebody who writes meanwhile makes necessary, a reader's slot in ``lock.mdb`` is taken."""
    findings = Findings("LMDB environment", rows_max)
    environment = lmdb.open(path, readonly=True, lock=lock, max_dbs=8, subdir=True, readahead=False)
    names = [bytes(name) for name in _names(environment)]
    databases = {name.decode("ascii", "replace"): environment.open_db(name, create=False) for name in names}
    findings.fields["databases"] = " ".join(sorted(databases))
    with environment.begin() as txn:
        if {"meta", "page", "changed", "live"} <= databases.keys():
            findings.kind = "local map of an earlier format"
            findings.note("this release does not read it, and removes it at its first start: maps come from the backend")
        elif {"raft", "log", "state"} <= databases.keys():
            findings.kind = "registry"
            inspect_registry(txn, databases, findings)
        else:
            findings.problem("not a registry: databases are missing")
    print(json.dumps(asdict(findings)))


def _names(environment: Any) -> list[bytes]:
    with environment.begin() as txn, txn.cursor() as cursor:
        return [key for key, _ in cursor]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "lock")
