"""Removing a condemned volume's bucket, so that whatever is left of it at any moment is known to be of a deleted volume.

The tombstone comes first: should the registry be lost in the middle, a recovery that finds objects of the volume (or an older
export that still names it) sees that it was deleted. It stays for as long as ``recovery.tombstone_days`` says.
"""

from __future__ import annotations

import time

from backend import ObjectStore
from volumedriver.names import TOMBSTONE, Place, tombstone_name
from vpool.errors import NotFound


async def remove_bucket(store: ObjectStore, place: Place, *, object_id: str, shared: str) -> None:
    """Delete all objects of a bucket, and the bucket; one that is not there is fine. ``shared``: where the tombstone goes.

    Only for an object that the registry has condemned. Unavailable, Denied, Conflict (a listing lags): to be tried again.
    """
    buried = False
    try:
        async for info in store.list(place.bucket):
            if not buried:
                await store.create_bucket(shared)
                await store.put(shared, tombstone_name(object_id, time.time_ns()), TOMBSTONE)
                buried = True
            await store.delete(place.bucket, info.name)
        await store.delete_bucket(place.bucket)
    except NotFound:
        return
