# SPDX-License-Identifier: Apache-2.0
"""metadata: names, uids, times, generations.

What the server writes into an object before it is stored, whoever made it, and the rules a name
keeps. Sources: apimachinery util/validation, apiserver registry/rest (create.go, update.go),
storage/names (generate.go). Thread safety: none needed. May not know: the store.
"""

from __future__ import annotations

import random
import re
import time
import uuid
from typing import Any

__all__ = ["generate_name", "new_uid", "rfc3339", "name_problem"]

Object = dict[str, Any]

SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"      # no vowels, nothing read two ways
SUFFIX_LENGTH = 5
MAX_NAME = 63
GENERATED_TRIES = 8                                 # names tried before a clash is told

_random = random.SystemRandom()


def generate_name(base: str, rng: random.Random = _random) -> str:
    """`base`, shortened to leave room, and five random letters.

    >>> name = generate_name("web-")
    >>> len(name), name[:4]
    (9, 'web-')
    """
    return base[:MAX_NAME - SUFFIX_LENGTH] + "".join(rng.choices(SUFFIX_LETTERS, k=SUFFIX_LENGTH))


def new_uid() -> str:
    return str(uuid.uuid4())


def rfc3339(seconds: float) -> str:
    """Seconds since 1970 as a time of whole seconds in UTC.

    >>> rfc3339(0.5)
    '1970-01-01T00:00:00Z'
    """
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = re.compile(rf"{LABEL}(\.{LABEL})*\Z")
LABEL_1123 = re.compile(rf"{LABEL}\Z")
LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")

SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
    "for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')")
LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and "
    "must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used "
    "for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')")
LABEL_1035_RULE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an "
    "alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', "
    "regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')")

NO_DOTS = "must not contain dots"


def name_problem(name: str, rule: str = "subdomain") -> str | None:
    """Why a name cannot be one, in apimachinery's words; None if it can.

    Args: rule: "subdomain" (most kinds), "label" (namespaces, ...), "label1035" (services),
    "path" (RBAC: any path segment).

    >>> name_problem("web-1"), name_problem("x" * 254)
    (None, 'must be no more than 253 characters')
    """
    if rule == "path":
        if name in (".", ".."):
            return f"may not be '{name}'"
        for bad in "/%":
            if bad in name:
                return f"may not contain '{bad}'"
        return None
    pattern, words, longest = {
        "subdomain": (SUBDOMAIN, SUBDOMAIN_RULE, 253),
        "label": (LABEL_1123, LABEL_RULE, 63),
        "label1035": (LABEL_1035, LABEL_1035_RULE, 63),
    }[rule]
    if len(name) > longest:
        return f"must be no more than {longest} characters"
    if pattern.match(name):
        return None
    return NO_DOTS if rule == "label" and SUBDOMAIN.match(name) else words
