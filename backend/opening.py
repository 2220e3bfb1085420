"""From an address to a store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import trio

from backend.settings import BackendSettings
from backend.single_bucket import SingleBucketStore
from backend.store import ObjectStore
from backend.url import DirectoryUrl, S3Url, parse_url


async def open_store(
    url: str, *, settings: BackendSettings | None = None, environ: Mapping[str, str] | None = None
) -> ObjectStore:
    """Make the store that ``url`` names. A remote store is not asked anything yet: ``check`` does that.

    Args:
        url: see docs/backends.md; never with credentials.
        settings: the defaults where it is None.
        environ: where credentials come from; the environment of the process where it is None.

    Raises:
        Invalid: the address is wrong, credentials are missing, or the directory belongs to something else.
        Denied: the directory may not be used.
        Unavailable: the file system of the directory fails.
    """
    settings = settings or BackendSettings()
    environ = os.environ if environ is None else environ
    where = parse_url(url)
    store: ObjectStore
    # Each kind's library is imported when it is used: boto3 and python-swiftclient take most of a start's time.
    if isinstance(where, DirectoryUrl):
        from backend.directory import open_directory

        store = await trio.to_thread.run_sync(open_directory, where, settings)
    elif isinstance(where, S3Url):
        from backend.s3 import open_s3

        store = await trio.to_thread.run_sync(open_s3, where, settings, environ)
    else:
        from backend.swift import open_swift

        store = await trio.to_thread.run_sync(open_swift, where, settings, environ)
    return SingleBucketStore(store, where.single_bucket) if where.single_bucket else store


def would_be_new(url: str) -> bool:
    """Whether ``open_store`` would make the store that ``url`` names: a directory that is absent, or has nothing in it. Blocks.

    Where something has been stored already, that is a file system that is not mounted.
    """
    where = parse_url(url)
    if not isinstance(where, DirectoryUrl):
        return False
    path = Path(where.path)
    return not path.exists() or (path.is_dir() and all(entry.name == "lost+found" for entry in path.iterdir()))
