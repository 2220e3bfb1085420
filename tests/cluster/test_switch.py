"""The switch of the tests itself: what it says is lost, is lost, in that direction only, and nothing of it stays behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.switch import Rule, Switch, namespace

pytestmark = pytest.mark.mount

ECHO = """
import socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind((sys.argv[1], 5000))
print("up", flush=True)
while True:
    data, who = one.recvfrom(100)
    print(data.decode(), flush=True)
    one.sendto(data, who)
"""
ASK = """
import socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(0.4)
one.sendto(sys.argv[2].encode(), (sys.argv[1], 5000))
print(one.recv(100).decode())
"""


def asked(switch: Switch, port: int, target: int, text: str) -> bool:
    done = subprocess.run(
        [*switch.within(port), sys.executable, "-c", ASK, switch.ip(target), text], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() == text


def test_packets_are_lost_late_or_there_as_the_rules_say() -> None:
    with Switch(2, seed=1) as switch:
        echo = subprocess.Popen(
            [*switch.within(2), sys.executable, "-c", ECHO, switch.ip(2)],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert echo.stdout is not None
            assert echo.stdout.readline() == "up\n"
            assert asked(switch, 1, 2, "one")
            assert asked(switch, 0, 2, "from the root")
            switch.silence(2, 1)
            assert not asked(switch, 1, 2, "heard, and not answered")
            switch.clear()
            switch.cut(1)
            assert not asked(switch, 1, 2, "not heard")
            assert asked(switch, 0, 2, "others are")
            switch.clear()
            switch.rule(1, 2, Rule(delay_s=0.2))
            began = time.monotonic()
            assert asked(switch, 1, 2, "late")
            assert time.monotonic() - began >= 0.2
            switch.rule(1, 2, Rule(loss=1.0))
            assert not asked(switch, 1, 2, "lost")
        finally:
            echo.kill()
            echo.wait(10)
        heard = echo.stdout.read().split("\n")
        echo.stdout.close()
        assert heard == ["one", "from the root", "heard, and not answered", "others are", "late", ""]
        tag = switch.tag
    assert not any(Path("/run/netns", namespace(tag, port)).exists() for port in (1, 2))
    assert f"vp{tag}" not in Path("/proc/net/dev").read_text()
