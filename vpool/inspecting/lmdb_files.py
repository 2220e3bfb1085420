"""LMDB environments: the registry. Read in a process of its own, since liblmdb does not survive every damage.

A file that is shorter than its meta pages say would end a process that maps it, so that is looked at first, without liblmdb.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

from vpool.errors import NotFound
from vpool.inspecting.findings import Findings, Table
from vpool.runtime import connect

MAGIC = 0xBEEFC0DE
PAGE_HEADER = 16
META = struct.Struct("<IIQQ")  # magic, version, address, map size
CHILD_S = 3600.0


def is_environment(data: bytes) -> bool:
    """Whether a file begins like ``data.mdb``."""
    return data[16:20] == MAGIC.to_bytes(4, "little") or data[4112:4116] == MAGIC.to_bytes(4, "little")


def inspect_environment(path: Path, findings: Findings) -> None:
    """``path``: ``data.mdb``. What is in it is told by the databases that it has."""
    directory = path.parent.absolute()
    if not _metas(path, findings):
        return
    command = [sys.executable, "-m", "vpool.inspecting.lmdb_child", str(directory), str(findings.rows_max)]
    command.append("lock" if is_used(directory) else "free")
    child = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_S, check=False)  # noqa: S603 (our own command)
    if child.returncode:
        said = child.stderr.strip().splitlines()
        reason = f"signal {-child.returncode}" if child.returncode < 0 else said[-1] if said else "no reason told"
        findings.problem(f"liblmdb cannot read it: {reason}")
        return
    told = json.loads(child.stdout)
    findings.kind = told["kind"]
    findings.fields |= told["fields"]
    findings.tables += [
        Table(table["title"], tuple(table["columns"]), [tuple(row) for row in table["rows"]], table["left_out"])
        for table in told["tables"]
    ]
    findings.problems += told["problems"]
    findings.notes += told["notes"]


def is_used(directory: Path) -> bool:
    """Whether a daemon of the DIR that a directory is in is running."""
    for above in directory.parents[:2]:
        if (above / "vpool.json").exists():
            try:
                connect(above).close()
            except NotFound:
                continue
            return True
    return False


def _metas(path: Path, findings: Findings) -> bool:
    """The two meta pages; False: it must not be mapped."""
    length = path.stat().st_size
    page_bytes, last, newest, good = 4096, 0, -1, 0
    with path.open("rb") as file:
        for page in range(2):
            file.seek(page * page_bytes)
            head = file.read(PAGE_HEADER + 136)
            if len(head) < PAGE_HEADER + 136 or int.from_bytes(head[16:20], "little") != MAGIC:
                findings.problem(f"meta page {page} is damaged")
                continue
            good += 1
            page_bytes = int.from_bytes(head[40:44], "little") or page_bytes
            last_page, transaction = struct.unpack_from("<QQ", head, 136)
            if transaction > newest:
                newest, last = transaction, last_page
    findings.fields |= {"transaction": newest, "page bytes": page_bytes, "last page": last, "file bytes": length}
    if not good:
        return False
    if length < (last + 1) * page_bytes:
        findings.problem(f"the file is cut short: it has {length} bytes and needs {(last + 1) * page_bytes}")
        return False
    return os.access(path, os.R_OK)
