# SPDX-License-Identifier: Apache-2.0
"""What Go's JSON decoder says of a body that is no JSON, and of a value of another type.

Runs only after a body was refused: clients print these texts, and tests compare them.
Thread safety: none needed. Source of the texts: encoding/json (scanner.go). May not know: objects.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["json_type", "syntax_problem"]

SPACE = " \t\r\n"
SPECIAL = re.compile(r'["\\\x00-\x1f]')         # in a string
ENDED = "unexpected end of JSON input"
NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?", re.ASCII)


class _Problem(Exception):
    pass


def json_type(value: Any) -> str:
    """Go's word for what a value is in JSON.

    >>> json_type([]), json_type(True), json_type(1.5)
    ('array', 'bool', 'number')
    """
    words: dict[type, str] = {dict: "object", list: "array", str: "string", bool: "bool"}
    return words.get(type(value), "number")


def syntax_problem(body: bytes) -> str:
    """Go's complaint about a body.

    >>> syntax_problem(b'{"a":1,}')
    "invalid character '}' looking for beginning of object key string"
    >>> syntax_problem(b'{"a":'), syntax_problem(b"tru")
    ('unexpected end of JSON input', 'unexpected end of JSON input')
    """
    text = body.decode("utf-8", "replace")
    try:
        _scan(text)
    except _Problem as problem:
        return str(problem)
    return "invalid character in JSON"


def _fail(text: str, at: int, where: str) -> _Problem:
    if at >= len(text):
        return _Problem(ENDED)
    letter = text[at]
    shown = {"'": r"'\''", '"': "'\"'"}.get(letter) or (
        f"'{letter}'" if letter.isprintable() else f"'\\x{ord(letter):02x}'")
    return _Problem(f"invalid character {shown} {where}")


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in SPACE:
        at += 1
    return at


def _scan(text: str) -> None:
    """One value and nothing behind it, with a stack of what is open instead of recursion."""
    stack: list[str] = []
    at = _skip(text, 0)
    while True:
        at = _open(text, at, stack)
        if at < 0:                           # an object or array was opened: a value follows
            at = -at
            continue
        at = _skip(text, at)
        while stack and at < len(text) and text[at] == stack[-1]:
            stack.pop()
            at = _skip(text, at + 1)
        if not stack:
            if at < len(text):
                raise _fail(text, at, "after top-level value")
            return
        if at >= len(text) or text[at] != ",":
            raise _fail(text, at, "after object key:value pair" if stack[-1] == "}"
                        else "after array element")
        at = _skip(text, at + 1)
        if stack[-1] == "}":
            at = _key(text, at)


def _open(text: str, at: int, stack: list[str]) -> int:
    """Behind a scalar or an empty object or array; negative: where the first value inside is."""
    letter = text[at:at + 1]
    if letter == "{":
        inside = _skip(text, at + 1)
        if text[inside:inside + 1] == "}":
            return inside + 1
        stack.append("}")
        return -_key(text, inside)
    if letter == "[":
        inside = _skip(text, at + 1)
        if text[inside:inside + 1] == "]":
            return inside + 1
        stack.append("]")
        return -inside
    if letter == '"':
        return _string(text, at)
    for word in ("true", "false", "null"):
        if letter == word[0]:
            for i, wanted in enumerate(word):
                if text[at + i:at + i + 1] != wanted:
                    raise _fail(text, at + i, f"in literal {word} (expecting '{wanted}')")
            return at + len(word)
    match = NUMBER.match(text, at)
    if match is None:
        if letter == "-":
            raise _fail(text, at + 1, "in numeric literal")
        raise _fail(text, at, "looking for beginning of value")
    rest = text[match.end():match.end() + 1]
    if rest == ".":
        raise _fail(text, match.end() + 1, "after decimal point in numeric literal")
    if rest in ("e", "E"):
        raise _fail(text, match.end() + 1, "in exponent of numeric literal")
    return match.end()


def _key(text: str, at: int) -> int:
    """Behind a key and its colon."""
    if text[at:at + 1] != '"':
        raise _fail(text, at, "looking for beginning of object key string")
    at = _skip(text, _string(text, at))
    if text[at:at + 1] != ":":
        raise _fail(text, at, "after object key")
    return _skip(text, at + 1)


def _string(text: str, at: int) -> int:
    at += 1
    while at < len(text):
        found = SPECIAL.search(text, at)
        if found is None:
            break
        at, letter = found.start(), found.group()
        if letter == '"':
            return at + 1
        if letter < " ":
            raise _fail(text, at, "in string literal")
        if letter == "\\":
            at += 1
            if at < len(text) and text[at] not in '"\\/bfnrtu':
                raise _fail(text, at, "in string escape code")
            if text[at:at + 1] == "u":
                for i in range(1, 5):
                    if text[at + i:at + i + 1] not in tuple("0123456789abcdefABCDEF"):
                        raise _fail(text, at + i, r"in \u hexadecimal character escape")
                at += 4
        at += 1
    raise _Problem(ENDED)
