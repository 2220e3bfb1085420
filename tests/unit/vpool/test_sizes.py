"""Sizes as people write them: a wrong reading makes a volume of the wrong size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpool.errors import Invalid
from vpool.sizes import parse_size, show_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("-5", -5),
        ("10G", 10 << 30),
        ("10GiB", 10 << 30),
        ("10gb", 10 << 30),
        ("512 MiB", 512 << 20),
        ("1.5K", 1536),
        ("64T", 64 << 40),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "10X", "1e3", "10 10", "0x10", "ten", "1.5", "0.0001K"])
def test_what_is_no_size_is_refused_with_what_would_be(text: str) -> None:
    with pytest.raises(Invalid, match="as in 10G or 512MiB"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=1 << 60))
def test_whole_bytes_come_back(size: int) -> None:
    assert parse_size(str(size)) == parse_size(f"{size}B") == size


def test_sizes_are_shown_in_the_unit_that_fits() -> None:
    assert [show_size(size) for size in (0, 17, 1536, 10 << 30, 64 << 40)] == ["0 B", "17 B", "1.5 KiB", "10 GiB", "64 TiB"]
