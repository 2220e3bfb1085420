"""Surveys of an open volume: what of it is mapped, looked up beside the I/O without reading any data."""

from __future__ import annotations

import trio

from engine import Survey
from volumedriver.volume import Volume
from vpool.errors import VPoolError

CLUSTERS_MAX = 1 << 20  # of one survey: 4 GiB of data, 24 MiB of memory


async def survey(volume: Volume, offset: int, end: int, *, clusters_max: int = CLUSTERS_MAX) -> Survey:
    """Look up what is mapped in bytes ``offset`` to ``end``; ends early, at ``position``, when it has met ``clusters_max``.

    Nodes of the checkpoint that are not here are fetched. Corrupt, Halted; Unavailable only after ``stall_s``.
    """
    while True:
        native = volume.native
        try:
            found = Survey(native, offset, end, clusters_max=clusters_max)
            while (plan := await trio.to_thread.run_sync(found.step)) is not None:
                await volume.supply(plan)
        except VPoolError as error:
            await volume.exchanged(native, error)
        else:
            return found
