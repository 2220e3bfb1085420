"""All examinations, one after the other."""

from __future__ import annotations

import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from backend import open_store
from backend.directory_files import MARKER, TEMPORARY
from backend.url import DirectoryUrl, parse_url
from vpool.doctor.advice import advise
from vpool.doctor.disk import examine_disk
from vpool.doctor.machine import examine_clock, examine_fuse, examine_limits
from vpool.doctor.report import Report, Verdict
from vpool.doctor.store import examine_store
from vpool.errors import VPoolError
from vpool.place import Place
from vpool.settings import Settings


def examine(directory: Path, backend: str | None, settings: Settings, *, say: Callable[[str], None]) -> Report:
    """Examine this host for a DIR, and its backend: the one given, or the one that DIR belongs to; none where neither is.

    ``say`` is told what is being looked at. Leaves nothing behind.

    Raises:
        Invalid, Denied: DIR or the address of the backend cannot be. What fails while it is tried out is in the report.
    """
    place = Place(directory.absolute())
    url = place.backend_url(backend)
    report = Report()
    say("the machine")
    examine_clock(report)
    examine_fuse(report)
    examine_limits(settings, report)
    say("the disk")
    try:
        examine_disk(place, settings, report)
    except VPoolError as error:
        report.add("disk", "works", Verdict.PROBLEM, str(error))
    if place.is_embedded(url):
        said = "the embedded directory store, on the same disk: nothing survives its loss"
        report.add("backend", "address", Verdict.NOTE, said, "name one with --backend to have it examined")
    else:
        say(f"the backend {url}")
        with _unmade(url):
            trio.run(_store, url, settings, report)
    held = sum(path.stat().st_blocks * 512 for path in place.cache.rglob("*") if path.is_file()) if place.cache.is_dir() else 0
    advise(report, settings, held)
    return report


@contextmanager
def _unmade(url: str) -> Iterator[None]:
    """A directory store that the block makes, since there was none, goes with it."""
    where = parse_url(url)
    path = Path(where.path) if isinstance(where, DirectoryUrl) else None
    if path is None or (path.is_dir() and any(path.iterdir())):
        yield
        return
    was_there = path.is_dir()
    try:
        yield
    finally:
        for name in (MARKER, TEMPORARY):
            left = path / name
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        if not was_there and path.is_dir():
            path.rmdir()


async def _store(url: str, settings: Settings, report: Report) -> None:
    """Ctrl-C cancels, so that what has been made is removed; it would otherwise raise in the middle of anything."""
    store = await open_store(url, settings=settings.backend)
    examined = False
    try:
        with trio.open_signal_receiver(signal.SIGINT) as signals, trio.CancelScope() as examination:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_interrupted, signals, examination)
                await examine_store(store, report)
                examined = True
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await store.aclose()
    if not examined:
        raise KeyboardInterrupt


async def _cancel_when_interrupted(signals: AsyncIterator[int], examination: trio.CancelScope) -> None:
    await anext(signals)
    examination.cancel()
