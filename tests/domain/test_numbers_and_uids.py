"""Text that becomes a number or a UID, read by one rule each."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_factory.domain.numbers import parse_number, parse_whole_number
from unet_factory.domain.uids import MAX_UID_CHARACTERS, read_uid


@given(st.floats())
def test_every_number_is_read_as_written(number: float) -> None:
    for text in (repr(number), f" {number!r} ", f"{number:e}"):
        assert parse_number(text) == float(text) or math.isnan(number)


@pytest.mark.parametrize(
    "text", ["1_0", "1,0", "", " ", "\u0661", "1\uff10", "0x10", "1e", "e5", ".", "1 0", "--1", "1.2.3", "infin"]
)
def test_other_texts_are_no_numbers(text: str) -> None:
    for parse in (parse_number, parse_whole_number):
        with pytest.raises(ValueError, match="is not a"):
            parse(text)


@given(st.integers())
def test_whole_numbers_are_read_as_written(number: int) -> None:
    assert parse_whole_number(f" {number} ") == number


@pytest.mark.parametrize("text", ["1.0", "1e3", "1_000"])
def test_a_fraction_is_no_whole_number(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        parse_whole_number(text)


@pytest.mark.parametrize(
    ("text", "uid"),
    [
        ("1.2.840.10008.1.2", "1.2.840.10008.1.2"),
        ("1.2.3\0", "1.2.3"),
        (" 1.2.3 \0", "1.2.3"),
        ("1.02.003", "1.02.003"),  # passed on as it stands
        ("0.0", "0.0"),
        ("1" * MAX_UID_CHARACTERS, "1" * MAX_UID_CHARACTERS),
        ("1" * (MAX_UID_CHARACTERS + 1), None),
        ("", None),
        ("1.2\\1.3", None),
        ("1..2", None),
        (".1", None),
        ("1.", None),
        ("1.2.a", None),
        ("1.2\n", None),
        ("\u0661.2", None),
    ],
)
def test_uids_are_read_leniently(text: str, uid: str | None) -> None:
    assert read_uid(text) == uid
