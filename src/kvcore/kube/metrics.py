# SPDX-License-Identifier: Apache-2.0
"""What the server counts, under upstream's names, in Prometheus' text format.

    Counter.inc(values), Histogram.observe(values, seconds) ──> render(api) ──> GET /metrics

Counted where it happens, by tuples of label values; what a cache knows of itself is asked for when
it is rendered. prometheus-client was measured and not taken: 1.4 us an observation with its labels
looked up, and locks that one event loop does not need, against 0.3 us here.
Names and labels: apiserver endpoints/metrics, admission/metrics, storage/cacher/metrics; buckets
are upstream's with finer ones below. Those with "kvcore" in the name are our own, and so is
apiserver_admission_controller_duration_seconds. Thread safety: one event loop's thread.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from operator import add
from typing import TYPE_CHECKING

from kvcore.kube.resources import Resource

if TYPE_CHECKING:
    from kvcore.kube.api import Api
    from kvcore.kube.call import Call

__all__ = ["CONTENT_TYPE", "Counter", "Histogram", "Metrics", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Values = tuple[str, ...]

FINE = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025)
REQUEST_SECONDS = (*FINE, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0,
                   4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0)
ADMISSION_SECONDS = (0.000001, 0.0000025, 0.000005, *FINE, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5)
STAGE_SECONDS = (0.000001, 0.0000025, 0.000005, *FINE, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                 1.0, 2.5, 5.0, 10.0)
REQUEST_LABELS = ("verb", "dry_run", "group", "version", "resource", "subresource", "scope",
                  "component")
RUNNING_LABELS = ("verb", "group", "version", "resource", "subresource", "scope", "component")
VERBS = {"create": "POST", "update": "PUT", "deletecollection": "DELETECOLLECTION"}
KNOWN_VERBS = frozenset({"get", "list", "watch", "patch", "delete", "post", "put", "head",
                         "options", "connect"})


class Counter:
    """Numbers by label values; a gauge when it may go down. Cost of `inc`: 0.15 us.

    >>> events = Counter("events_total", "Events.", ("resource",))
    >>> events.inc(("pods",))
    >>> print("\\n".join(events.lines()))
    # HELP events_total Events.
    # TYPE events_total counter
    events_total{resource="pods"} 1
    """

    def __init__(self, name: str, help: str, labels: Values, type: str = "counter") -> None:
        self.name, self.help, self.labels, self.type = name, help, labels, type
        self.values: dict[Values, float] = {}

    def inc(self, values: Values, n: float = 1) -> None:
        self.values[values] = self.values.get(values, 0) + n

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.help, self.type)
        for values, n in self.values.items():
            yield f"{self.name}{_labels(self.labels, values)} {_number(n)}"


class Histogram:
    """Seconds by label values. Cost of `observe`: 0.3 us."""

    def __init__(self, name: str, help: str, labels: Values, buckets: tuple[float, ...]) -> None:
        self.name, self.help, self.labels, self.bounds = name, help, labels, buckets
        # label values -> how many fell into each bucket, behind them into none, and their sum
        self.counts: dict[Values, tuple[list[int], list[float]]] = {}

    def observe(self, values: Values, seconds: float) -> None:
        found = self.counts.get(values)
        if found is None:
            found = self.counts[values] = [0] * (len(self.bounds) + 1), [0.0]
        found[0][bisect_left(self.bounds, seconds)] += 1
        found[1][0] += seconds

    def observer(self, values: Values) -> Callable[[float], None]:
        """`observe` for the same label values again and again. Cost of a call: 0.15 us."""
        bounds, bisect = self.bounds, bisect_left
        counts: list[int] = []
        total: list[float] = []

        def observe(seconds: float) -> None:
            nonlocal counts, total
            if not counts:                    # label values appear with their first seconds
                self.observe(values, seconds)
                counts, total = self.counts[values]
            else:
                counts[bisect(bounds, seconds)] += 1
                total[0] += seconds

        return observe

    def count(self, values: Values) -> int:
        """How many were observed."""
        return sum(self.counts[values][0]) if values in self.counts else 0

    def sum(self, values: Values) -> float:
        return self.counts[values][1][0] if values in self.counts else 0.0

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.help, "histogram")
        for values, (counts, total) in self.counts.items():
            so_far = 0
            for bound, n in zip((*self.bounds, math.inf), counts, strict=True):
                so_far += n
                labels = _labels((*self.labels, "le"), (*values, _number(bound)))
                yield f"{self.name}_bucket{labels} {so_far}"
            labels = _labels(self.labels, values)
            yield f"{self.name}_sum{labels} {_number(total[0])}"
            yield f"{self.name}_count{labels} {so_far}"


def _head(name: str, help: str, type: str) -> Iterator[str]:
    yield f"# HELP {name} {help}"
    yield f"# TYPE {name} {type}"


ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def _labels(names: Values, values: Values) -> str:
    pairs = ",".join(f'{name}="{value.translate(ESCAPES)}"'
                     for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _number(n: float) -> str:
    """As Prometheus writes it.

    >>> [_number(n) for n in (3, 2.5, 1.0, math.inf)]
    ['3', '2.5', '1', '+Inf']
    """
    if math.isinf(n):
        return "+Inf"
    return str(int(n)) if n == int(n) else repr(n)


class Metrics:
    """All counters of one Api."""

    def __init__(self) -> None:
        self.requests = Counter(
            "apiserver_request_total", "Counter of apiserver requests broken out for each verb, "
            "dry run value, group, version, resource, scope, component, and HTTP response code.",
            (*REQUEST_LABELS, "code"))
        self.durations = Histogram(
            "apiserver_request_duration_seconds", "Response latency distribution in seconds for "
            "each verb, dry run value, group, version, resource, subresource, scope and "
            "component.", REQUEST_LABELS, REQUEST_SECONDS)
        self.longrunning = Counter(
            "apiserver_longrunning_requests", "Gauge of all active long-running apiserver "
            "requests broken out by verb, group, version, resource, scope and component.",
            RUNNING_LABELS, "gauge")
        self.watch_events = Counter(
            "apiserver_watch_events_total", "Number of events sent in watch clients",
            ("group", "version", "resource"))
        self.admission = Histogram(
            "apiserver_admission_controller_admission_duration_seconds", "Admission controller "
            "latency histogram in seconds, identified by name and broken out for each operation "
            "and API resource and type (validate or admit).",
            ("name", "type", "operation", "rejected"), ADMISSION_SECONDS)
        self.store = Histogram(
            "etcd_request_duration_seconds", "Latency of the store in seconds for each operation "
            "and object type.", ("operation", "group", "resource"), REQUEST_SECONDS)
        self.stages = Histogram(
            "apiserver_kvcore_stage_duration_seconds", "What each stage of a verb took, in "
            "seconds.", ("verb", "stage"), STAGE_SECONDS)

    def families(self) -> Iterable[Counter | Histogram]:
        return (self.requests, self.durations, self.longrunning, self.watch_events,
                self.admission, self.admission_by_name(), self.store, self.stages)

    def admission_by_name(self) -> Histogram:
        """The same seconds under the article's name, of a plugin's turns together. Added up when
        somebody looks: a pod passes thirteen turns."""
        merged = Histogram("apiserver_admission_controller_duration_seconds",
                           "Admission controller latency in seconds by name.", ("name",),
                           self.admission.bounds)
        for (name, *_), (counts, total) in self.admission.counts.items():
            mine = merged.counts.setdefault((name,), ([0] * len(counts), [0.0]))
            mine[0][:] = map(add, mine[0], counts)
            mine[1][0] += total[0]
        return merged

    def of_request(self, verb: str, resource: Resource | None, subresource: str, namespace: str,
                   name: str, dry_run: bool, code: int, seconds: float) -> None:
        """One request that was answered. `verb`: as authorisation says it. Cost: 1 us."""
        if resource is None:
            group = version = plural = scope = subresource = ""
        else:
            group, version, plural = resource.group, resource.version, resource.plural
            scope = "resource" if name else "namespace" if namespace else "cluster"
            if subresource and subresource not in (*resource.subresources, "token"):
                subresource = "other"         # anybody can make up any number of them
        said = VERBS.get(verb) or (verb.upper() if verb in KNOWN_VERBS else "OTHER")
        labels = (said, "All" if dry_run else "", group, version, plural, subresource, scope,
                  "apiserver")
        self.requests.inc((*labels, str(code)))
        if said != "WATCH":                   # they last as long as they are wanted
            self.durations.observe(labels, seconds)

    def of_admission(self, name: str, type: str, operation: str,
                     rejected: bool) -> Callable[[float], None]:
        """As kvcore.kube.admission.Chain observes."""
        return self.admission.observer((name, type, operation, "true" if rejected else "false"))

    def of_store(self, operation: str, resource: Resource, seconds: float) -> None:
        self.store.observe((operation, resource.group, resource.plural), seconds)

    def watched(self, resource: Resource) -> Callable[[int], None]:
        """Counts events sent to watchers of a resource."""
        labels = resource.group, resource.version, resource.plural
        return lambda n: self.watch_events.inc(labels, n)

    def running(self, verb: str, call: Call) -> Callable[[int], None]:
        """Counts long requests of a kind up and down."""
        resource = call.resource
        scope = "resource" if call.name else "namespace" if call.namespace else "cluster"
        labels = (verb, resource.group, resource.version, resource.plural, call.subresource,
                  scope, "apiserver")
        return lambda n: self.longrunning.inc(labels, n)


def render(api: Api) -> bytes:
    """Everything in Prometheus' text format. Cost: some 10 us a series."""
    lines: list[str] = []
    for family in (*api.metrics.families(), *_of_caches(api)):
        lines += family.lines()
    return ("\n".join(lines) + "\n").encode()


def _of_caches(api: Api) -> Iterator[Counter]:
    """What the watch caches know of themselves."""
    both = ("group", "resource")
    tables = (
        ("apiserver_watch_cache_capacity", "gauge", "Total capacity of watch cache broken by "
         "resource type.", lambda c: c.recent.stats().capacity),
        ("apiserver_watch_cache_length", "gauge", "Events in the watch cache by resource type.",
         lambda c: len(c.recent)),
        ("apiserver_watch_cache_events_received_total", "counter", "Counter of events received "
         "in watch cache broken by resource type.", lambda c: c.received),
        ("apiserver_watch_cache_events_dispatched_total", "counter", "Counter of events "
         "dispatched in watch cache broken by resource type.", lambda c: c.dispatched),
        ("apiserver_watch_cache_initializations_total", "counter", "Counter of watch cache "
         "initializations broken by resource type.", lambda c: c.begun),
        ("apiserver_watch_cache_resource_version", "gauge", "Current resource version of watch "
         "cache broken by resource type.", lambda c: c.revision),
        ("apiserver_terminated_watchers_total", "counter", "Counter of watchers closed due to "
         "unresponsiveness broken by resource type.", lambda c: c.terminated),
        ("apiserver_storage_decode_errors_total", "counter", "Number of stored object decode "
         "errors split by object type", lambda c: c.broken),
        ("apiserver_storage_objects", "gauge", "Number of stored objects by resource type.",
         lambda c: len(c.state)),
        ("apiserver_kvcore_watchers", "gauge", "Watchers by resource type.",
         lambda c: c.watchers),
        ("apiserver_kvcore_watch_cache_bytes", "gauge", "Memory of the events in the watch cache "
         "by resource type.", lambda c: c.recent.stats().bytes),
    )
    for name, type, help, ask in tables:
        family = Counter(name, help, both, type)
        for cacher in api.feed.cachers.values():
            family.inc((cacher.resource.group, cacher.resource.plural), ask(cacher))
        yield family
    restarts = Counter("apiserver_kvcore_watch_cache_restarts_total",
                       "How often the watch of the store began anew.", (), "counter")
    restarts.inc((), api.feed.restarts)
    yield restarts
    if api.certificates:
        ends = Counter("apiserver_kvcore_certificate_end_seconds", "When the server's own "
                       "certificates end, in seconds since 1970.", ("certificate",), "gauge")
        for name, end in api.certificates.items():
            ends.inc((name,), end)
        yield ends
    if api.audit is not None:
        events = Counter("apiserver_audit_event_total", "Counter of audit events generated and "
                         "sent to the audit backend.", ())
        events.inc((), api.audit.written)
        yield events
        errors = Counter("apiserver_audit_error_total", "Counter of audit events that failed to "
                         "be audited properly.", ("plugin",))
        errors.inc(("log",), api.audit.failed)
        yield errors
