# SPDX-License-Identifier: Apache-2.0
"""Bodies into objects: JSON, YAML, the protobuf envelope; each refusal with its Status.

Limits: 3 MiB a body, 10,000 levels upstream and 1,000 here (a parser's stack), keys and values as
JSON has them. An envelope's content must be JSON: messages of k8s.io/api are not known yet, and are
refused with 415. Source: apiserver endpoints/handlers (negotiation, limits).
May not know: the store.
"""

from __future__ import annotations

from typing import Any

import orjson
import yaml

from kvcore.kube import status
from kvcore.kube.codec import ENVELOPE, open_envelope

__all__ = ["BODY_LIMIT", "decode_body"]

Object = dict[str, Any]

BODY_LIMIT = 3 * 1024 * 1024
DEEPEST = 1000
JSON, YAML = "application/json", "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
ACCEPTED = f"{JSON}, {YAML}, {PROTOBUF}"


def decode_body(body: bytes, content_type: str) -> Object:
    """The object a body says. Errors: ApiError 400, 413, 415."""
    if len(body) > BODY_LIMIT:
        raise status.too_large(BODY_LIMIT)
    kind = content_type.partition(";")[0].strip() or JSON
    if kind == JSON:
        obj = _json(body)
    elif kind == YAML:
        obj = _yaml(body)
    elif kind == PROTOBUF:
        obj = _enveloped(body)
    else:
        raise status.unsupported_media_type(ACCEPTED)
    if not isinstance(obj, dict):
        raise status.bad_request("the object provided is unrecognized (must be of type Object): "
                                 "couldn't get version/kind; json parse error: "
                                 f"json: cannot unmarshal {_json_type(obj)}")
    return obj


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise status.bad_request("the object provided is unrecognized (must be of type Object): "
                                 f"couldn't get version/kind; json parse error: {error}") from None


def _yaml(body: bytes) -> Any:
    try:
        return yaml.load(body, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise status.bad_request(f"error converting YAML to JSON: {said}") from None


def _enveloped(body: bytes) -> Any:
    try:
        found = open_envelope(body)
    except (ValueError, UnicodeDecodeError) as error:
        what = "provided data does not appear to be a protobuf message, expected prefix" \
            if not body.startswith(ENVELOPE) else "the envelope cannot be read"
        raise status.bad_request(f"{what}: {error}") from None
    if found.content_type not in ("", JSON) or not found.raw.lstrip().startswith(b"{"):
        raise status.unsupported_media_type(f"{JSON}, {YAML}")
    return _json(found.raw)


def _json_type(value: Any) -> str:
    if isinstance(value, list):
        return "array"
    if isinstance(value, bool) or value is None:
        return "bool"
    return "string" if isinstance(value, str) else "number"
