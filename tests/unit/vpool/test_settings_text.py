"""The file that explains itself must mean what it says: read again it gives the same settings, also with every '#' taken away."""

from __future__ import annotations

import re
from pathlib import Path

from vpool.settings import Settings, sections
from vpool.settings_file import load_settings
from vpool.settings_text import documented

TEXT = """
[node]
directory = "/var/lib/vpool/node"
mountpoint = "/var/lib/vpool/mount"
[cache]
size_bytes = 9000000001
[volumes]
stall_s = 2.5
[namespace]
volume_rules = ["*.raw", "ü*"]
"""


def read(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "file.toml").write_text(text, encoding="utf-8")
    return load_settings(tmp_path / "file.toml")


def test_what_is_set_comes_back(tmp_path: Path) -> None:
    settings = read(tmp_path, TEXT)
    assert settings != Settings()
    assert read(tmp_path, documented(settings)) == settings
    assert read(tmp_path, documented(Settings())) == Settings()


def test_the_defaults_it_shows_are_the_defaults(tmp_path: Path) -> None:
    shown = re.sub(r"^#(\w+ = )", r"\1", documented(Settings()), flags=re.MULTILINE)
    assert shown != documented(Settings())
    assert read(tmp_path, shown) == Settings()


def test_every_setting_is_there_with_its_meaning() -> None:
    text = documented(Settings())
    words = " ".join(line.removeprefix("# ") for line in text.splitlines())
    for section, model in sections().items():
        assert f"\n[{section}]\n" in text
        for key, field in model.model_fields.items():
            assert re.search(rf"^#?{key} =", text, re.MULTILINE)
            assert str(field.description) in words
    assert max(len(line) for line in text.splitlines()) <= 130
