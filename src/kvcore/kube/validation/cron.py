# SPDX-License-Identifier: Apache-2.0
"""Schedules of cron jobs: five fields, or a word like @daily.

Thread safety: none needed. Source of the grammar and the texts: github.com/robfig/cron v3
(ParseStandard). May not know: objects.
"""

from __future__ import annotations

__all__ = ["schedule_problem"]

WORDS = frozenset({"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight",
                   "@hourly"})
MONTHS = {name: i for i, name in enumerate(
    "jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
DAYS = {name: i for i, name in enumerate("sun mon tue wed thu fri sat".split())}
FIELDS: tuple[tuple[int, int, dict[str, int]], ...] = (
    (0, 59, {}), (0, 23, {}), (1, 31, {}), (1, 12, MONTHS), (0, 6, DAYS))


def schedule_problem(schedule: str) -> str | None:
    """Why a schedule cannot be read; None if it can.

    >>> schedule_problem("*/5 0-6 1,15 jan-mar mon"), schedule_problem("@hourly")
    (None, None)
    >>> schedule_problem("* * *")
    'expected exactly 5 fields, found 3: [* * *]'
    >>> schedule_problem("61 * * * *")
    'end of range (61) above maximum (59): 61'
    """
    text = schedule
    if text.startswith(("TZ=", "CRON_TZ=")):
        text = text.partition(" ")[2]
    if text.startswith("@"):
        if text in WORDS or text.startswith("@every "):
            return None
        return f"unrecognized descriptor: {text}"
    fields = text.split()
    if len(fields) != 5:
        return f"expected exactly 5 fields, found {len(fields)}: [{' '.join(fields)}]"
    for field, (low, high, names) in zip(fields, FIELDS, strict=True):
        for part in field.split(","):
            problem = _part_problem(part, low, high, names)
            if problem:
                return problem
    return None


def _part_problem(part: str, low: int, high: int, names: dict[str, int]) -> str | None:
    pieces = part.split("/")
    ends = pieces[0].split("-")
    if len(pieces) > 2:
        return f"too many slashes: {part}"
    if len(ends) > 2:
        return f"too many hyphens: {part}"
    start, end = low, high
    if ends[0] not in ("*", "?"):
        numbers = []
        for text in ends:
            number = names.get(text.lower(), _number(text))
            if number is None:
                return f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": ' \
                       "invalid syntax"
            numbers.append(number)
        start = numbers[0]
        end = numbers[-1] if len(numbers) > 1 or len(pieces) == 1 else high
    if len(pieces) == 2:
        step = _number(pieces[1])
        if step is None:
            return f'failed to parse int from {pieces[1]}: strconv.Atoi: parsing "{pieces[1]}": ' \
                   "invalid syntax"
        if step == 0:
            return f"step of range should be a positive number: {part}"
    if start < low:
        return f"beginning of range ({start}) below minimum ({low}): {part}"
    if end > high:
        return f"end of range ({end}) above maximum ({high}): {part}"
    if start > end:
        return f"beginning of range ({start}) beyond end of range ({end}): {part}"
    return None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
