# SPDX-License-Identifier: Apache-2.0
"""An embedded store and a real etcd that have seen the same requests in the same order.

    pair.ask(request) ─┬─► kvcore.etcd.service ─► kvcore.Store ─┐
                       └─► gRPC ─► etcd ────────────────────────┴► equal but for the differences

Both begin empty and are never parted: their revisions are equal for the whole session, so headers
are compared as they are. reset() empties both and compacts them there; recover() does it after a
comparison failed, so that the next example (or the same one, smaller) begins on equal ground.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import watch_checker
from etcd_differences import seen_by_both, smoothed
from etcd_process import Etcd, Refused, Stream
from etcd_requests import Draw

import kvcore
from kvcore.etcd import messages as m
from kvcore.etcd.service import Service
from kvcore.etcd.translate import Identity, status_of
from kvcore.etcd.watch_stream import WatchStream

COUNT = "requests compared with etcd"
PATHS = {method.request: path for path, method in m.METHODS.items() if not method.request_stream}
KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
WATCH = "/etcdserverpb.Watch/Watch"
FENCE_KEY = b"\0fence"
FENCE_ID = 1 << 40
NO_WATCH = 77


class Pair:
    """The two stores, and what was asked of them lately."""

    def __init__(self, etcd: Etcd, open_store: Callable[[], kvcore.Store],
                 counts: Counter[str]) -> None:
        self.etcd = etcd
        self.open_store = open_store
        self.counts = counts
        self.asked: list[str] = []           # since the last reset: what a failure shows
        self.broken = False                  # parted: nothing can be compared until recover()
        self.watches: Watches | None = None
        self._keep_alive: Stream | None = None
        self._open()

    def _open(self) -> None:
        self.store = self.open_store()
        header = self.etcd.call("/etcdserverpb.KV/Range", m.RangeRequest(key=b"\0")).header
        self.service = Service(self.store, Identity(header.cluster_id, header.member_id,
                                                    header.raft_term))

    def close(self) -> None:
        """Ends the streams and the store; etcd stays its starter's."""
        self.close_streams()
        self.store._check()
        self.store.close()

    def restart(self) -> None:
        """Both are stopped and started again on what they have on disk."""
        self.close()
        self.etcd.stop()
        self.etcd.start()
        self._open()

    def close_streams(self) -> None:
        """Ends the Watch call and the keep-alives; what they had to say is not compared."""
        if self.watches is not None:
            self.watches.close()
            self.watches = None
        if self._keep_alive is not None:
            self._keep_alive.close()
            self._keep_alive = None

    # --- asking -----------------------------------------------------------------------------------

    def ask(self, request: Any) -> Any:
        """The answer of both; a failure when they differ."""
        self.asked.append(f"{type(request).__name__}({one_line(request)})")
        if isinstance(request, m.LeaseKeepAliveRequest):
            path, theirs = KEEP_ALIVE, self._renew(request)
        else:
            path = PATHS[type(request)]
            theirs = self.etcd.call(path, request)
        ours = self.ours(path, request)
        self.counts[COUNT] += 1
        if ours != theirs:
            self.differ(request, ours, theirs)
        return ours

    def ours(self, path: str, request: Any) -> Any:
        """The embedded store's answer."""
        try:
            return self.service.call(path, request)
        except kvcore.Error as error:
            return Refused(*status_of(error))

    def _renew(self, request: m.LeaseKeepAliveRequest) -> Any:
        if self._keep_alive is None:
            self._keep_alive = self.etcd.stream(KEEP_ALIVE)
        self._keep_alive.send(request)
        return self._keep_alive.next()

    def differ(self, request: Any, ours: Any, theirs: Any) -> None:
        """Fails unless nothing but a known difference is between two answers."""
        same = type(ours) is type(theirs) and (
            smoothed(request, ours, self._full) == smoothed(request, theirs, self._full))
        if not same:
            self.broken = True
            lately = "\n  ".join(self.asked[-12:])
            raise AssertionError(
                f"kvcore and etcd differ, at revision {self.revision}, compacted at "
                f"{self.store.compact_revision}\n  {lately}\nkvcore: {shown(ours)}\n"
                f"etcd:   {shown(theirs)}")

    def _full(self, request: m.RangeRequest) -> dict[bytes, m.KeyValue]:
        whole = m.RangeRequest(key=request.key, range_end=request.range_end,
                               revision=request.revision)
        return {kv.key: kv for kv in self.service.range(whole).kvs}

    @property
    def revision(self) -> int:
        """That of both."""
        return self.store.revision

    @property
    def leases(self) -> list[int]:
        """Ids of the living ones, in an order of their own."""
        return sorted(lease.id for lease in self.store.leases())

    # --- verbs for tests --------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes = b"", **options: Any) -> Any:
        """A put of both."""
        return self.ask(m.PutRequest(key=key, value=value, **options))

    def watch(self) -> Watches:
        """The Watch call of both, opened with its first use."""
        if self.watches is None:
            self.watches = Watches(self)
        return self.watches

    def compact(self, request: m.CompactionRequest) -> Any:
        """A compaction that finds every watch of etcd where kvcore's is: delivered up to now."""
        if self.watches is not None:
            self.watches.fence()
        answer = self.ask(request)
        if self.watches is not None:
            self.watches.drain()
        return answer

    def hash(self, revision: int = 0) -> None:
        """The hash of both at a revision that shows a key: without one etcd's depends on its sweep.
        """
        count = self.ours(PATHS[m.RangeRequest], m.RangeRequest(
            key=b"\0", range_end=b"\0", revision=revision, count_only=True))
        if isinstance(count, Refused) or count.count:
            self.ask(m.HashKVRequest(revision=revision))

    # --- beginning anew ---------------------------------------------------------------------------

    def reset(self) -> None:
        """Both empty and compacted at the same revision; what is left over is compared first."""
        if self.watches is not None:
            for key in (FENCE_KEY, b"a", b"zz"):
                self.put(key)
            self.watches.drain()
        for lease in self.leases:
            self.ask(m.LeaseRevokeRequest(ID=lease))
        self.hash()
        self.ask(m.DeleteRangeRequest(key=b"\0", range_end=b"\0", prev_kv=True))
        if self.watches is not None:
            self.watches.drain()
        self.close_streams()
        self.put(FENCE_KEY)
        self.ask(m.CompactionRequest(revision=self.revision))
        self.ask(m.DeleteRangeRequest(key=b"\0", range_end=b"\0"))
        self.store._check()
        watch_checker.verify(self.store)
        self.asked.clear()

    def finish(self) -> None:
        """reset(); a failure leaves the two equal too."""
        if self.broken:
            self.recover()
            return
        try:
            self.reset()
        except BaseException:
            self.recover()
            raise

    def recover(self) -> None:
        """Makes both equal again, whatever parted them."""
        self.broken = False
        self.close_streams()
        history = self.store.__dict__.pop("_history", None)
        if history is not None:
            history.records.clear()          # of watches that this cuts off
        sides = (lambda request: self.ours(PATHS[type(request)], request),
                 lambda request: self.etcd.call(PATHS[type(request)], request))
        revisions = []
        for side in sides:
            for lease in side(m.LeaseLeasesRequest()).leases:
                side(m.LeaseRevokeRequest(ID=lease.ID))
            gone = side(m.DeleteRangeRequest(key=b"\0", range_end=b"\0"))
            revisions.append(gone.header.revision)
        top = max(revisions) + 2
        for side, revision in zip(sides, revisions, strict=True):
            for _ in range(top - revision - 1):
                side(m.PutRequest(key=FENCE_KEY))
            side(m.DeleteRangeRequest(key=FENCE_KEY))
            put = side(m.PutRequest(key=FENCE_KEY))
            assert put.header.revision == top + 1
            side(m.CompactionRequest(revision=top + 1))
            side(m.DeleteRangeRequest(key=FENCE_KEY))
        self.asked.clear()

    # --- drawn requests ---------------------------------------------------------------------------

    def draw(self, rng: random.Random) -> Draw:
        """Draws requests for where the two are."""
        return Draw(rng, self.revision, self.store.compact_revision, self.leases)

    def step(self, rng: random.Random) -> None:
        """One request drawn at random, of any kind."""
        draw, kind = self.draw(rng), rng.randrange(200)
        if kind < 182:
            self.ask(draw.request())
        elif kind < 184:
            self.hash(draw.hashed())
        elif kind < 188:
            self.compact(draw.compact())
        elif kind < 194:
            self.watch().create(draw.watch(sorted(self.watch().ids)))
        elif kind < 196:
            self.watch().cancel(rng.choice((NO_WATCH, *sorted(self.watch().ids))))
        elif kind < 197:
            self.watch().progress()
        else:
            self.watch().drain()


class Watches:
    """One Watch call on each side."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.ours = WatchStream(pair.store, pair.service.identity)
        self.theirs = pair.etcd.stream(WATCH)
        self.ids: dict[int, int] = {}        # to where each begins
        self.behind = False                  # whether one began in the past since the last fence
        self.ended: set[int] = set()         # by a compaction
        self._come: dict[int, list[Any]] = defaultdict(list)  # of etcd, not yet compared

    def close(self) -> None:
        """Ends both calls."""
        self.ours.close()
        self.theirs.close()

    def create(self, request: m.WatchCreateRequest) -> Any:
        """Creates a watch on both sides; the reply."""
        reply = self._ask(m.WatchRequest(create_request=request))
        if not reply.canceled:
            self.ids[reply.watch_id] = request.start_revision
            self.behind |= 0 < request.start_revision <= reply.header.revision
        return reply

    def cancel(self, watch_id: int) -> None:
        """Cancels a watch; what it had to say is compared before."""
        self.drain()
        request = m.WatchRequest(cancel_request=m.WatchCancelRequest(watch_id=watch_id))
        if watch_id in self.ids:
            self._ask(request)
            del self.ids[watch_id]
            self.ended.discard(watch_id)
        else:                                # neither answers; the next reply would be another
            assert self.ours.receive(request) is None
            self.theirs.send(request)

    def progress(self) -> Any:
        """Asks how far the call is, when everything was delivered.

        etcd answers also when a watch begins later, or was ended by a compaction.
        """
        self.fence()
        request = m.WatchRequest(progress_request=m.WatchProgressRequest())
        if self.ids and not self.ended and max(self.ids.values()) <= self.pair.revision + 1:
            return self._ask(request)
        assert self.ours.receive(request) is None
        return None

    def _ask(self, request: m.WatchRequest) -> Any:
        self.pair.asked.append(f"watch: {one_line(request)}")
        ours = self.ours.receive(request)
        self.theirs.send(request)
        theirs = self._reply()
        self.pair.counts[COUNT] += 1
        if ours != theirs:
            self.pair.differ(request, ours, theirs)
        return ours

    def _reply(self) -> Any:
        """etcd's next reply to a request; events that come before it are kept."""
        while True:
            response = self.theirs.next()
            if isinstance(response, Refused) or response.created or response.watch_id == -1 or (
                    response.canceled and not response.compact_revision):
                return response
            self._come[response.watch_id].append(response)

    def drain(self) -> None:
        """Compares everything that the watches have to deliver by now."""
        mine: dict[int, list[Any]] = defaultdict(list)
        for response in self.ours.pull():
            mine[response.watch_id].extend(self._told(response))
            if response.canceled:
                self.ended.add(response.watch_id)
        for watch_id in sorted({*mine, *self._come}):
            self._compare(watch_id, mine[watch_id])

    def _compare(self, watch_id: int, ours: list[Any]) -> None:
        theirs: list[Any] = []
        responses = self._come.pop(watch_id, [])
        while len(theirs) < len(ours) or responses:
            while not responses:
                response = self.theirs.next()
                if response.watch_id == watch_id:
                    responses.append(response)
                else:
                    self._come[response.watch_id].append(response)
            response = responses.pop(0)
            for event in response.events:
                assert response.header.revision >= event.kv.mod_revision
            theirs += self._told(response)
        self.pair.counts["watch events compared with etcd"] += len(ours)
        if ours != theirs:
            self.pair.differ(f"watch {watch_id}", tuple(ours), tuple(theirs))

    def _told(self, response: m.WatchResponse) -> Iterator[Any]:
        """What a response tells, apart from how it was packed."""
        compacted = self.pair.store.compact_revision
        yield from (event for event in response.events if seen_by_both(event, compacted))
        if response.canceled:
            yield response
        elif not response.events:
            yield f"progress {response.header.revision}"

    def fence(self) -> None:
        """Behind it every watch of etcd has looked at its history, and all is compared.

        etcd looks at history in passes that take all watches there are; this waits for a pass
        that took a watch made after the others.
        """
        self.drain()
        if not self.behind:
            return
        self.pair.put(FENCE_KEY)
        self.create(m.WatchCreateRequest(key=FENCE_KEY, start_revision=self.pair.revision,
                                         watch_id=FENCE_ID))
        self.cancel(FENCE_ID)                # and compares what both said
        self.behind = False


def one_line(message: Any) -> str:
    """A message in one line."""
    return " ".join(str(message).split())


def shown(answer: Any) -> str:
    """An answer in one line."""
    if isinstance(answer, Refused):
        return repr(answer)
    if isinstance(answer, tuple):
        return "[" + "; ".join(part if isinstance(part, str) else one_line(part)
                               for part in answer) + "]"
    return f"{type(answer).__name__}({one_line(answer)})"
