# SPDX-License-Identifier: Apache-2.0
"""Keeps the stored rules of aggregated ClusterRoles what they are computed to be.

    a ClusterRole changes ──> every role with an aggregationRule: its rules, by rbac.aggregated
                                   └─ others than those stored ──> replaced, if it is unchanged

Decisions do not wait for it (rbac.py computes the rules itself); it is for those who read the
object. Any number of servers may run it over one store: they write the same.
Thread safety: one event loop. Source: kubernetes pkg/controller/clusterroleaggregation.
May not know: HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import orjson

from kvcore.kube.caching import Cacher
from kvcore.kube.rbac import GROUP, aggregated, role_of
from kvcore.kube.storage import Changed
from kvcore.kube.watcher import Watcher

if TYPE_CHECKING:
    from kvcore.kube.api import Api

__all__ = ["aggregate_once", "keep_aggregated"]

_log = logging.getLogger("kvcore.kube")

AGAIN_SECONDS = 1.0
FOREVER = 3600.0                 # seconds between two looks that nothing asked for


async def keep_aggregated(api: Api) -> None:
    """Runs until it is cancelled. Start it as a task after api.start(), cancel it before stop()."""
    cacher = _cluster_roles(api)
    while True:
        watcher = Watcher(cacher.prefix)
        cacher.watch(watcher, cacher.revision)
        try:
            while not watcher.closed:
                await aggregate_once(api)
                await watcher.wait(FOREVER)
                watcher.take()
        except Exception as error:            # the caches begin anew, a write failed
            if api.store.closed:
                return
            _log.warning("aggregated roles are looked at again: %s", error)
            await asyncio.sleep(AGAIN_SECONDS)
        finally:
            cacher.close(watcher)


async def aggregate_once(api: Api) -> int:
    """Brings all aggregated roles up to date with the watch cache. Returns: how many were written.
    One that somebody changes at the same moment is left to the next time."""
    written = 0
    objects = {key: orjson.loads(entry.body) for key, entry in _cluster_roles(api).state.items()}
    roles = {key: role_of(obj) for key, obj in sorted(objects.items())}
    for key, role in roles.items():
        if role.selectors is None:
            continue
        rules = aggregated(role, roles.values())
        if rules == role.rules:
            continue
        obj = objects[key]
        revision = int(obj["metadata"]["resourceVersion"])
        obj["rules"] = [rule.object() for rule in rules]
        try:
            revision = await api.objects.replace(key, api.codec.encode(obj), revision)
        except Changed:
            continue
        written += 1
        await api.feed.reach(revision, mine=True)
    return written


def _cluster_roles(api: Api) -> Cacher:
    resource = api.resources.of_path(GROUP, "v1", "clusterroles")
    assert resource is not None
    return api.feed.cacher(resource)
