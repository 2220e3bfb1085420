"""Settings: what is wrong with a file is said by line and key; nothing unknown is taken."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from vpool.errors import Invalid
from vpool.settings import GIB, Settings, VolumeSettings
from vpool.settings_file import load_settings
from vpool.settings_page import page

TOP = Path(__file__).parents[3]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, text: str) -> str:
    with pytest.raises(Invalid) as caught:
        load_settings(write(path, text))
    return caught.value.message


def test_defaults_are_consistent() -> None:
    assert load_settings(None) == Settings()


def test_sizes_may_be_written_with_units(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path / "s.toml", '[cache]\nsize_bytes = "20GiB"\n'))
    assert settings.cache.size_bytes == 20 * GIB
    assert settings.cache.read_bytes == 4 * GIB


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPOOL_VOLUMES__TLOG_AGE_S", "3")
    settings = load_settings(write(tmp_path / "s.toml", "[volumes]\ntlog_age_s = 7\nuploads = 5\n"))
    assert (settings.volumes.tlog_age_s, settings.volumes.uploads) == (3.0, 5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[cache]\nsise_bytes = 1\n", [":2:", "unknown key 'cache.sise_bytes'", "do you mean 'size_bytes'"]),
        ("\n[cash]\n", [":2:", "unknown key 'cash'", "do you mean 'cache'"]),
        ("[volumes]\n\nuploads = 0\n", [":3:", "volumes.uploads", "greater than or equal to 1", "is 0"]),
        ('[cache]\nsize_bytes = "much"\n', [":2:", "cache.size_bytes", "is not a size"]),
        ("[cache]\nsize_bytes = ", ["is not TOML"]),
        ('[volumes]\nsoft_bytes = "5GiB"\n', ["volumes.soft_bytes must not exceed volumes.hard_bytes"]),
        ('[cache]\nsize_bytes = "1GiB"\n', ["the write log gets 819.2 MiB", "enlarge cache.size_bytes"]),
        ('[namespace]\nvolume_rules = ["a/b"]\n', ["'a/b' is not a pattern for a name"]),
        ('[log]\nlevel = "loud"\n', [":2:", "log.level", "'info'"]),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, words: list[str]) -> None:
    message = refusal(tmp_path / "s.toml", text)
    for word in words:
        assert word in message


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path / "s.toml", "[cache]\nx = 1\n[volumes]\ny = 2\n")
    assert len(message.splitlines()) == 2


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no such file"):
        load_settings(tmp_path / "none.toml")


def test_unknown_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPOOL_CACHE__SIZE", "1GiB")
    with pytest.raises(Invalid, match="VPOOL_CACHE__SIZE is no setting"):
        load_settings(None)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().cache.size_bytes = 1  # type: ignore[misc]


def test_volume_settings_are_those_of_the_volume_driver() -> None:
    from volumedriver import VolumeDriverSettings

    theirs = {field.name: field.default for field in fields(VolumeDriverSettings)}
    ours = {name: field.default for name, field in VolumeSettings.model_fields.items()}
    assert MISSING not in theirs.values()
    assert ours == theirs


def test_every_setting_says_what_it_is_and_what_follows() -> None:
    from vpool.settings import sections

    silent = [
        f"{section}.{key}"
        for section, model in sections().items()
        for key, field in model.model_fields.items()
        if not field.description or len(field.description) < 20
    ]
    assert not silent


def test_the_page_of_settings_is_current() -> None:
    assert (TOP / "docs/settings.md").read_text(encoding="utf-8") == page()
