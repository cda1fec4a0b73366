# SPDX-License-Identifier: Apache-2.0
"""Values that Kubernetes writes as strings: quantities, times, base64; each in its one spelling.

    "0.5" ──Quantity──> 500 milli ──> "500m"        "...T12:00:00+02:00" ──> "...T10:00:00Z"

Upstream decodes these into Go types and writes them back, so what is read is not always what was
sent; kvcore gives the same spelling, because clients compare.
Source: apimachinery api/resource (quantity.go), apis/meta/v1 (time.go, micro_time.go).
Thread safety: values only; the table of known quantities belongs to one thread at a time.
May not know: objects, schema.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from functools import lru_cache

__all__ = ["base64_problem", "canonical_micro", "canonical_quantity", "canonical_time",
           "is_canonical_quantity", "nano", "quantity"]

NANO = 10 ** 9
DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
DECIMAL_SUFFIX = {exponent: suffix for suffix, exponent in DECIMAL.items()}
BINARY_SUFFIX = {0: "", **{exponent: suffix for suffix, exponent in BINARY.items()}}
LARGEST = 2 ** 63 - 1
QUANTITY = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,6}|[numkMGTPE]|[KMGTPE]i)?\Z",
                      re.ASCII)
QUANTITY_RULE = ("quantities must match the regular expression "
                 "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
QUANTITY_SUFFIX_RULE = "unable to parse quantity's suffix"
KNOWN_MAX = 4096
_known: set[str] = set()                 # spelled as they should be; emptied when full


def _parts(text: str) -> tuple[Fraction, str]:
    """(value, suffix). Errors: ValueError in upstream's words."""
    match = QUANTITY.match(text)
    if match is None:
        loose = re.match(r"[+-]?[0-9.]+[eEinumkKMGTP]+[-+]?[0-9]*\Z", text)
        raise ValueError(QUANTITY_SUFFIX_RULE if loose else QUANTITY_RULE)
    sign, digits, suffix = match[1], match[2], match[3] or ""
    value = Fraction(digits) if digits[0] != "." else Fraction("0" + digits)
    if suffix in BINARY:
        value *= 1 << BINARY[suffix]
    elif suffix in DECIMAL:
        value *= Fraction(10) ** DECIMAL[suffix]
    else:
        exponent = int(suffix[1:])
        if abs(exponent) > 400:
            value, exponent = (value, 400) if exponent > 0 else (value, -400)
        value *= Fraction(10) ** exponent
    scaled = value * NANO
    whole = -(-scaled.numerator // scaled.denominator)          # up, away from what would be lost
    value = min(Fraction(whole, NANO), Fraction(LARGEST))
    return (-value if sign == "-" else value), suffix


def quantity(value: str | int | float) -> Fraction:
    """The number a quantity means.

    Errors: ValueError in upstream's words.

    >>> quantity("128Mi"), quantity("100m")
    (Fraction(134217728, 1), Fraction(1, 10))
    """
    return _parts(str(value))[0]


@lru_cache(4096)
def nano(text: str) -> int:
    """A quantity in billionths, for sums and comparisons. Errors: ValueError. Cost: 0.1 us when the
    spelling was seen before.

    >>> nano("100m"), nano("2")
    (100000000, 2000000000)
    """
    return int(_parts(text)[0] * NANO)


def is_canonical_quantity(value: object) -> bool:
    """Whether a value is a quantity already spelled as it is stored. Cost: one look into a set when
    the spelling was seen before."""
    if value.__class__ is not str:
        return False
    if value in _known:
        return True
    try:
        return canonical_quantity(value) == value
    except ValueError:
        return False


def canonical_quantity(value: str | int | float, smallest: int = -9) -> str:
    """A quantity in its one spelling.

    Args: smallest: the exponent of ten below which is rounded up (resource lists: -3).
    Errors: ValueError in upstream's words.

    >>> [canonical_quantity(q) for q in ("0.5", "1024Mi", "1000", "1.5Gi", "1e3", "0.1Ki", 2)]
    ['500m', '1Gi', '1k', '1536Mi', '1e3', '102400m', '2']
    """
    number, suffix = _parts(str(value))
    if smallest != -9:
        scaled = number * 10 ** -smallest
        number = Fraction(-(-scaled.numerator // scaled.denominator), 10 ** -smallest)
    spelled = _spell(number, suffix)
    if len(_known) >= KNOWN_MAX:
        _known.clear()
    if len(spelled) < 32:
        _known.add(spelled)
    return spelled


def _spell(number: Fraction, suffix: str) -> str:
    if not number:
        return "0"
    if suffix in BINARY and abs(number) >= 1024:
        whole, power = -(-number.numerator // number.denominator), 0
        while whole % 1024 == 0 and power < 60:
            whole, power = whole // 1024, power + 10
        return f"{whole}{BINARY_SUFFIX[power]}"
    mantissa, exponent = (number * NANO).numerator, -9
    while mantissa % 1000 == 0 and (exponent < 18 or suffix[:1] in ("e", "E") and suffix[1:]):
        mantissa, exponent = mantissa // 1000, exponent + 3
    if suffix[:1] in ("e", "E") and suffix[1:].lstrip("+-").isdigit():
        return f"{mantissa}e{exponent}" if exponent else str(mantissa)
    return f"{mantissa}{DECIMAL_SUFFIX[exponent]}"


# --- times ---------------------------------------------------------------------------------------

TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)([.,]\d+)?(Z|[+-]\d\d:\d\d)\Z",
                  re.ASCII)
TIME_LAYOUT = "2006-01-02T15:04:05Z07:00"
MICRO_LAYOUT = "2006-01-02T15:04:05.000000Z07:00"
PIECES = ((r"\d{4}", "2006"), ("-", "-"), (r"\d\d", "01"), ("-", "-"), (r"\d\d", "02"),
          ("T", "T"), (r"\d\d", "15"), (":", ":"), (r"\d\d", "04"), (":", ":"), (r"\d\d", "05"),
          (r"(?:[.,]\d+)?(?:Z|[+-]\d\d:\d\d)", "Z07:00"))
RANGES = ((1, 12, "month"), (1, 31, "day"), (0, 23, "hour"), (0, 59, "minute"), (0, 59, "second"))


def _parse(text: str, layout: str) -> datetime:
    match = TIME.match(text)
    if match is None:
        raise ValueError(f'parsing time "{text}" as "{layout}": {_where(text)}')
    numbers = [int(part) for part in match.groups()[:6]]
    for value, (low, high, what) in zip(numbers[1:], RANGES, strict=True):
        if not low <= value <= high:
            raise ValueError(f'parsing time "{text}": {what} out of range')
    micros = int(((match[7] or ".0")[1:] + "000000")[:6])
    zone = match[8]
    shift = timedelta(0) if zone == "Z" else timedelta(
        hours=int(zone[1:3]), minutes=int(zone[4:])) * (-1 if zone[0] == "-" else 1)
    try:
        year, month, day, hour, minute, second = numbers
        return datetime(year, month, day, hour, minute, second, micros, timezone.utc) - shift
    except (ValueError, OverflowError):
        raise ValueError(f'parsing time "{text}": day out of range') from None


def _where(text: str) -> str:
    """At which part of the layout the text stops fitting."""
    rest = text
    for pattern, name in PIECES:
        match = re.match(pattern, rest, re.ASCII)
        if match is None:
            return f'cannot parse "{rest}" as "{name}"'
        rest = rest[match.end():]
    return f'extra text: "{rest}"'


def canonical_time(text: str) -> str:
    """A metav1.Time as it is stored: UTC, whole seconds.

    Errors: ValueError in the words of Go's time package.

    >>> canonical_time("2026-01-02T03:04:05.6+02:00")
    '2026-01-02T01:04:05Z'
    """
    if len(text) == 20 and text[-1] == "Z":
        _parse(text, TIME_LAYOUT)
        return text
    return _parse(text, TIME_LAYOUT).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")


def canonical_micro(text: str) -> str:
    """A metav1.MicroTime as it is stored: UTC, six digits of a second. Errors: as canonical_time.

    >>> canonical_micro("2026-01-02T03:04:05Z")
    '2026-01-02T03:04:05.000000Z'
    """
    return _parse(text, MICRO_LAYOUT).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


# --- base64 --------------------------------------------------------------------------------------

BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?\Z")
BASE64_WORD = re.compile(r"[A-Za-z0-9+/]*")


def base64_problem(text: str) -> str | None:
    """Why a text is not base64, in Go's words; None when it is.

    >>> base64_problem("aGk="), base64_problem("a!")
    (None, 'illegal base64 data at input byte 1')
    """
    if BASE64.match(text):
        return None
    text = text.replace("\n", "").replace("\r", "")
    if BASE64.match(text):
        return None
    good = BASE64_WORD.match(text)
    at = good.end() if good else 0
    if at == len(text):                      # ends inside a group of four
        at -= at % 4
    return f"illegal base64 data at input byte {at}"
