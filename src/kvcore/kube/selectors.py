# SPDX-License-Identifier: Apache-2.0
"""Label and field selectors: parsed once, asked for each object.

    labelSelector=app=web,tier in (a, b),!old   fieldSelector=spec.nodeName=n1,status.phase!=Failed
          └─> Selector(labels, fields) ── matches(entry) ──> bool

What cannot be read or selected is refused with 400 and apimachinery's words, which clients show.
Sources: apimachinery labels/selector.go and fields/selector.go, util/validation.
Thread safety: immutable values. May not know: the store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from kvcore.kube import status
from kvcore.kube.meta import name_problem
from kvcore.kube.resources import Resource
from kvcore.kube.selectable import field_index, unsupported

__all__ = ["EVERYTHING", "FieldTerm", "Requirement", "Selector", "parse_labels", "parse_selector"]


class HasAttributes(Protocol):
    @property
    def labels(self) -> dict[str, str]: ...
    @property
    def fields(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Requirement:
    """Of a label. `operator`: "in" (= and == too), "notin" (!= too), "exists", "!", "gt", "lt";
    `values` are sorted and each stands once."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value in self.values
            case "notin":
                return value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        number = _int64(value or "")
        bound = _int64(self.values[0])
        if number is None or bound is None:
            return False
        return number > bound if self.operator == "gt" else number < bound


@dataclass(frozen=True, slots=True)
class FieldTerm:
    """`index`: where the field's value stands in an entry's `fields`."""

    field: str
    index: int
    value: str
    equal: bool = True

    def matches(self, fields: tuple[str, ...]) -> bool:
        return (fields[self.index] == self.value) is self.equal


@dataclass(frozen=True, slots=True)
class Selector:
    """Both selectors of a request; false when it selects everything."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[FieldTerm, ...] = ()

    def matches(self, entry: HasAttributes) -> bool:
        """Whether everything that is required holds. Cost: 0.3 us a requirement, and once an
        entry its decoding."""
        if self.labels:
            labels = entry.labels
            for requirement in self.labels:
                if not requirement.matches(labels):
                    return False
        if self.fields:
            fields = entry.fields
            for term in self.fields:
                if (fields[term.index] == term.value) is not term.equal:
                    return False
        return True

    def field_equal(self, field: str) -> str | None:
        """The value that a field must have; None: any."""
        for term in self.fields:
            if term.field == field and term.equal:
                return term.value
        return None

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)


EVERYTHING = Selector()


def parse_selector(resource: Resource, labels: str, fields: str) -> Selector:
    """Both selectors of a request. Errors: 400 for what cannot be read or selected."""
    if not labels and not fields:
        return EVERYTHING
    try:
        wanted, terms = parse_labels(labels), parse_fields(fields)
        return Selector(wanted, tuple(_term(resource.kind, *term) for term in terms))
    except ValueError as error:
        raise status.bad_request(str(error)) from None


def _term(kind: str, field: str, value: str, equal: bool) -> FieldTerm:
    index = field_index(kind, field)
    if index is None:
        raise ValueError(unsupported(kind, field))
    return FieldTerm("spec.nodeName" if field == "spec.host" else field, index, value, equal)


def _int64(text: str) -> int | None:
    """As strconv.ParseInt(text, 10, 64) reads it."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        return None
    number = int(text) if len(text) < 30 else 1 << 63
    return number if -(1 << 63) <= number < 1 << 63 else None


# --- labels: KEY [= == != VALUE | in notin (VALUE, ...) | > < NUMBER], or !KEY -------------------

TOKEN = re.compile(r"[ \t\r\n]*(?:(!=|==|[=!(),<>])|([^ \t\r\n=!(),<>]+))")
OPERATORS = {"=": "in", "==": "in", "in": "in", "!=": "notin", "notin": "notin", ">": "gt",
             "<": "lt"}
SPECIAL = frozenset(("!=", "==", "=", "!", "(", ")", ",", "<", ">", ""))
LONGEST_LABEL = 63
LABEL_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
KEY_WORDS = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for "
    "validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')")
VALUE_WORDS = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  "
    "or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')")
INTEGER_WORDS = "for 'Gt', 'Lt' operators, the value must be an integer"


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """The requirements of a label selector, in order. Errors: ValueError in apimachinery's words.

    >>> parse_labels("app=web,tier in (b,a)")[1]
    Requirement(key='tier', operator='in', values=('a', 'b'))
    """
    parser = _Labels(text)
    found: list[Requirement] = []
    while True:
        token = parser.peek()
        if token == "":
            return tuple(found)
        if token in SPECIAL and token != "!":
            raise ValueError(f"found '{token}', expected: !, identifier, or 'end of string'")
        try:
            found.append(parser.requirement())
        except ValueError as error:
            raise ValueError(f"unable to parse requirement: {error}") from None
        token = parser.take()
        if token == "":
            return tuple(found)
        if token != ",":
            raise ValueError(f"found '{token}', expected: ',' or 'end of string'")
        token = parser.peek()
        if token in SPECIAL and token != "!":
            raise ValueError(f"found '{token}', expected: identifier after ','")


class _Labels:
    """Tokens of a label selector; "" is the end, again and again."""

    def __init__(self, text: str) -> None:
        self.tokens = [found.group(1) or found.group(2) for found in TOKEN.finditer(text)]
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def requirement(self) -> Requirement:
        key = self.take()
        absent = key == "!"
        if absent:
            key = self.take()
        if key in SPECIAL:
            raise ValueError(f"found '{key}', expected: identifier")
        problems = key_problems(key)
        if problems:
            raise ValueError(f"<nil>: Invalid value: {quoted(key)}: {'; '.join(problems)}")
        if absent:
            return Requirement(key, "!")
        if self.peek() in ("", ","):
            return Requirement(key, "exists")
        word = self.take()
        operator = OPERATORS.get(word)
        if operator is None:
            raise ValueError(f"found '{word}', expected: in, notin, =, ==, !=, gt, lt")
        values = self.values() if word in ("in", "notin") else self.value()
        _check_values(key, operator, values)
        return Requirement(key, operator, values)

    def value(self) -> tuple[str]:
        if self.peek() in ("", ","):
            return ("",)
        token = self.take()
        if token in SPECIAL:
            raise ValueError(f"found '{token}', expected: identifier")
        return (token,)

    def values(self) -> tuple[str, ...]:
        """(a, b): an empty place is an empty value."""
        token = self.take()
        if token != "(":
            raise ValueError(f"found '{token}' expected: '('")
        first = self.peek()
        if first == ")":
            self.take()
            return ("",)
        if first in SPECIAL and first != ",":
            raise ValueError(f"found '{first}', expected: ',', ')' or identifier")
        found: set[str] = set()
        while True:
            token = self.take()
            if token == ",":
                if not found or self.peek() in (",", ")"):
                    found.add("")
                if self.peek() == ")":
                    break
            elif token in SPECIAL:
                raise ValueError(f"found '{token}', expected: ',', or identifier")
            else:
                found.add(token)
                behind = self.peek()
                if behind == ")":
                    break
                if behind != ",":
                    raise ValueError(f"found '{behind}', expected: ',' or ')'")
        self.take()
        return tuple(sorted(found))


def _check_values(key: str, operator: str, values: tuple[str, ...]) -> None:
    said = []
    if operator in ("gt", "lt") and _int64(values[0]) is None:
        said.append(f"values[0]: Invalid value: {quoted(values[0])}: {INTEGER_WORDS}")
    for i, value in enumerate(values):
        problems = value_problems(value)
        if problems:
            said.append(f"values[{i}][{key}]: Invalid value: {quoted(value)}: "
                        f"{'; '.join(problems)}")
    if said:
        raise ValueError(said[0] if len(said) == 1 else f"[{', '.join(said)}]")


def key_problems(key: str) -> list[str]:
    """Why a text is no label key, in apimachinery's words.

    >>> key_problems("example.com/app"), key_problems("/app")
    ([], ['prefix part must be non-empty'])
    """
    parts = key.split("/")
    if len(parts) > 2:
        return [f"a valid label key {KEY_WORDS} with an optional DNS subdomain prefix and '/' "
                "(e.g. 'example.com/MyName')"]
    found, name = [], parts[-1]
    if len(parts) == 2:
        problem = name_problem(parts[0]) if parts[0] else "must be non-empty"
        if problem:
            found.append(f"prefix part {problem}")
    if not name:
        found.append("name part must be non-empty")
    elif len(name.encode()) > LONGEST_LABEL:
        found.append(f"name part must be no more than {LONGEST_LABEL} bytes")
    if not LABEL_NAME.fullmatch(name):
        found.append(f"name part {KEY_WORDS}")
    return found


def value_problems(value: str) -> list[str]:
    """Why a text is no label value, in apimachinery's words."""
    found = []
    if len(value.encode()) > LONGEST_LABEL:
        found.append(f"must be no more than {LONGEST_LABEL} bytes")
    if value and not LABEL_NAME.fullmatch(value):
        found.append(VALUE_WORDS)
    return found


def quoted(text: str) -> str:
    """In quotes, as Go's %q writes it."""
    return json.dumps(text, ensure_ascii=False)


# --- fields: FIELD = == != VALUE; in a value \\ stands before \\ , and = --------------------------

OPERATOR = re.compile(r"!=|==|=")


def parse_fields(text: str) -> list[tuple[str, str, bool]]:
    """(field, value, equal) of each term. Errors: ValueError in apimachinery's words.

    >>> parse_fields("metadata.name=a,status.phase!=Failed")
    [('metadata.name', 'a', True), ('status.phase', 'Failed', False)]
    """
    found = []
    for term in sorted(re.findall(r"(?:[^,\\]|\\.|\\\Z)+", text, re.S)):
        split = OPERATOR.search(term)
        if split is None:
            raise ValueError(f"invalid selector: '{text}'; can't understand '{term}'")
        field, value = term[:split.start()], _unescaped(term[split.end():])
        if field or value:
            found.append((field, value, split.group() != "!="))
    return found


def _unescaped(text: str) -> str:
    out, at = [], 0
    while at < len(text):
        sign = text[at]
        if sign == "\\":
            sign = text[at + 1:at + 2]
            if not sign or sign not in "\\,=":
                raise ValueError(f"invalid field selector: invalid escape sequence: \\{sign}")
            at += 1
        elif sign in ",=":
            raise ValueError("invalid field selector: unescaped character in value: "
                             f"{ord(sign)}")
        out.append(sign)
        at += 1
    return "".join(out)
