"""A whole OpenStack Swift on loopback: three zones, three replicas, proxy with tempauth and s3api.

As a pytest plugin (``pytest_plugins = ["tests.swift_server"]``) it has the session fixture ``swift_server``. As a script it runs
one until it is interrupted: ``python -m tests.swift_server`` prints the addresses and credentials as one line of JSON.
No process is shared with another session: ports are free ones, files are in a temporary directory, processes are stopped by id.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parent.parent
USER, KEY = "test:tester", "testing"
READER, READER_KEY = "test:reader", "reading"  # in the same account without a role: may do nothing there
ZONES = (1, 2, 3)
KINDS = ("account", "container", "object")
START_DEADLINE_S = 90.0
MEMORY_FREE_BYTES_MIN = 4 << 30
XATTR_BYTES = 4096  # Swift writes metadata in pieces of this size less a little
_PR_SET_PDEATHSIG = 1


def environment() -> Path:
    """The environment with Swift in it, made where it is missing."""
    path = Path(os.environ.get("VPOOL_SWIFT_VENV", TOP / ".venv-swift"))
    subprocess.run([TOP / "tests/swift/setup.sh", path], check=True)
    return path


@dataclass
class SwiftServer:
    """One Swift. ``start`` and ``stop`` are blocking; so are ``stop_one`` and ``start_one`` for a server like ``object-2``."""

    root: Path
    bin: Path
    address: str = "127.0.0.1"  # where the proxy listens
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    # The kernel counts the thread that started a process as its parent; this one lives as long as the server.
    _parent: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(max_workers=1))

    @property
    def host(self) -> str:
        """Where the proxy listens."""
        return f"{self.address}:{self.ports['proxy']}"

    @property
    def swift_url(self) -> str:
        """The address for vPool, by Swift's own protocol."""
        return f"swift:http://{self.host}/auth/v1.0"

    @property
    def s3_url(self) -> str:
        """The address for vPool, by S3; append /PREFIX or ?options."""
        return f"s3:http://{self.host}"

    @property
    def environ(self) -> dict[str, str]:
        """Credentials for both."""
        return {"ST_USER": USER, "ST_KEY": KEY, "AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": KEY}

    def start(self) -> None:
        """Write the configuration and start all servers; returns when an object can be stored."""
        self._write()
        try:
            for name in self._names():
                self._spawn(name)
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill all that runs: asked politely, Swift waits for clients that keep their connections."""
        for process in self.processes.values():
            process.kill()
        for name in list(self.processes):
            self.stop_one(name)
        self._parent.shutdown()

    def stop_one(self, name: str) -> None:
        """Kill one server, as a crash would; returns when its process is gone."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def start_one(self, name: str) -> None:
        """Start one server again; returns when it takes connections, and the proxy has forgotten that it was away."""
        self._spawn(name)
        if name != "proxy":
            self.stop_one("proxy")
            self.start_one("proxy")
        self._wait(lambda: self._listens(name), f"{name} does not listen")

    def log(self, name: str) -> str:
        """The end of what a server has written."""
        path = self.root / "log" / f"{name}.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def _names(self) -> list[str]:
        return [f"{kind}-{zone}" for zone in ZONES for kind in KINDS] + ["proxy"]

    def _write(self) -> None:
        for part in ("etc", "log", "cache", *(f"data/{zone}/disk" for zone in ZONES)):
            (self.root / part).mkdir(parents=True, exist_ok=True)
        self.ports = dict(zip(self._names(), _free_ports(len(self._names())), strict=True))
        etc = self.root / "etc"
        (etc / "swift.conf").write_text(SWIFT_CONF)
        general = f"swift_dir = {etc}\nuser = {_user()}\nworkers = 0\nlog_level = WARNING\nlog_address = {self.root}/log/none\n"
        for kind in KINDS:
            for zone in ZONES:
                port = self.ports[f"{kind}-{zone}"]
                settings = f"bind_ip = 127.0.0.1\nbind_port = {port}\ndevices = {self.root}/data/{zone}\n{general}"
                text = SERVER_CONF.format(kind=kind, settings=settings, cache=self.root / "cache")
                (etc / f"{kind}-{zone}.conf").write_text(text)
        proxy = f"bind_ip = {self.address}\nbind_port = {self.ports['proxy']}\n{general}"
        (etc / "proxy.conf").write_text(PROXY_CONF.format(settings=proxy, user_key=KEY, reader_key=READER_KEY))
        rings = {kind: [self.ports[f"{kind}-{zone}"] for zone in ZONES] for kind in KINDS}
        self._run([self.bin / "python", "-c", RING_PROGRAM, str(etc), json.dumps(rings)])

    def _run(self, command: list[str | Path]) -> None:
        done = subprocess.run(command, env=self._process_environ(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")

    def _process_environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        return kept | {"PYTHONPATH": str(TOP / "tests/swift"), "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}

    def _spawn(self, name: str) -> None:
        kind = name.partition("-")[0]
        command = [self.bin / f"swift-{kind}-server", self.root / "etc" / f"{name}.conf"]
        with open(self.root / "log" / f"{name}.log", "ab") as log:
            self.processes[name] = self._parent.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._process_environ(),
                preexec_fn=_die_with_parent,  # also when the test process is killed
            ).result()

    def _wait_ready(self) -> None:
        for name in self._names():
            self._wait(partial(self._listens, name), f"{name} does not listen")
        self._wait(self._stores, "Swift does not store an object")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + START_DEADLINE_S
        while not condition():
            dead = [name for name, process in self.processes.items() if process.poll() is not None]
            if dead or time.monotonic() > until:
                logs = "\n".join(f"--- {name}\n{self.log(name)}" for name in (dead or self.processes))
                raise RuntimeError(f"{what}; ended: {dead}\n{logs}")
            time.sleep(0.1)

    def _listens(self, name: str) -> bool:
        address = self.address if name == "proxy" else "127.0.0.1"
        with contextlib.suppress(OSError), socket.create_connection((address, self.ports[name]), timeout=1):
            return True
        return False

    def _stores(self) -> bool:
        """Make a container and an object, read it, remove both."""
        try:
            with _request("GET", f"http://{self.host}/auth/v1.0", {"X-Auth-User": USER, "X-Auth-Key": KEY}) as answer:
                account, token = answer.headers["X-Storage-Url"], {"X-Auth-Token": answer.headers["X-Auth-Token"]}
            for method, path in (
                ("PUT", "/probe"),
                ("PUT", "/probe/o"),
                ("GET", "/probe/o"),
                ("DELETE", "/probe/o"),
                ("DELETE", "/probe"),
            ):
                _request(method, account + path, token).close()
        except (urllib.error.URLError, OSError):
            return False
        return True


def _request(method: str, url: str, headers: dict[str, str]) -> Any:
    data = b"ready" if method == "PUT" else None
    return urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers, method=method), timeout=10)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all are held until all are known, so that they differ."""
    held = []
    try:
        for _ in range(count):
            held.append(socket.socket())
            held[-1].bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def memory_directory() -> Path | None:
    """A file system in memory where Swift can live (extended attributes, room), or None: tests want its answers, not its disk."""
    place = Path("/dev/shm")
    if not place.is_dir() or shutil.disk_usage(place).free < MEMORY_FREE_BYTES_MIN:
        return None
    with tempfile.NamedTemporaryFile(dir=place) as probe:
        try:
            os.setxattr(probe.name, "user.probe", bytes(XATTR_BYTES))
        except OSError:
            return None
    return place


@contextlib.contextmanager
def running_swift(directory: Path | None = None, *, address: str = "127.0.0.1") -> Iterator[SwiftServer]:
    """A Swift of one's own, gone at the end; its files are below ``directory``, or where temporary files are."""
    binaries = environment() / "bin"
    root = Path(tempfile.mkdtemp(prefix="vpool-swift-", dir=directory))
    server = SwiftServer(root, binaries, address)
    try:
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def swift_server() -> Iterator[SwiftServer]:
    """A Swift for the whole session, in memory where that can be; a test that stops a part of it starts it again."""
    with running_swift(memory_directory()) as server:
        yield server


def main() -> None:
    """Run until interrupted or terminated."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), running_swift() as server:
        print(json.dumps({"swift_url": server.swift_url, "s3_url": server.s3_url, "environ": server.environ}), flush=True)
        signal.pause()


SWIFT_CONF = """\
[swift-hash]
swift_hash_path_prefix = vpool
swift_hash_path_suffix = tests

[storage-policy:0]
name = three-replicas
policy_type = replication
default = yes
"""

# Patient, since many tests share few cores: with Swift's own time-outs a busy host looks like a broken one, and a listing
# that missed an update would miss it until an updater runs, which is not started here. A server that is really gone is left
# alone by the proxy after two errors and for good, so that it is always the same replica of a container that misses its
# updates.
SERVER_CONF = """\
[DEFAULT]
mount_check = false
fallocate_reserve = 0
recon_cache_path = {cache}
conn_timeout = 10
node_timeout = 60
{settings}
[pipeline:main]
pipeline = {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
container_update_timeout = 30
"""

PROXY_CONF = """\
[DEFAULT]
{settings}
[pipeline:main]
pipeline = catch_errors gatekeeper memory-cache listing_formats bulk s3api tempauth slo dlo versioned_writes proxy-server

[filter:memory-cache]
paste.filter_factory = memory_cache:filter_factory

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:gatekeeper]
use = egg:swift#gatekeeper

[filter:listing_formats]
use = egg:swift#listing_formats

[filter:bulk]
use = egg:swift#bulk

[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = no
check_bucket_owner = no

[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {user_key} .admin
user_test_reader = {reader_key}

[filter:slo]
use = egg:swift#slo

[filter:dlo]
use = egg:swift#dlo

[filter:versioned_writes]
use = egg:swift#versioned_writes

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 10
node_timeout = 60
error_suppression_limit = 1
error_suppression_interval = 3600
allow_account_management = true
"""

RING_PROGRAM = """\
import json, sys
from swift.common.ring import RingBuilder
etc, kinds = sys.argv[1], json.loads(sys.argv[2])
for kind, ports in kinds.items():
    builder = RingBuilder(6, 3, 0)
    for zone, port in enumerate(ports, 1):
        place = {"id": zone - 1, "region": 1, "zone": zone, "ip": "127.0.0.1", "port": port, "device": "disk"}
        builder.add_dev(place | {"weight": 1.0})
    builder.rebalance()
    builder.get_ring().save(f"{etc}/{kind}.ring.gz")
"""

if __name__ == "__main__":
    main()
