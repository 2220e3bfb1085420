"""A node as a service: what systemd is told, when the watchdog is fed, how it stops, and how it comes back without a hand."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.running import picture, vpool
from tests.mounted_pool import mounts_at, wait_until
from tests.served_pool import ServedPool
from vpool.errors import Conflict, Invalid
from vpool.exitcodes import EXIT_CODES, LEFT_IN_CACHE, STOP_TIMED_OUT

pytestmark = pytest.mark.mount

MIB = 1 << 20
WATCHDOG_S = 1.2

Maker = Callable[..., ServedPool]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Maker]:
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(ServedPool(tmp_path, **settings))


def test_systemd_is_told_from_the_start_to_the_end(make: Maker) -> None:
    service = make()
    service.start()
    told = service.notifications
    assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in told.lines)
    assert told.lines[-2:] == ["READY=1", f"STATUS=serving {service.mount}"]
    (service.mount / "disk.raw").write_bytes(os.urandom(MIB))  # ready means that requests can come
    for child in service.children():
        environment = Path(f"/proc/{child}/environ").read_bytes()
        assert b"NOTIFY_SOCKET" not in environment, "a child could speak for the service"
    assert service.stop() == 0
    told.wait_for("STOPPING=1", 1)
    assert told.lines[-1] == f"EXTEND_TIMEOUT_USEC={(2 * 5 + 30 + 60) * 1_000_000}"
    assert mounts_at(service.mount) == 0


def test_a_stop_leaves_nothing_behind(make: Maker) -> None:
    service = make()
    service.start()
    data = os.urandom(9 * MIB)
    (service.mount / "disk.raw").write_bytes(data)
    (service.mount / "file").write_bytes(data[:100_000])
    assert service.stop() == 0
    assert service.events("daemon_stopped")[-1]["left_in_cache"] == 0
    shutil.rmtree(service.directory / "cache")
    service.start()
    assert (service.mount / "disk.raw").read_bytes() == data
    assert (service.mount / "file").read_bytes() == data[:100_000]
    assert service.stop() == 0


def test_what_a_stop_leaves_behind_is_said_and_is_sent_after_the_next_start(make: Maker) -> None:
    service = make(more="tlog_age_s = 3600\nstop_s = 1\n")
    service.start()
    data = os.urandom(3 * MIB)
    (service.mount / "machines").mkdir()
    (service.mount / "machines/disk.raw").write_bytes(data)
    backend = service.directory / "backend"
    backend.rename(service.directory / "away")
    assert service.stop() == LEFT_IN_CACHE
    (left,) = service.events("tail_left_in_cache")
    assert left["path"] == "/machines/disk.raw"
    assert int(str(left["bytes"])) >= len(data)
    assert "backend" in str(left["reason"])
    (service.directory / "away").rename(backend)
    service.start()
    wait_until(lambda: json.loads(vpool("status", "--json").out)["objects"] != [], "the tail is taken up", 20)
    assert service.stop() == 0
    shutil.rmtree(service.directory / "cache")
    service.start()
    assert (service.mount / "machines/disk.raw").read_bytes() == data


def test_a_stop_that_takes_too_long_is_ended(make: Maker) -> None:
    """Here the registry hangs; nothing acknowledged is lost."""
    service = make(node="stop_margin_s = 1", more="stop_s = 0\n[fuse]\nstop_s = 0.5\n")
    service.start()
    data = os.urandom(MIB)
    (service.mount / "disk.raw").write_bytes(data)
    (registry,) = service.children()
    os.kill(registry, signal.SIGSTOP)
    began = time.monotonic()
    assert service.stop() == STOP_TIMED_OUT
    assert time.monotonic() - began < 8
    assert service.events("stop_timed_out")
    assert mounts_at(service.mount) == 0
    os.kill(registry, signal.SIGCONT)  # it has been told to end with its parent
    wait_until(lambda: not Path(f"/proc/{registry}").exists(), "the registry ends", 10)
    service.start()
    assert (service.mount / "disk.raw").read_bytes() == data


def test_the_watchdog_is_fed_only_while_the_registry_answers(make: Maker) -> None:
    service = make(watchdog_s=WATCHDOG_S)
    service.start()
    told = service.notifications
    for _ in range(4):
        told.wait_for("WATCHDOG=1", WATCHDOG_S)
    (registry,) = service.children()
    os.kill(registry, signal.SIGSTOP)
    try:
        told.receive(WATCHDOG_S / 3)  # one may have been under way
        end = time.monotonic() + 2 * WATCHDOG_S
        while time.monotonic() < end:
            assert "WATCHDOG=1" not in told.receive(0.1)
        (late,) = service.events("data_path_does_not_answer")
        assert late["part"] == "registry"
    finally:
        os.kill(registry, signal.SIGCONT)
    told.wait_for("WATCHDOG=1", WATCHDOG_S)
    assert service.stop() == 0


def test_a_backend_that_is_away_does_not_starve_the_watchdog(make: Maker) -> None:
    """Writers wait, as promised; a restart would bring nothing."""
    service = make(
        watchdog_s=WATCHDOG_S,
        settings='[cache]\nsize_bytes = "256MiB"\n[volumes]\nsoft_bytes = "8MiB"\nhard_bytes = "16MiB"\nscos_per_tlog = 1\n',
    )
    service.start()
    backend = service.directory / "backend"
    backend.rename(service.directory / "away")
    writer = subprocess.Popen(
        ["dd", "if=/dev/zero", f"of={service.mount}/disk.raw", "bs=1M", "count=64"], stderr=subprocess.DEVNULL
    )
    wait_until(lambda: _waiting_writers() > 0, "a writer waits at the hard limit", 60)
    service.notifications.receive()
    for _ in range(4):
        service.notifications.wait_for("WATCHDOG=1", WATCHDOG_S)
    (service.directory / "away").rename(backend)
    assert writer.wait(60) == 0
    assert service.stop() == 0


def _waiting_writers() -> int:
    return sum(item["waiting_writers"] for item in json.loads(vpool("status", "--json").out)["objects"])


def test_the_watchdogs_signal_leaves_stacks_in_the_log_and_a_way_back(make: Maker) -> None:
    """What systemd does: SIGABRT, then ExecStopPost=vpool umount, then a start."""
    service = make()
    service.start()
    data = os.urandom(MIB)
    (service.mount / "disk.raw").write_bytes(data)
    assert service.kill(signal.SIGABRT) == -signal.SIGABRT
    assert "Current thread" in service.said()
    assert mounts_at(service.mount) == 1
    with pytest.raises(OSError, match="not connected"):
        os.listdir(service.mount)
    done = vpool("umount", "--config", service.config)
    assert (done.code, done.out) == (0, f"{service.mount} is free: the mount was undone\n")
    assert os.listdir(service.mount) == []
    assert vpool("umount", service.mount).out == f"nothing is mounted on {service.mount}\n"
    service.start()
    assert (service.mount / "disk.raw").read_bytes() == data


def test_it_starts_without_a_hand_on_whatever_a_power_failure_leaves(make: Maker, runtime_directory: Path) -> None:
    service = make()
    service.start()
    data = os.urandom(5 * MIB)
    with (service.mount / "disk.raw").open("wb") as disk:
        disk.write(data)
        disk.flush()
        os.fsync(disk.fileno())
        node = next(runtime_directory.iterdir()).name
        assert service.process is not None
        os.killpg(service.process.pid, signal.SIGKILL)  # the registry too: nobody has a moment to tidy up
        service.process.wait(30)
        (service.directory / "vpool.json.new").write_text("{")
        for path in ("admin.sock", "registry/socket", "registry/lock"):
            assert (service.directory / path).exists(), "stale, as after a power failure"
        (runtime_directory / node).unlink()
        (runtime_directory / node).symlink_to("/nowhere")
        assert mounts_at(service.mount) == 1
        service.start()
        with contextlib.suppress(OSError):
            disk.close()
    assert (service.mount / "disk.raw").read_bytes() == data
    assert json.loads(vpool("status", "--json").out)["daemon"]["directory"] == str(service.directory)
    assert service.stop() == 0


def test_a_living_daemons_mount_is_taken_away_by_force_only(make: Maker) -> None:
    service = make()
    service.start()
    data = os.urandom(MIB)
    (service.mount / "disk.raw").write_bytes(data)
    refused = vpool("umount", service.mount)
    assert refused.code == EXIT_CODES[Conflict]
    assert "a running daemon serves" in refused.err
    assert (service.mount / "disk.raw").exists()
    assert vpool("umount", service.mount, "--force").code == 0
    assert mounts_at(service.mount) == 0
    assert service.process is not None
    assert service.process.wait(30) == 0
    service.start()
    assert (service.mount / "disk.raw").read_bytes() == data


def test_mounts_of_others_are_left_alone() -> None:
    refused = vpool("umount", "/proc", "--force")
    assert refused.code == EXIT_CODES[Conflict]
    assert "is not a vPool's mount" in refused.err
    assert mounts_at(Path("/proc")) == 1


def test_a_stuck_daemons_users_are_freed_by_force(make: Maker) -> None:
    service = make()
    service.start()
    (service.mount / "disk.raw").write_bytes(bytes(MIB))
    assert service.process is not None
    service.process.send_signal(signal.SIGSTOP)
    reader = subprocess.Popen(["stat", service.mount / "never-asked-before"], stderr=subprocess.PIPE)
    refused = vpool("umount", service.mount)
    assert refused.code == EXIT_CODES[Conflict]
    assert "does not answer" in refused.err
    assert vpool("umount", service.mount, "--force").code == 0
    _, complaint = reader.communicate(timeout=30)
    assert b"connection abort" in complaint or b"not connected" in complaint
    assert mounts_at(service.mount) == 0
    service.process.send_signal(signal.SIGCONT)
    assert service.process.wait(30) == 0


def test_the_log_goes_to_a_file_that_rotates(make: Maker, tmp_path: Path) -> None:
    file = tmp_path / "vpool.log"
    file.write_bytes(b"x" * (64 * 1024 - 10))
    service = make(more=f'[log]\nfile = "{file}"\nfile_bytes = "64KiB"\nfiles = 2\n')
    service.start()
    assert service.stop() == 0
    assert (tmp_path / "vpool.log.1").read_bytes().startswith(b"xxx")
    assert json.loads(file.read_text().splitlines()[0])["event"] == "daemon_starting"
    assert service.said().splitlines()[0].startswith("vpool ready")
    assert len(service.said().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["[node] is not complete", "directory"]),
        ('[node]\ndirectory = "/srv/x"\n', ["vpool.toml: node.directory", "belong together"]),
        ('[node]\ndirectory = "srv"\nmountpoint = "/mnt/x"\n', [":2:", "node.directory", "is not an absolute path"]),
        ('[node]\ndirectory = "/srv/x"\nmountpoint = "/mnt/x"\nbackend = "ftp:x"\n', [":4:", "node.backend"]),
        ('[node]\ndirectory = "/srv/x"\nmountpoint = "/mnt/x"\nmount = 1\n', [":4:", "unknown key 'node.mount'"]),
        ("[log]\nfiles = 0\n", [":2:", "log.files"]),
    ],
)
def test_a_bad_file_is_refused_by_line_and_key(tmp_path: Path, text: str, words: list[str]) -> None:
    config = tmp_path / "vpool.toml"
    config.write_text(text)
    before = picture(tmp_path)
    refused = vpool("serve", "--config", config)
    assert refused.code == EXIT_CODES[Invalid]
    for word in words:
        assert word in refused.err
    assert picture(tmp_path) == before


def test_a_log_file_that_cannot_be_made_is_refused(make: Maker) -> None:
    service = make(more='[log]\nfile = "/nowhere/vpool.log"\n')
    refused = vpool("serve", "--config", service.config)
    assert refused.code == 6
    assert "log.file /nowhere/vpool.log cannot be made" in refused.err
    assert not service.directory.exists()


@pytest.mark.parametrize("command", [["nonsense"], ["volume", "create"], ["umount", "--fore", "x"], ["umount"], ["serve"]])
def test_a_command_that_is_not_there_or_not_complete_is_said_in_a_sentence(command: list[str]) -> None:
    refused = vpool(*command)
    assert refused.code == EXIT_CODES[Invalid]
    assert "Traceback" not in refused.err
    assert len(refused.err.splitlines()) <= 6
