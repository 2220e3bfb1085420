"""The FUSE front end: a vPool as a directory of this host, by pyfuse3 on trio.

The room promises that a request of the kernel becomes one of the object router, its error an errno, and that a mount is undone
in every way of leaving; what a killed daemon leaves is found and removed at the next start. It calls the object router only.
"""

from fuse.errnos import errno_of
from fuse.mount import Limits, Mount, serve
from fuse.mounts import Answer, abort, answer_of, check_mountpoint, detach, is_ours, mount_on, resolve, source_name

__all__ = [
    "Answer",
    "Limits",
    "Mount",
    "abort",
    "answer_of",
    "check_mountpoint",
    "detach",
    "errno_of",
    "is_ours",
    "mount_on",
    "resolve",
    "serve",
    "source_name",
]
