"""pjdfstest, the POSIX suite for file systems (its rewrite in Rust), on the mount: every case that can run must pass.

`make test` installs it into ``target/tools``; set ``VPOOL_PJDFSTEST`` to use another one.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.mounted_pool import MountedPool

TOOL = Path(os.environ.get("VPOOL_PJDFSTEST", Path(__file__).parents[2] / "target/tools/bin/pjdfstest"))
CONFIGURATION = """
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"""
SMALL_CACHE = {
    "VPOOL_CACHE__SIZE_BYTES": "1GiB",
    "VPOOL_VOLUMES__SOFT_BYTES": "256MiB",
    "VPOOL_VOLUMES__HARD_BYTES": "512MiB",
}
PASSED_MIN = 380  # of 398; the rest needs remounts, or a second file system, or is for other systems

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="owners and other users need root"),
    pytest.mark.skipif(not TOOL.exists(), reason=f"{TOOL} is not installed: make target/stamps/pjdfstest"),
]


def test_every_case_that_can_run_passes(tmp_path: Path) -> None:
    configuration = tmp_path / "pjdfstest.toml"
    configuration.write_text(CONFIGURATION)
    with tempfile.TemporaryDirectory(prefix="vpool-", dir="/tmp") as top:  # the path of a socket has at most 107 bytes
        Path(top).chmod(0o755)
        with MountedPool(Path(top) / "pool", Path(top) / "m", environment=SMALL_CACHE) as pool:
            pool.mount.chmod(0o755)
            command = [str(TOOL), "--configuration-file", str(configuration), "--path", str(pool.mount)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    summary = re.search(r"Summary: (\d+) failed, (\d+) skipped, (\d+) passed", done.stdout)
    assert summary is not None, done.stdout[-2000:] + done.stderr[-2000:]
    failures = [line.split()[0] for line in done.stdout.splitlines() if line.endswith("FAILED")]
    assert not failures
    assert int(summary[1]) == 0
    assert int(summary[3]) >= PASSED_MIN, summary[0]
