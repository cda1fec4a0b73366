# SPDX-License-Identifier: Apache-2.0
"""Rules for single values: what is wrong with a name, a port, an address, in upstream's words.

A rule takes a value and returns the list of its faults, mostly none. Those that see the same few
values again and again (label keys and values) remember the good ones.
Thread safety: the tables of good values belong to one thread at a time.
Source: apimachinery util/validation, api/validate/content. May not know: objects.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from kvcore.kube.meta import name_problem
from kvcore.kube.validation.errors import Errors, Object, invalid, invalid_each, required

__all__ = ["check_labels", "check_label_key", "config_key", "dns_label", "env_name", "label_key",
           "label_value", "nonnegative", "path_segment", "percent", "port_name", "port_number",
           "subdomain"]

Rule = Callable[[str], list[str]]
GOOD_MAX = 8192
MUST_BE_NONNEGATIVE = "must be greater than or equal to 0"
PORT_RANGE = "must be between 1 and 65535, inclusive"


def of_name(rule: str) -> Rule:
    """A rule of kvcore.kube.meta.name_problem, as a list of faults."""
    def check(value: str) -> list[str]:
        problem = name_problem(value, rule)
        return [problem] if problem else []
    return check


dns_label, subdomain, label_1035 = of_name("label"), of_name("subdomain"), of_name("label1035")

# --- labels ---------------------------------------------------------------------------------------

WORD = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
KEY_NAME = re.compile(WORD + r"\Z", re.ASCII)
KEY_WORDS = ("must consist of alphanumeric characters, '-', '_' or '.', and must start and end "
             "with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', "
             f"regex used for validation is '{WORD}')")
VALUE_WORDS = ("a valid label must be an empty string or consist of alphanumeric characters, '-', "
               "'_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue', "
               " or 'my_value',  or '12345', regex used for validation is "
               f"'({WORD})?')")
PREFIX_WORDS = ("a valid label key " + KEY_WORDS
                + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")
_good_keys: set[str] = set()
_good_values: set[str] = {""}


def label_key(key: str) -> list[str]:
    """Faults of a qualified name: prefix/name.

    >>> label_key("app.kubernetes.io/name"), label_key("-x")[0][:20]
    ([], 'name part must consi')
    """
    if key in _good_keys:
        return []
    faults: list[str] = []
    parts = key.split("/")
    name = parts[-1]
    if len(parts) > 2:
        return [PREFIX_WORDS]
    if len(parts) == 2:
        if not parts[0]:
            faults.append("prefix part must be non-empty")
        else:
            faults += [f"prefix part {fault}" for fault in subdomain(parts[0])]
    if not name:
        faults.append("name part must be non-empty")
    elif len(name) > 63:
        faults.append("name part must be no more than 63 bytes")
    if not KEY_NAME.match(name):
        faults.append("name part " + KEY_WORDS)
    if not faults:
        if len(_good_keys) >= GOOD_MAX:
            _good_keys.clear()
        _good_keys.add(key)
    return faults


def label_value(value: str) -> list[str]:
    if value in _good_values:
        return []
    faults = []
    if len(value) > 63:
        faults.append("must be no more than 63 bytes")
    if value and not KEY_NAME.match(value):
        faults.append(VALUE_WORDS)
    if not faults:
        if len(_good_values) >= GOOD_MAX:
            _good_values.clear()
        _good_values.add(value)
    return faults


def check_labels(errs: Errors, labels: Object, path: str) -> None:
    for key, value in labels.items():
        if key not in _good_keys:
            invalid_each(errs, path, key, label_key(key))
        if value not in _good_values:
            invalid_each(errs, path, value, label_value(value))


def check_label_key(errs: Errors, key: str, path: str) -> None:
    invalid_each(errs, path, key, label_key(key))


# --- names ----------------------------------------------------------------------------------------

def path_segment(name: str) -> list[str]:
    problem = name_problem(name, "path")
    return [problem] if problem else []


PORT_NAME = re.compile(r"[-a-z0-9]+\Z")


def port_name(name: str) -> list[str]:
    """Faults of an IANA service name.

    >>> port_name("http"), port_name("80")
    ([], ['must contain at least one letter (a-z)'])
    """
    faults = []
    if len(name) > 15:
        faults.append("must be no more than 15 characters")
    if not PORT_NAME.match(name):
        faults.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", name):
        faults.append("must contain at least one letter (a-z)")
    if "--" in name:
        faults.append("must not contain consecutive hyphens")
    if name[:1] == "-" or name[-1:] == "-":
        faults.append("must not begin or end with a hyphen")
    return faults


def port_number(port: int) -> list[str]:
    return [] if 1 <= port <= 65535 else [PORT_RANGE]


def check_port(errs: Errors, port: Any, path: str) -> None:
    """A port by number or by name."""
    invalid_each(errs, path, port, port_number(port) if port.__class__ is int else port_name(port))


CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+\Z")
CONFIG_WORDS = ("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. "
                "'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is "
                "'[-._a-zA-Z0-9]+')")


def config_key(key: str) -> list[str]:
    """Faults of a key of a ConfigMap or Secret."""
    faults = []
    if len(key) > 253:
        faults.append("must be no more than 253 characters")
    if not CONFIG_KEY.match(key):
        faults.append(CONFIG_WORDS)
    if key == ".":
        faults.append("must not be '.'")
    elif key == "..":
        faults.append("must not be '..'")
    elif key.startswith(".."):
        faults.append("must not start with '..'")
    return faults


ENV_NAME = re.compile(r"[ -<>-~]+\Z")
ENV_WORDS = ("a valid environment variable name must consist only of printable ASCII characters "
             "other than '='")


def env_name(name: str) -> list[str]:
    return [] if ENV_NAME.match(name) else [ENV_WORDS]


WILDCARD = re.compile(r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
WILDCARD_WORDS = (
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which "
    "must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric "
    "character (e.g. '*.example.com', regex used for validation is "
    "'\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')")


def wildcard(name: str) -> list[str]:
    return [] if WILDCARD.match(name) and len(name) <= 253 else [WILDCARD_WORDS]


UNDERSCORED = re.compile(
    r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*\Z")
UNDERSCORED_WORDS = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' "
    "or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
    "for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')")


def underscored(name: str) -> list[str]:
    return [] if UNDERSCORED.match(name) and len(name) <= 253 else [UNDERSCORED_WORDS]


HEADER = re.compile(r"[-A-Za-z0-9]+\Z")
HEADER_WORDS = ("a valid HTTP header must consist of alphanumeric characters or '-' (e.g. "
                "'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')")


def header_name(name: str) -> list[str]:
    return [] if HEADER.match(name) else [HEADER_WORDS]


# --- numbers and addresses ------------------------------------------------------------------------

PERCENT = re.compile(r"[0-9]+%\Z")
PERCENT_WORDS = ("a valid percent string must be a numeric string followed by an ending '%' (e.g. "
                 "'1%',  or '93%', regex used for validation is '[0-9]+%')")


def percent(text: str) -> list[str]:
    return [] if PERCENT.match(text) else [PERCENT_WORDS]


def nonnegative(errs: Errors, holder: Object, key: str, path: str) -> None:
    """A number that may be absent, and may not be negative."""
    value = holder.get(key)
    if value is not None and value < 0:
        invalid(errs, f"{path}.{key}", value, MUST_BE_NONNEGATIVE)


def int_or_percent(errs: Errors, value: Any, path: str) -> None:
    if value.__class__ is str:
        invalid_each(errs, path, value, percent(value))
    elif value < 0:
        invalid(errs, path, value, MUST_BE_NONNEGATIVE)


def at_most_100_percent(errs: Errors, value: Any, path: str) -> None:
    if value.__class__ is str and PERCENT.match(value) and int(value[:-1]) > 100:
        invalid(errs, path, value, "must not be greater than 100%")


def number_of(value: Any) -> int:
    """The number of an int or percent; 0 for anything else."""
    if value.__class__ is int:
        return int(value)
    return int(value[:-1]) if value.__class__ is str and PERCENT.match(value) else 0


def ip_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def check_ip(errs: Errors, text: str, path: str) -> bool:
    if ip_of(text) is None:
        invalid(errs, path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
        return False
    return True


def check_cidr(errs: Errors, text: str, path: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
        if "/" not in text:
            raise ValueError
    except ValueError:
        invalid(errs, path, text,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
        return False
    return True


def need(errs: Errors, holder: Object, key: str, path: str) -> Any:
    """The value of a field that may not be empty."""
    value = holder.get(key)
    if not value:
        required(errs, f"{path}.{key}")
    return value
