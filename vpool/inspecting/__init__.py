"""Looks at every format that vPool writes: to a disk, to a bucket. Offline and read only.

An independent reading of ``docs/formats``: it shares no code with what writes these formats but the two checksum functions, so
that a defect there is not repeated here. It promises to say of a damaged file that it is damaged, whatever the bytes are, and to
change nothing. It calls the engine (checksums) and the registry (names of its records' fields).
"""

from vpool.inspecting.detecting import inspect, inspect_bytes
from vpool.inspecting.findings import Findings, Table

__all__ = ["Findings", "Table", "inspect", "inspect_bytes"]
