# SPDX-License-Identifier: Apache-2.0
"""Resource quantities: "100m", "1.5Gi", "12e6" as exact numbers with their way of being written.

    text ──parse──> Quantity(unscaled x 10**exponent, form) ──str──> canonical text
                        + - compare, round_up                "1024Ki" -> "1Mi", "0.5" -> "500m"

Rules of apimachinery's resource.Quantity, which clients compare byte by byte:
    - nothing is finer than 1n: what is written finer is rounded away from zero
    - "BinarySI" is capped at 2**63 - 1 when it takes more than 64 bits, and becomes "DecimalSI"
      when it is less than 1 (as parsed), less than 1024 or no whole number (as written)
    - a text that is canonical enough is kept as it was ("100m", "1.500", "+5")
    - a sum is written in the first operand's form, unless that operand is zero
Named invariants: **exact** (integers and a decimal exponent, no float); **immutable**, so that
parsed quantities are shared: `parse` remembers the last 4,096 texts.
Two limits are kvcore's own, since a quantity comes from anybody's body: exponents beyond 1,000 are
refused as a bad suffix, and results are not cut to 64 bits.
Thread safety: values. May not know: objects. Source: apimachinery api/resource.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal

__all__ = ["Quantity", "ZERO", "parse", "quantity_of"]

Form = Literal["DecimalSI", "BinarySI", "DecimalExponent"]

NANO = -9
LARGEST = (1 << 63) - 1                   # the cap of binary quantities
EXPONENT_MAX = 1000
INT64_DIGITS = 18                         # decimal digits that surely fit
BINARY_DIGITS = 14

PATTERN = r"^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"
SHAPE = re.compile(r"([+-]?)0*([0-9]*)(?:(\.)([0-9]*))?([eEinumkKMGTP]*[-+]?[0-9]*)\Z", re.ASCII)
EXPONENT = re.compile(r"[eE]([+-]?[0-9]+)\Z", re.ASCII)

DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
DECIMAL_SUFFIX = {exponent: suffix for suffix, exponent in DECIMAL.items()}
BINARY_SUFFIX = {0: ""} | {exponent // 10: suffix for suffix, exponent in BINARY.items()}

WRONG_FORMAT = f"quantities must match the regular expression '{PATTERN}'"
WRONG_NUMBER = "unable to parse numeric part of quantity"
WRONG_SUFFIX = "unable to parse quantity's suffix"


class Quantity:
    """unscaled * 10**exponent. Made by `parse` or `quantity_of`.

    >>> str(parse("1Gi") + parse("512Mi")), parse("0.1") == parse("100m")
    ('1536Mi', True)
    """

    __slots__ = ("unscaled", "exponent", "form", "_text")

    def __init__(self, unscaled: int, exponent: int = 0, form: Form = "DecimalSI",
                 text: str = "") -> None:
        self.unscaled, self.exponent, self.form, self._text = unscaled, exponent, form, text

    def __str__(self) -> str:
        if not self._text:
            self._text = canonical(self)
        return self._text

    def __repr__(self) -> str:
        return f"<Quantity {self}>"

    # --- comparing ------------------------------------------------------------------------------

    def compare(self, other: Quantity) -> int:
        """-1, 0 or 1 as this is less than, equal to or greater than the other."""
        mine, theirs, _ = aligned(self, other)
        return (mine > theirs) - (mine < theirs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and self.compare(other) == 0

    def __hash__(self) -> int:
        return hash(stripped(self.unscaled, self.exponent))

    def __lt__(self, other: Quantity) -> bool:
        return self.compare(other) < 0

    def __le__(self, other: Quantity) -> bool:
        return self.compare(other) <= 0

    def __gt__(self, other: Quantity) -> bool:
        return self.compare(other) > 0

    def __ge__(self, other: Quantity) -> bool:
        return self.compare(other) >= 0

    def __bool__(self) -> bool:
        return self.unscaled != 0

    # --- arithmetic -----------------------------------------------------------------------------

    def __add__(self, other: Quantity) -> Quantity:
        mine, theirs, exponent = aligned(self, other)
        return Quantity(mine + theirs, exponent, self.form if self.unscaled else other.form)

    def __sub__(self, other: Quantity) -> Quantity:
        mine, theirs, exponent = aligned(self, other)
        return Quantity(mine - theirs, exponent, self.form if self.unscaled else other.form)

    def __neg__(self) -> Quantity:
        return Quantity(-self.unscaled, self.exponent, self.form)

    def scaled(self, exponent: int) -> int:
        """As a whole number of 10**exponent, rounded away from zero.

        >>> parse("1500m").scaled(0), parse("1500m").scaled(-3)
        (2, 1500)
        """
        return divided(self.unscaled, self.exponent - exponent)

    @property
    def value(self) -> int:
        return self.scaled(0)

    def round_up(self, exponent: int = 0) -> Quantity:
        """The same, but for what is finer than 10**exponent, which is rounded away from zero."""
        if self.exponent >= exponent:
            return self
        return Quantity(self.scaled(exponent), exponent, self.form)


def aligned(a: Quantity, b: Quantity) -> tuple[int, int, int]:
    """Both as whole numbers of the finer power of ten, and that power."""
    if a.exponent == b.exponent:
        return a.unscaled, b.unscaled, a.exponent
    if not a.unscaled:
        return 0, b.unscaled, b.exponent
    if not b.unscaled:
        return a.unscaled, 0, a.exponent
    if a.exponent > b.exponent:
        return a.unscaled * tens(a.exponent - b.exponent), b.unscaled, b.exponent
    return a.unscaled, b.unscaled * tens(b.exponent - a.exponent), a.exponent


def divided(unscaled: int, power: int) -> int:
    """unscaled * 10**power; away from zero when that is no whole number."""
    if power >= 0:
        return unscaled * tens(power)
    whole, rest = divmod(abs(unscaled), tens(-power))
    whole += rest > 0
    return whole if unscaled >= 0 else -whole


def tens(power: int) -> int:
    """10**power, which is a whole number; power >= 0."""
    result: int = 10 ** power
    return result


def stripped(unscaled: int, exponent: int, base: int = 10) -> tuple[int, int]:
    """Without factors of the base, which the exponent takes."""
    if not unscaled:
        return 0, 0
    while unscaled % base == 0:
        unscaled //= base
        exponent += 1
    return unscaled, exponent


ZERO = Quantity(0, 0, "DecimalSI", "0")


# --- text ----------------------------------------------------------------------------------------

@lru_cache(4096)
def parse(text: str) -> Quantity:
    """The quantity a text says. Cost: 0.1 us for a text seen before, 3 us for another.

    Errors: ValueError with apimachinery's words.

    >>> [str(parse(text)) for text in ("1024Ki", "0.5", "1000m", "1.5Gi", "12e6", "0.1n")]
    ['1Mi', '500m', '1', '1536Mi', '12e6', '1n']
    """
    shape = SHAPE.match(text) if text else None
    if shape is None:
        raise ValueError(WRONG_FORMAT)
    if text == "0":
        return ZERO
    sign, digits, _, decimals, suffix = shape.groups()
    number = text[:len(text) - len(suffix)]
    digits, decimals = digits or "0", decimals or ""
    power, form = suffix_of(suffix)
    written = digits + decimals
    if len(written) > 4000:
        raise ValueError(WRONG_NUMBER)
    unscaled = int(written) if sign != "-" else -int(written)
    if form == "BinarySI":
        return _binary(text, number, unscaled, (digits, decimals), power)
    exponent = power - len(decimals)
    if exponent < NANO or len(written) > INT64_DIGITS:
        need_digits(number)
        if exponent < NANO:
            unscaled, exponent = divided(unscaled, exponent - NANO), NANO
        return Quantity(unscaled, exponent, form)
    kept = exponent % 3 == 0 and not written.endswith("000") and written[0] != "0"
    return Quantity(unscaled, exponent, form, text if kept else "")


def need_digits(number: str) -> None:
    """Short numbers may be without any ("" and "." are 0); the others may not."""
    if not number.strip("+-."):
        raise ValueError(WRONG_NUMBER)


def _binary(text: str, number: str, unscaled: int, written: tuple[str, str],
            power: int) -> Quantity:
    digits, decimals = written
    if not decimals and BINARY_DIGITS - len(digits) - power * 3 // 10 >= 0:
        kept = unscaled & 7 != 0
        return Quantity(unscaled << power, 0, "BinarySI", text if kept else "")
    need_digits(number)
    exponent = -len(decimals)
    unscaled <<= power
    if exponent < NANO:
        unscaled, exponent = divided(unscaled, exponent - NANO), NANO
    one = tens(-exponent)
    if abs(unscaled) > LARGEST * one:
        unscaled, exponent = LARGEST if unscaled > 0 else -LARGEST, 0
    return Quantity(unscaled, exponent, "DecimalSI" if 0 < abs(unscaled) < one else "BinarySI")


def suffix_of(suffix: str) -> tuple[int, Form]:
    """The power (of ten, or of two for "BinarySI") and the form. Errors: ValueError."""
    power = DECIMAL.get(suffix)
    if power is not None:
        return power, "DecimalSI"
    power = BINARY.get(suffix)
    if power is not None:
        return power, "BinarySI"
    shape = EXPONENT.match(suffix)
    if shape is None or len(shape[1]) > 20 or abs(int(shape[1])) > EXPONENT_MAX:
        raise ValueError(WRONG_SUFFIX)
    return int(shape[1]), "DecimalExponent"


def canonical(quantity: Quantity) -> str:
    """The shortest text with a whole number and a suffix of the quantity's form."""
    unscaled, exponent, form = quantity.unscaled, quantity.exponent, quantity.form
    if not unscaled:
        return "0"
    if form == "BinarySI":
        whole = quantity.scaled(0)
        if exponent >= 0 or Quantity(whole) == quantity:
            if not -1024 < whole < 1024:
                amount, times = stripped(whole, 0, 1024)
                return f"{amount}{BINARY_SUFFIX.get(times, '')}"
        form = "DecimalSI"
    unscaled, exponent = stripped(unscaled, exponent)
    unscaled, exponent = unscaled * tens(exponent % 3), exponent - exponent % 3
    if form == "DecimalSI":
        return f"{unscaled}{DECIMAL_SUFFIX.get(exponent, '')}"
    return f"{unscaled}e{exponent}" if exponent else str(unscaled)


def quantity_of(value: Any) -> Quantity:
    """What a field of an object holds: a text, or a number as JSON allows.

    Errors: ValueError.

    >>> str(quantity_of(2)), str(quantity_of(0.5)), str(quantity_of(" 1Gi "))
    ('2', '500m', '1Gi')
    """
    if type(value) is str:
        return parse(value.strip())
    if value is None:
        return ZERO
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return parse(str(value))
    raise ValueError(WRONG_FORMAT)
