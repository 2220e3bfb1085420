"""Durations, moments and loopback addresses as people write them: what is wrong is refused with what would be right."""

from __future__ import annotations

import pytest

from vpool.durations import parse_duration, parse_moment, show_duration
from vpool.errors import Invalid
from vpool.loopback import parse_loopback


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("7d", 604_800), ("1.5 h", 5400), ("2W", 1_209_600)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "-5m", "1y", "h", "1h30m", "ten minutes"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(Invalid, match="write a number with s, m, h, d or w"):
        parse_duration(text)


def test_moments() -> None:
    assert parse_moment("10m", now=10_000.0) == 9400.0
    assert parse_moment("1d", now=10.0) == 0.0
    assert parse_moment("1970-01-01T00:01:00+00:00", now=0.0) == 60.0
    for text in ("yesterday", "2026-13-01", "", "99999-01-01"):
        with pytest.raises(Invalid, match="write how long ago"):
            parse_moment(text, now=0.0)


def test_shown_durations() -> None:
    shown = [show_duration(seconds) for seconds in (0.0354, 0.9, 12.0, 600.0, 10_000.0, 700_000.0)]
    assert shown == ["35.4 ms", "900 ms", "12 s", "10 min", "2.78 h", "8.1 d"]


def test_loopback_addresses() -> None:
    assert parse_loopback("127.0.0.1:9420") == ("127.0.0.1", 9420)
    assert parse_loopback("127.8.8.8:1") == ("127.8.8.8", 1)
    assert parse_loopback("[::1]:65535") == ("::1", 65535)


@pytest.mark.parametrize(
    "text", ["", "9420", ":9420", "localhost:9420", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "::1:9420"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(Invalid, match=r"write one like 127\.0\.0\.1:9420"):
        parse_loopback(text)


@pytest.mark.parametrize("text", ["0.0.0.0:9420", "10.0.0.1:9420", "[::]:9420", "[2001:db8::1]:9420"])
def test_an_address_that_others_can_reach_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="not on the loopback interface"):
        parse_loopback(text)
