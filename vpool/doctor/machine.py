"""This host apart from its disk: clocks, FUSE, memory, limits, tools."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
import time
from pathlib import Path

from vpool.doctor.report import Report, Verdict
from vpool.settings import Settings
from vpool.sizes import show_size

OPEN_FILES = 65_536
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
BASE_BYTES = 256 << 20  # what the daemon takes besides its caches


def examine_clock(report: Report) -> None:
    """Whether the clock is kept right, and whether the one that leases use goes on while the host sleeps."""
    state = _adjtimex()
    if state is None:
        report.add("clock", "synchronised", Verdict.NOTE, "cannot be told here")
    elif state == TIME_ERROR:
        advice = "run chrony or systemd-timesyncd: S3 refuses requests of a clock that is 15 minutes off"
        report.add("clock", "synchronised", Verdict.WARNING, "the kernel says no", advice)
    else:
        report.add("clock", "synchronised", Verdict.GOOD, "the kernel says yes")
    slept = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    report.figures["slept_s"] = slept
    if slept > 1:
        report.add("clock", "sleep", Verdict.NOTE, f"this host has slept for {slept:.0f} s", "a sleeping host loses its leases")
    if time.time() < 1_700_000_000:
        report.add("clock", "date", Verdict.PROBLEM, time.strftime("%Y-%m-%d"), "set the clock")


def _adjtimex() -> int | None:
    """What adjtimex(2) returns without changing anything; None: it cannot be asked."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(512)  # struct timex with modes = 0: read only
        state = int(libc.adjtimex(buffer))
    except (OSError, AttributeError):
        return None
    return state if state >= 0 else None


def examine_fuse(report: Report) -> None:
    """Whether this user can mount."""
    device = Path("/dev/fuse")
    if not device.exists():
        advice = "load the kernel module fuse; in a container, give it the device /dev/fuse"
        report.add("fuse", "device", Verdict.PROBLEM, "there is no /dev/fuse", advice)
        return
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        advice = "run as root, or let this user use /dev/fuse"
        report.add("fuse", "device", Verdict.PROBLEM, f"/dev/fuse: {error.strerror}", advice)
        return
    report.add("fuse", "device", Verdict.GOOD, f"/dev/fuse opens; Linux {platform.release()}")
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        advice = "install Debian's fuse3, or run as root"
        report.add("fuse", "fusermount3", Verdict.PROBLEM, "not installed, and this user cannot mount by itself", advice)


def examine_limits(settings: Settings, report: Report) -> None:
    """Memory, open files, optional tools."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = settings.cache.map_cache_bytes + BASE_BYTES
    report.figures |= {"memory_bytes": float(memory), "cores": float(os.cpu_count() or 1)}
    found = f"{show_size(memory)}, {os.cpu_count()} cores; the daemon takes about {show_size(needed)}"
    if needed > memory // 2:
        report.add("machine", "memory", Verdict.WARNING, found, "lower cache.map_cache_bytes, or guests will swap")
    else:
        report.add("machine", "memory", Verdict.GOOD, found)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < OPEN_FILES:
        advice = f"raise it to {OPEN_FILES} (LimitNOFILE of the service)"
        report.add("machine", "open files", Verdict.WARNING, f"at most {most}", advice)
    missing = [name for name in ("qemu-img", "qemu-nbd") if shutil.which(name) is None]
    if missing:
        advice = "needed for qcow2 only: install Debian's qemu-utils"
        report.add("machine", "tools", Verdict.NOTE, f"not installed: {', '.join(missing)}", advice)
