"""A switch in user space: a network namespace per host, and one process between them that may lose, delay or cut what passes.

Kernels do not all have netem, and a route that leads nowhere tells the sender so; here a lost packet is just lost, and each
direction of each pair of hosts has a rule of its own. ``python -m tests.cluster.switch TAG COUNT SEED`` makes the namespaces,
each with one TUN device, and the root's device, then takes rules as lines of JSON on its standard input and answers each with a
line. When its input ends, for whatever reason, it removes everything that it has made. Needs root and ``/dev/net/tun``.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import random
import selectors
import signal
import struct
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Self

from tests.cluster.registries import free_port

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MTU_BYTES = 60_000  # few large packets: each costs a turn of a Python loop
REGISTRY_PORT = 9470
QUEUED_MAX = 4096  # packets that are delayed; more are lost, as in any switch


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens on the way from one port to another."""

    cut: bool = False
    loss: float = 0.0  # of one
    delay_s: float = 0.0
    jitter_s: float = 0.0  # at most so much more; packets may overtake each other


CLEAR = Rule()


class Switch:
    """The process, as the test holds it. Hosts are numbered from 1; 0 is the namespace of the test itself."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self._seed = count, seed
        self.tag = f"{os.getpid() % 46656:x}"
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.cluster.switch", self.tag, str(self.count), str(self._seed)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True
        )
        try:
            self._answered()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def ip(self, port: int) -> str:
        """Address of a host, or of the root's end."""
        return f"10.{214 + os.getpid() // 250 % 8}.{os.getpid() % 250}.{port + 1}"

    def address(self, port: int) -> str:
        """Where a host's registry listens; its daemon at the next port."""
        return f"{self.ip(port)}:{REGISTRY_PORT}"

    def within(self, port: int) -> tuple[str, ...]:
        """What to put before a command so that it runs on a host's network, and sees the same files and mounts as everybody."""
        return ("nsenter", f"--net=/run/netns/{namespace(self.tag, port)}", "--") if port else ()

    def rule(self, source: int, target: int, rule: Rule) -> None:
        """From now on, in this direction."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([source, target, asdict(rule)]) + "\n")
        self._answered()

    def clear(self) -> None:
        """Everybody reaches everybody."""
        for source in range(self.count + 1):
            for target in range(self.count + 1):
                if source != target:
                    self.rule(source, target, CLEAR)

    def cut(self, port: int, *others: int) -> None:
        """Nothing goes between a host and the others (all other hosts, if none is named), in either direction."""
        for other in others or [each for each in range(1, self.count + 1) if each != port]:
            self.rule(port, other, Rule(cut=True))
            self.rule(other, port, Rule(cut=True))

    def silence(self, port: int, *others: int) -> None:
        """What a host sends to the others is lost; what they send arrives."""
        for other in others or [each for each in range(1, self.count + 1) if each != port]:
            self.rule(port, other, Rule(cut=True))

    def _answered(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line != "done\n":
            raise RuntimeError(f"the switch has ended: {line!r}")


class Loopback:
    """Hosts that share the root's network: nothing between them can be harmed, and nothing costs more than it must."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._addresses = [f"127.0.0.{port + 1}:{free_port()}" for port in range(count + 1)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ip(self, port: int) -> str:
        """Address of a host."""
        return self.address(port).partition(":")[0]

    def address(self, port: int) -> str:
        """Where a host's registry listens."""
        return self._addresses[port]

    def within(self, port: int) -> tuple[str, ...]:
        """Nothing to put before a command."""
        return ()

    def clear(self) -> None:
        """Nothing was ever in the way."""


def namespace(tag: str, port: int) -> str:
    """Its name."""
    return f"vpool{tag}h{port}"


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True, timeout=20)


def _device(name: str) -> int:
    """A new TUN device, which is there as long as its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


def _lay(tag: str, count: int, addresses: list[str]) -> list[int]:
    devices = []
    for port, address in enumerate(addresses):
        name = f"vp{tag}t{port}"
        devices.append(_device(name))
        where: list[str] = []
        if port:
            _ip("netns", "add", namespace(tag, port))
            _ip("link", "set", name, "netns", namespace(tag, port))
            where = ["-n", namespace(tag, port)]
            _ip(*where, "link", "set", "lo", "up")
        _ip(*where, "link", "set", name, "mtu", str(MTU_BYTES))
        _ip(*where, "addr", "add", f"{address}/24", "dev", name)
        _ip(*where, "link", "set", name, "up")
    assert len(devices) == count + 1
    return devices


class _Forwarding:
    """The loop."""

    def __init__(self, devices: list[int], seed: int) -> None:
        self.devices, self.chosen = devices, random.Random(seed)
        self.rules: dict[tuple[int, int], Rule] = {}
        self.late: list[tuple[float, int, int, bytes]] = []
        self.number = 0

    def run(self) -> None:
        """Until the standard input ends."""
        with selectors.DefaultSelector() as selector:
            for port, device in enumerate(self.devices):
                selector.register(device, selectors.EVENT_READ, port)
            selector.register(0, selectors.EVENT_READ, None)
            while True:
                wait_s = max(0.0, self.late[0][0] - time.monotonic()) if self.late else None
                for key, _ in selector.select(wait_s):
                    if key.data is not None:
                        self._drain(key.data)
                    elif not self._command():
                        return
                self._deliver()

    def _command(self) -> bool:
        line = sys.stdin.readline()
        if not line:
            return False
        source, target, rule = json.loads(line)
        self.rules[source, target] = Rule(**rule)
        print("done", flush=True)
        return True

    def _drain(self, source: int) -> None:
        for _ in range(64):
            try:
                packet = os.read(self.devices[source], MTU_BYTES)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4:
                continue
            target = packet[19] - 1
            if not 0 <= target < len(self.devices):
                continue
            rule = self.rules.get((source, target), CLEAR)
            if rule.cut or (rule.loss and self.chosen.random() < rule.loss):
                continue
            if not rule.delay_s and not rule.jitter_s:
                self._send(target, packet)
            elif len(self.late) < QUEUED_MAX:
                due = time.monotonic() + rule.delay_s + rule.jitter_s * self.chosen.random()
                self.number += 1
                heapq.heappush(self.late, (due, self.number, target, packet))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self.late and self.late[0][0] <= now:
            _, _, target, packet = heapq.heappop(self.late)
            self._send(target, packet)

    def _send(self, target: int, packet: bytes) -> None:
        try:
            os.write(self.devices[target], packet)
        except (BlockingIOError, OSError):
            return  # its queue is full, or it is down: lost, as on any wire


def main() -> None:
    """See the top."""
    tag, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of the input is what ends this
    devices: list[int] = []
    try:
        parent = os.getppid()
        addresses = [f"10.{214 + parent // 250 % 8}.{parent % 250}.{port + 1}" for port in range(count + 1)]
        devices = _lay(tag, count, addresses)
        print("done", flush=True)
        _Forwarding(devices, seed).run()
    finally:
        for device in devices:
            os.close(device)
        for port in range(1, count + 1):
            _ip("netns", "del", namespace(tag, port), check=False)


if __name__ == "__main__":
    main()
