"""What people install: the wheel without a compiler or an index, the Debian package with all its parts, the service."""

from __future__ import annotations

import configparser
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounted_pool import wait_until
from vpool.exitcodes import EXIT_CODES
from vpool.manual import pages
from vpool.settings_file import load_settings

TOP = Path(__file__).parents[2]
SETTINGS = '[cache]\nsize_bytes = "256MiB"\n[volumes]\nsoft_bytes = "32MiB"\nhard_bytes = "64MiB"\n'


class Unit(configparser.RawConfigParser):
    """A unit file, in which names have their case."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def service() -> configparser.SectionProxy:
    unit = Unit(comment_prefixes=("#",), inline_comment_prefixes=None)
    unit.read(TOP / "packaging/vpool.service", encoding="utf-8")
    return unit["Service"]


def test_the_service_is_told_and_watched(service: configparser.SectionProxy) -> None:
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) >= 30
    assert service["KillMode"] == "mixed", "the registry would be stopped beside the daemon that needs it"
    assert service["ExecStopPost"].startswith("-/usr/bin/vpool umount "), "a dead daemon would leave a stuck mount"
    never_again = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert never_again <= set(EXIT_CODES.values())


def test_the_service_has_no_name_space_of_mounts(service: configparser.SectionProxy) -> None:
    """Each of these would keep the mount from everybody else."""
    hiding = (
        "Private",
        "Protect",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "InaccessiblePaths",
        "Bind",
        "TemporaryFileSystem",
        "Mount",
        "Root",
    )
    assert not [key for key in service if key.startswith(hiding) and key != "ProtectHostname"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_service(tmp_path: Path) -> None:
    text = (TOP / "packaging/vpool.service").read_text(encoding="utf-8").replace("/usr/bin/vpool", "/bin/true")
    (tmp_path / "vpool.service").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / "vpool.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "vpool.service" not in done.stderr


@pytest.mark.parametrize("script", ["debian/postinst", "debian/prerm", "debian/postrm", "wheels.sh", "deb.sh"])
def test_scripts_are_scripts(script: str) -> None:
    path = TOP / "packaging" / script
    assert os.access(path, os.X_OK)
    subprocess.run(["bash" if script.endswith(".sh") else "sh", "-n", path], check=True)


@pytest.fixture(scope="module")
def built() -> Path:
    for script in ("wheels.sh", "deb.sh"):
        subprocess.run([TOP / "packaging" / script, sys.executable], check=True, timeout=1800)
    return TOP / "dist"


def serves(command: list[str | Path], top: Path, environment: dict[str, str] | None = None) -> None:
    """``vpool up`` of an installation: a file through its mount, a clean stop."""
    (top / "m").mkdir()
    (top / "s.toml").write_text(SETTINGS)
    line = [*command, "up", top / "d", top / "m", "--config", top / "s.toml"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline().startswith("vpool ready")
        (top / "m/file").write_bytes(b"through an installation")
        assert (top / "m/file").read_bytes() == b"through an installation"
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0
    wait_until(lambda: not os.path.ismount(top / "m"), "the mount is gone", 10)


@pytest.mark.long
@pytest.mark.mount
def test_the_wheel_installs_without_a_compiler_and_without_an_index(built: Path, tmp_path: Path) -> None:
    python = os.path.realpath(sys.executable)
    subprocess.run([python, "-m", "venv", tmp_path / "e"], check=True)
    (wheel,) = built.glob("vpool-*.whl")
    bare = {"PATH": f"{tmp_path}/e/bin:/usr/bin:/bin", "CC": "/bin/false", "HOME": str(tmp_path), "CARGO": "/bin/false"}
    install: list[str | Path] = [
        tmp_path / "e/bin/pip",
        "install",
        "--quiet",
        "--no-index",
        "--only-binary",
        ":all:",
        "--find-links",
        built / "wheels",
    ]
    subprocess.run([*install, wheel], check=True, env=bare, timeout=600)
    serves([tmp_path / "e/bin/vpool"], tmp_path, bare)


@pytest.mark.long
@pytest.mark.mount
@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="not a Debian")
def test_the_debian_package_has_all_its_parts(built: Path, tmp_path: Path) -> None:
    (package,) = built.glob("vpool_*.deb")
    root = tmp_path / "root"
    subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    assert load_settings(root / "etc/vpool/vpool.toml").node.directory == Path("/var/lib/vpool/node")
    assert (root / "etc/vpool/environment").stat().st_mode & 0o777 == 0o600
    manuals = {path.name.removesuffix(".gz") for path in (root / "usr/share/man").rglob("*.gz")}
    assert manuals == set(pages())
    for path in (
        "lib/systemd/system/vpool.service",
        "usr/share/bash-completion/completions/vpool",
        "usr/share/zsh/vendor-completions/_vpool",
        "usr/share/fish/vendor_completions.d/vpool.fish",
        "usr/share/doc/vpool/copyright",
    ):
        assert (root / path).stat().st_size > 0
    control = subprocess.run(["dpkg-deb", "--field", package], capture_output=True, text=True, check=True).stdout
    assert "fuse3" in control
    launcher = tmp_path / "vpool"
    text = (root / "usr/bin/vpool").read_text()
    launcher.write_text(text.partition("\n")[2].replace("/usr/lib/vpool", str(root / "usr/lib/vpool")))
    serves([os.path.realpath(sys.executable), "-P", launcher], tmp_path)
