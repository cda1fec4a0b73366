# SPDX-License-Identifier: Apache-2.0
"""Quantities: texts as apimachinery's resource.Quantity gives them, arithmetic beside Fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvcore.kube.quantity import (
    WRONG_FORMAT,
    WRONG_NUMBER,
    WRONG_SUFFIX,
    ZERO,
    Quantity,
    parse,
    quantity_of,
)

# what resource.ParseQuantity(text).String() says
CANONICAL = {
    "0": "0", "00": "0", "": None, "+": "0", ".": "0", "-0": "0",
    "100m": "100m", "0.1": "100m", "0.5": "500m", "1.5": "1500m", "1.500": "1.500", "1.000": "1",
    "1000m": "1", "1000": "1k", "1500": "1500", "1e3": "1e3", "1E3": "1E3", "12e6": "12e6",
    "1000e3": "1e6", "1e1": "10", "1e-3": "1e-3", "1E": "1E", "1e400": "10e399",
    "1024Ki": "1Mi", "1Ki": "1Ki", "1024": "1024", "2048Ki": "2Mi", "1.5Gi": "1536Mi",
    "0.5Ki": "512", "0.0001Ki": "102400u", "1000Ki": "1000Ki", "1536Mi": "1536Mi",
    "1500Mi": "1500Mi",
    "9Ei": "9223372036854775807", "-9Ei": "-9223372036854775807", "1023": "1023",
    "0.1n": "1n", "-0.1n": "-1n", "1.1n": "2n", "1u": "1u", "1n": "1n", "5.5m": "5500u",
    "+5": "+5", "1.": "1.", ".5": "500m", "007": "007", "Ki": "0",
    "123456789012345678901234567890": "123456789012345678901234567890",
    "12345678901234567890123M": "12345678901234567890123M",
    "52516395785.005380T": "52516395785.005380T", "1.5E": "1500P",
    "1K": None, "1 ": None, " 1": None, "1mm": None, "abc": None, "1.2.3": None, "--1": None,
    "1e": None, "1Kii": None, "1e1.5": None, ".Ei": None, "Pi": None, "e-12": None,
    "1e99999999999999999999999": None, "1e1001": None, "0x10": None, "١": None,
}


@pytest.mark.parametrize(("text", "said"), CANONICAL.items())
def test_canonical_text(text: str, said: str | None) -> None:
    if said is None:
        with pytest.raises(ValueError):
            parse(text)
    else:
        assert str(parse(text)) == said


@pytest.mark.parametrize(("text", "why"), [
    ("", WRONG_FORMAT), ("1.2.3", WRONG_FORMAT), ("abc", WRONG_FORMAT), ("1K", WRONG_SUFFIX),
    ("1e", WRONG_SUFFIX), (".Ei", WRONG_NUMBER), ("9" * 5000, WRONG_NUMBER),
])
def test_what_is_wrong_is_said_in_upstreams_words(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert str(caught.value) == why


@pytest.mark.parametrize(("a", "b", "total", "rest"), [
    ("1Gi", "1G", "2073741824", "73741824"), ("1", "1Gi", "1073741825", "-1073741823"),
    ("100m", "1Ki", "1024100m", "-1023900m"), ("0", "1Ki", "1Ki", "-1Ki"),
    ("1e3", "1", "1001", "999"), ("512Mi", "512Mi", "1Gi", "0"), ("9Ei", "1", "8Ei", None),
])
def test_sums_have_the_form_of_the_first(a: str, b: str, total: str, rest: str | None) -> None:
    assert str(parse(a) + parse(b)) == total
    if rest is not None:
        assert str(parse(a) - parse(b)) == rest


def test_fields_of_objects() -> None:
    assert [str(quantity_of(value)) for value in (None, 2, 0.5, 1e22, " 1Gi ")] == \
        ["0", "2", "500m", "10e21", "1Gi"]
    for wrong in (True, [], {}, "x"):
        with pytest.raises(ValueError):
            quantity_of(wrong)


# --- beside Fractions ---------------------------------------------------------------------------

FACTORS = {"": 1, "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000),
           "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
           "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
           "e3": 10**3, "E-3": Fraction(1, 1000), "e+6": 10**6, "e-11": Fraction(1, 10**11)}
NANO = Fraction(1, 10**9)


def away(value: Fraction, unit: Fraction) -> Fraction:
    """The next multiple of a unit, away from zero."""
    count = -(-abs(value) // unit)
    return unit * (count if value >= 0 else -count)


@st.composite
def spoken(draw: st.DrawFn) -> tuple[str, Fraction]:
    """A text and the number it must be."""
    sign = draw(st.sampled_from(["", "-", "+"]))
    digits = draw(st.integers(0, 10**draw(st.integers(1, 25))))
    places = draw(st.integers(0, 14))
    decimals = str(draw(st.integers(0, 10**places - 1))).zfill(places) if places else ""
    suffix = draw(st.sampled_from(sorted(FACTORS)))
    number = Fraction(f"{digits}.{decimals or 0}") * FACTORS[suffix]
    value = away(number if sign != "-" else -number, NANO)
    if suffix.endswith("i"):
        limit = Fraction(2**63 - 1)
        value = max(-limit, min(value, limit))
    return f"{sign}{digits}{'.' if decimals else ''}{decimals}{suffix}", value


def number(quantity: Quantity) -> Fraction:
    return quantity.unscaled * Fraction(10) ** quantity.exponent


@given(spoken())
def test_parsing_is_exact(text: tuple[str, Fraction]) -> None:
    assert number(parse(text[0])) == text[1]


@given(spoken())
def test_a_canonical_text_is_read_back(text: tuple[str, Fraction]) -> None:
    """As the same number; from 1,000 E on there is no suffix for it, and upstream leaves it out."""
    assume(abs(text[1]) < 10**21)
    quantity = parse(text[0])
    again = parse(str(Quantity(quantity.unscaled, quantity.exponent, quantity.form)))
    assert number(again) == number(quantity)


@given(spoken(), spoken())
def test_arithmetic_is_exact(a: tuple[str, Fraction], b: tuple[str, Fraction]) -> None:
    x, y = parse(a[0]), parse(b[0])
    assert number(x + y) == a[1] + b[1]
    assert number(x - y) == a[1] - b[1]
    assert number(-x) == -a[1]
    assert x.compare(y) == (a[1] > b[1]) - (a[1] < b[1])
    assert (x == y, x < y, x <= y) == (a[1] == b[1], a[1] < b[1], a[1] <= b[1])
    assert x != y or hash(x) == hash(y)
    assert bool(x) == bool(a[1])


@given(spoken(), st.integers(-12, 12))
def test_rounding_is_away_from_zero(text: tuple[str, Fraction], exponent: int) -> None:
    quantity, unit = parse(text[0]), Fraction(10) ** exponent
    assert quantity.scaled(exponent) * unit == away(text[1], unit)
    assert number(quantity.round_up(exponent)) == away(text[1], unit)


def test_nothing_is_a_quantity_too() -> None:
    assert ZERO == parse("0m") and not ZERO and hash(ZERO) == hash(parse("0Ki"))
    assert str(ZERO) == "0" and repr(parse("1Gi")) == "<Quantity 1Gi>"
