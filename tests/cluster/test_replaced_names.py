"""A name that one host replaces by renaming over it is there at every moment for all others, with the old content or the new."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tests.cluster.hosts import hosts

pytestmark = pytest.mark.mount

SECONDS = 4.0


def test_what_is_replaced_on_one_host_is_never_absent_on_another(tmp_path: Path) -> None:
    """Linux asks for a name, and then for what it has found: if that is gone by then, it must be told to look again."""
    with hosts(tmp_path, 2) as (writer, reader):
        (writer.mount / "settings").write_bytes(b"0")
        stop, replaced, wrong = threading.Event(), [0], []

        def replace() -> None:
            while not stop.is_set():
                replaced[0] += 1
                (writer.mount / "new").write_bytes(b"%d" % replaced[0])
                (writer.mount / "new").rename(writer.mount / "settings")

        def look(path: Path) -> None:
            last = 0
            while not stop.is_set():
                try:
                    os.lstat(path)
                    with path.open("rb", buffering=0) as file:
                        found = int(file.read() or b"-1")
                    assert found >= last, f"{found} after {last}"
                    last = found
                except (OSError, AssertionError) as error:
                    wrong.append(error)
                    return

        threads = [threading.Thread(target=replace, daemon=True)]
        threads += [threading.Thread(target=look, args=(host.mount / "settings",), daemon=True) for host in (writer, reader)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and not wrong:
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert not wrong, wrong
        assert replaced[0] > 10
