# SPDX-License-Identifier: Apache-2.0
"""Kubernetes watch events for tests of the watch cache, and what is compared of events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import kvcore
from kvcore import CachedEvent, WatchCache


def pod(version: object, name: object = "cart", namespace: object = "shop",
        **fields: Any) -> dict[str, Any]:
    return {"kind": "Pod", **fields, "metadata": {
        "namespace": namespace, "name": name, "resourceVersion": version}}


def event(version: object, kind: object = "MODIFIED", **fields: Any) -> dict[str, Any]:
    return {"type": kind, "object": pod(version, **fields)}


def put(version: int, name: str = "k", data: bytes = b"v") -> dict[str, Any]:
    """A small event of any version, its key without a namespace."""
    return {"type": "MODIFIED", "object": {"data": data, "metadata": {
        "name": name, "resourceVersion": str(version)}}}


def versions(events: list[CachedEvent]) -> list[int]:
    return [e.resource_version for e in events]


def seen(events: list[CachedEvent]) -> list[tuple[str, bytes, int, bytes]]:
    return [(e.type, e.key, e.resource_version, e.value) for e in events]


def as_seen(events: Iterable[kvcore.Event]) -> list[tuple[str, bytes, int, bytes]]:
    """The same of a store's events."""
    return [(e.type, e.kv.key, e.kv.mod_revision, e.kv.value) for e in events]


def add_all(cache: WatchCache, events: Iterable[kvcore.Event | dict[str, Any]]) -> None:
    for each in events:
        cache.add_event(each)
