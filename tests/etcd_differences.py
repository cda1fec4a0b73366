# SPDX-License-Identifier: Apache-2.0
"""What kvcore and the etcd it is compared with (3.5.1) do differently, by name.

    name -> Difference(smooth)      smooth(request, ours or theirs) makes both sides' answers equal

The only place where a comparison learns what to overlook; docs/differences-from-etcd.md has a
section for each name, which says why (tests/meta/test_differences.py holds the two together), and
tests/test_etcd_oracle_differences.py shows each on a real etcd. What has no `smooth` would part the
two histories: requests that meet it are not drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any, NamedTuple

from kvcore.etcd import messages as m

Full = Callable[[m.RangeRequest], dict[bytes, m.KeyValue]]
"""All rows of a range, by key: what its answer was sorted and cut from."""


def equal_sort_keys(request: Any, answer: Any, full: Full | None) -> None:
    """Rows that sort equally stand by key; those of which some were cut off lose their names."""
    if isinstance(request, m.TxnRequest) and isinstance(answer, m.TxnResponse):
        ops = request.success if answer.succeeded else request.failure
        for op, response in zip(ops, answer.responses, strict=True):
            kind = op.WhichOneof("request")
            if kind in ("request_range", "request_txn"):
                equal_sort_keys(getattr(op, kind),
                                getattr(response, kind.replace("request", "response")), None)
    elif isinstance(request, m.RangeRequest) and isinstance(answer, m.RangeResponse):
        if request.sort_target == m.RangeRequest.KEY or not answer.kvs:
            return
        name = {m.RangeRequest.VERSION: "version", m.RangeRequest.CREATE: "create_revision",
                m.RangeRequest.MOD: "mod_revision",
                m.RangeRequest.VALUE: "value"}[request.sort_target]
        known = full(request) if full is not None else {kv.key: kv for kv in answer.kvs}
        if any(kv.key not in known for kv in answer.kvs):
            return
        groups = [sorted(group, key=lambda kv: kv.key) for _, group in groupby(
            answer.kvs, key=lambda kv: getattr(known[kv.key], name))]
        rows = [m.KeyValue.FromString(kv.SerializeToString()) for group in groups for kv in group]
        if answer.more:
            last = len(groups[-1])
            for kv in rows[-last:]:
                whole = m.KeyValue.FromString(known[kv.key].SerializeToString())
                if request.keys_only:
                    whole.ClearField("value")
                assert kv == whole, f"{kv} is not what the range holds: {whole}"
                kv.Clear()
        del answer.kvs[:]
        answer.kvs.extend(rows)


def lease_clocks(request: Any, answer: Any, full: Full | None) -> None:
    """The seconds left are about those granted; a restarted etcd adds its election timeout."""
    if isinstance(answer, m.LeaseTimeToLiveResponse) and 0 < answer.TTL < answer.grantedTTL + 60:
        answer.TTL = answer.grantedTTL


def lease_key_order(request: Any, answer: Any, full: Full | None) -> None:
    """The keys of a lease stand in order."""
    if isinstance(answer, m.LeaseTimeToLiveResponse):
        keys = sorted(answer.keys)
        del answer.keys[:]
        answer.keys.extend(keys)


def hash_revision(request: Any, answer: Any, full: Full | None) -> None:
    """The revision hashed is not said."""
    if isinstance(answer, m.HashKVResponse):
        answer.ClearField("hash_revision")


def tombstone_of_compaction(event: m.Event, compacted: int) -> bool:
    """A deletion at the compact revision."""
    return event.type == m.Event.DELETE and event.kv.mod_revision == compacted


class Difference(NamedTuple):
    """One difference; smooth: what makes answers that show nothing but it equal; unseen: an event
    that one of the two may not tell of.
    """

    smooth: Callable[[Any, Any, Full | None], None] | None = None
    unseen: Callable[[m.Event, int], bool] | None = None


DIFFERENCES: dict[str, Difference] = {
    "equal-sort-keys": Difference(equal_sort_keys),
    "unknown-sort": Difference(),
    "unknown-compare": Difference(),
    "delete-to-the-end": Difference(),
    "key-size": Difference(),
    "request-size": Difference(),
    "lease-ids": Difference(),
    "lease-clocks": Difference(lease_clocks),
    "lease-key-order": Difference(lease_key_order),
    "lease-forgotten": Difference(),
    "watch-history": Difference(),
    "watch-before-the-first": Difference(),
    "tombstone-of-compaction": Difference(unseen=tombstone_of_compaction),
    "progress-unsynced": Difference(),
    "hash-revision": Difference(hash_revision),
    "hash-at-compaction": Difference(),
    "hash-negative": Difference(),
    "hash-without-keys": Difference(),
}


def smoothed(request: Any, answer: Any, full: Full | None) -> Any:
    """A copy of an answer without what the differences let differ."""
    if not isinstance(answer, tuple):
        kind = type(answer)
        answer = kind.FromString(answer.SerializeToString())
        for difference in DIFFERENCES.values():
            if difference.smooth is not None:
                difference.smooth(request, answer, full)
    return answer


def seen_by_both(event: Any, compacted: int) -> bool:
    """Whether both tell of an event, delivered when so much is compacted."""
    return not isinstance(event, m.Event) or not any(
        difference.unseen is not None and difference.unseen(event, compacted)
        for difference in DIFFERENCES.values())
