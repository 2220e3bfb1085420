"""The way out of a mount whose daemon is dead or stuck: without it, who touches the mount gets an error, or waits for ever."""

from __future__ import annotations

from pathlib import Path

import fuse
from vpool.errors import Conflict


def unmount_left(mountpoint: Path, *, force: bool) -> str:
    """Undo what a dead daemon has left on a mount point; says what was done.

    A daemon that lives is left alone, unless ``force``: then its connection with the kernel is ended, those who use the mount
    get errors, and the daemon stops cleanly. No acknowledged write is lost either way.

    Raises:
        Conflict: something else is mounted there, or a daemon still answers or may do so.
        Unavailable: the kernel refuses.
    """
    target = fuse.resolve(mountpoint)
    undone = 0
    while (entry := fuse.mount_on(str(target))) is not None:
        if not fuse.is_ours(entry):
            raise Conflict(f"{target} is not a vPool's mount: {entry.source} ({entry.kind}) is mounted there")
        answer = fuse.answer_of(target)
        if answer is not fuse.Answer.DEAD and not force:
            raise Conflict(_refusal(target, answer))
        if answer is not fuse.Answer.DEAD:
            fuse.abort(target)
        fuse.detach(target)
        undone += 1
    return f"{target} is free: the mount was undone" if undone else f"nothing is mounted on {target}"


def _refusal(target: Path, answer: fuse.Answer) -> str:
    if answer is fuse.Answer.ALIVE:
        return (
            f"a running daemon serves {target}; stop it (systemctl stop vpool, or SIGTERM), which unmounts it, or take the mount "
            "away from its users with --force"
        )
    return (
        f"the daemon behind {target} does not answer; if it is not just slow, end it (`vpool status` has its pid) and "
        "try again, or take the mount away from its users with --force"
    )
