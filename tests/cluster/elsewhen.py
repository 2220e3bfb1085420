"""``python -m tests.cluster.elsewhen SECONDS COMMAND …``: a command whose clocks of this boot are ahead of everybody else's.

Hosts have booted at different times: nothing may compare CLOCK_BOOTTIME or CLOCK_MONOTONIC of two of them. A time namespace
(time_namespaces(7)) gives a host such clocks of its own; where the kernel has none, the command just runs.
"""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWTIME = 0x80


def enter(ahead_s: int) -> None:
    """Move this process, which must have one thread, to a new time namespace. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWTIME):
        raise OSError(ctypes.get_errno(), "unshare")
    with open("/proc/self/timens_offsets", "w", encoding="ascii") as offsets:
        offsets.write(f"monotonic {ahead_s} 0\nboottime {ahead_s} 0\n")
    made = os.open("/proc/self/ns/time_for_children", os.O_RDONLY)
    try:
        if libc.setns(made, CLONE_NEWTIME):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(made)


def main() -> None:
    """See the top."""
    if os.path.exists("/proc/self/ns/time_for_children"):
        enter(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
