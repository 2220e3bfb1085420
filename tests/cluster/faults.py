"""What may happen to hosts and to the network between them: one thing at a time, or two, chosen from a seed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from tests.cluster.hosts import Host, Hosts
from tests.cluster.switch import Rule
from tests.mounted_pool import wait_until

LEASE_S = 4.0
EXPIRED_S = 40.0


def cut_one(chosen: random.Random, hosts: Hosts) -> str:
    """One host is alone."""
    host = chosen.choice(hosts)
    hosts.switch.cut(host.number)
    return f"{host} is cut off"


def cut_two(chosen: random.Random, hosts: Hosts) -> str:
    """Two hosts do not see each other; all others see both."""
    one, other = chosen.sample(hosts, 2)
    hosts.switch.cut(one.number, other.number)
    return f"{one} and {other} do not see each other"


def silence_one(chosen: random.Random, hosts: Hosts) -> str:
    """A host hears and is not heard."""
    host = chosen.choice(hosts)
    hosts.switch.silence(host.number)
    return f"{host} is not heard"


def deafen_one(chosen: random.Random, hosts: Hosts) -> str:
    """A host is heard and does not hear."""
    host = chosen.choice(hosts)
    for other in hosts:
        if other is not host:
            hosts.switch.silence(other.number, host.number)
    return f"{host} does not hear"


def split(chosen: random.Random, hosts: Hosts) -> str:
    """The hosts are in two parts; the registry's leader may be in the smaller one."""
    mixed = chosen.sample(hosts, len(hosts))
    few = mixed[: (len(mixed) - 1) // 2]
    for host in few:
        hosts.switch.cut(host.number, *(other.number for other in mixed if other not in few))
    return f"{', '.join(map(str, few))} on one side, the rest on the other"


def bad_wires(chosen: random.Random, hosts: Hosts) -> str:
    """Everything is late, and some of it is lost."""
    rule = Rule(loss=chosen.choice((0.02, 0.1, 0.25)), delay_s=chosen.choice((0.0, 0.005, 0.03)), jitter_s=0.01)
    for one in hosts:
        for other in hosts:
            if one is not other:
                hosts.switch.rule(one.number, other.number, rule)
    return f"loss {rule.loss:.0%}, delay {rule.delay_s * 1e3:.0f} ms"


def far_away(chosen: random.Random, hosts: Hosts) -> str:
    """All hosts are far from each other: an answer takes about a third of a second."""
    rule = Rule(delay_s=0.15, jitter_s=chosen.choice((0.0, 0.05)))
    for one in hosts:
        for other in hosts:
            if one is not other:
                hosts.switch.rule(one.number, other.number, rule)
    return f"delay {rule.delay_s * 1e3:.0f} ms"


def full_disk(chosen: random.Random, hosts: Hosts) -> str:
    """Somebody else has taken all room on the disk of a host's cache."""
    host = chosen.choice(hosts)
    assert host.disk is not None
    host.disk.fill()
    return f"the disk of {host} is full"


def short_pause(chosen: random.Random, hosts: Hosts) -> str:
    """A host stands still for less than a lease."""
    host, seconds = chosen.choice(hosts), chosen.uniform(0.2, 0.6 * LEASE_S)
    host.pause()
    time.sleep(seconds)
    host.resume()
    return f"{host} stood still for {seconds:.1f} s"


def long_pause(chosen: random.Random, hosts: Hosts) -> str:
    """A host stands still until the others have declared it dead."""
    host = chosen.choice(hosts)
    rest = [other for other in hosts if other is not host]
    host.pause()
    wait_until(lambda: is_expired(rest, host), f"{host} is declared dead", EXPIRED_S)
    host.resume()
    return f"{host} stood still until it was declared dead"


def lose_one(chosen: random.Random, hosts: Hosts) -> str:
    """A host is gone until the others have declared it dead, and whoever can has taken over what it owned."""
    host = chosen.choice(hosts)
    host.kill()
    rest = [other for other in hosts if other is not host]
    wait_until(lambda: is_expired(rest, host), f"{host} is declared dead", EXPIRED_S)
    time.sleep(chosen.uniform(0.0, 2.0))
    return f"{host} is lost"


def is_expired(rest: Sequence[Host], host: Host) -> bool:
    """Whether the registry, as the first of the rest has it, says so."""
    record = rest[0].node(host)
    return record is not None and record.expired


def kill_one(chosen: random.Random, hosts: Hosts) -> str:
    """All of a host's processes are gone."""
    host = chosen.choice(hosts)
    host.kill()
    return f"{host} is killed"


def kill_daemon(chosen: random.Random, hosts: Hosts) -> str:
    """The daemon is gone, and its registry learns it from that."""
    host = chosen.choice(hosts)
    host.kill(daemon_only=True)
    return f"the daemon of {host} is killed"


Fault = Callable[[random.Random, Hosts], str]
QUICK: tuple[Fault, ...] = (cut_one, cut_two, silence_one, deafen_one, bad_wires, short_pause, kill_one)
ALL: tuple[Fault, ...] = (*QUICK, far_away, split, full_disk, long_pause, kill_daemon, lose_one)
