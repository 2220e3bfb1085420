"""``vpool serve``: a node as a service, all of it from one file.

What it has beyond ``vpool up``: it tells systemd how far it is and, while its data path is healthy, that it lives; a stop has a
limit; and the exit code says whether the backend has got everything, and the registry knows it.
"""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path

from vpool.daemon import Orders, run
from vpool.errors import Invalid
from vpool.service_manager import ServiceManager
from vpool.settings import Settings
from vpool.settings_file import load_settings


def serve(config: Path) -> int:
    """Run the node that a file describes until a signal stops it; OK, LEFT_IN_CACHE or REGISTRY_UNTOLD.

    Raises:
        VPoolError: the file is wrong or the start was refused, and nothing has changed; or the node could not go on.
    """
    settings = load_settings(config)
    if settings.node.directory is None or settings.node.mountpoint is None:
        raise Invalid(f'{config}: [node] is not complete; `vpool serve` needs directory = "/DIR" and mountpoint = "/MOUNT" there')
    faulthandler.enable()  # the watchdog ends us with SIGABRT: then the log has what every thread was doing
    manager = ServiceManager.from_environment(os.environ)
    return run(
        Orders(
            settings.node.directory, settings.node.mountpoint, settings.node.backend, settings, manager, stop_limit_s(settings)
        )
    )


def stop_limit_s(settings: Settings) -> float:
    """How long a whole clean stop may take."""
    return 2 * settings.fuse.stop_s + settings.volumes.stop_s + settings.node.stop_margin_s
