# SPDX-License-Identifier: Apache-2.0
"""Which of the media types a client accepts it gets: JSON, or YAML for what is no stream.

    Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json ──> application/json

A clause that asks for another form of the object (as=Table, as=PartialObjectMetadata) is passed
over until there are such forms, so that clients which name plain JSON behind it get that.
Source: apiserver endpoints/handlers/negotiation. Thread safety: values only.
May not know: the store, verbs.
"""

from __future__ import annotations

from functools import lru_cache

import orjson
import yaml

from kvcore.kube import status
from kvcore.kube.request import Answer

__all__ = ["JSON", "YAML", "accepted", "as_yaml", "negotiate"]

JSON, YAML = "application/json", "application/yaml"
STREAM = f"{JSON};stream=watch"


@lru_cache(256)
def accepted(accept: str, *, stream: bool = False) -> str:
    """The media type to answer with; "": none of those the client accepts.

    >>> accepted("application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
    'application/json'
    >>> accepted("application/yaml, */*;q=0.5"), accepted("text/html")
    ('application/yaml', '')
    """
    if not accept:
        return JSON
    clauses: list[tuple[float, int, int, str, dict[str, str]]] = []
    for clause in accept.split(","):
        kind, *texts = (part.strip() for part in clause.split(";"))
        params = dict(text.partition("=")[::2] for text in texts)
        try:
            quality = float(params.get("q", 1))
        except ValueError:
            quality = 1.0
        clauses.append((-quality, kind.count("*"), len(clauses), kind, params))
    for _, _, _, kind, params in sorted(clauses, key=lambda c: c[:3]):
        if params.keys() & {"as", "g", "v"} or params.get("sv"):
            continue
        if params.get("stream", "watch") != "watch":
            continue
        if kind in (JSON, "application/*", "*/*"):
            return JSON
        if kind == YAML and not stream:
            return YAML
    return ""


def negotiate(accept: str, *, stream: bool = False) -> str:
    """As `accepted`. Errors: 406; in other words where no clause names a type that is known."""
    found = accepted(accept, stream=stream)
    if found:
        return found
    if not any(known in accept for known in (JSON, YAML, "*/*", "application/*")):
        raise status.ApiError(406, "NotAcceptable", "406: Not Acceptable\n\nAvailable "
                              f"representations: {JSON}, {YAML}, {STREAM}", {})
    raise status.not_acceptable(STREAM if stream else f"{JSON}, {YAML}")


def as_yaml(answer: Answer) -> None:
    """The same answer in YAML, keys in order, in place. Cost: some 2 ms a KB."""
    answer.body = yaml.dump(orjson.loads(answer.body), encoding="utf-8", allow_unicode=True,
                            Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
    answer.content_type = YAML
