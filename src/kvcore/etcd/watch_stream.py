# SPDX-License-Identifier: Apache-2.0
"""One Watch call of etcd's RPC: requests come in, answers of all its watches go out.

    receive(create / cancel / progress)  ->  the reply, or None
    pull()                               ->  what the watches have to deliver now, without waiting

    id 0: events of revision 7, 8 ..   id 5: compacted, told once; its id is taken until cancelled

Invariants: replied-first - no event of a watch is pulled before receive() has returned its
`created`; nothing-behind - none comes behind its `canceled`; progress-last - the answer to a
progress request is given only when nothing is left to pull.
Thread safety: none; one caller at a time.  Ownership: the watches are its own, close() ends them.
May not know: gRPC, who waits and how.  Source of the behaviour: etcd's Watch.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvcore._watch import Watch
from kvcore.errors import CompactedError, EmptyRangeError
from kvcore.etcd import messages as m
from kvcore.etcd.translate import Identity, event_response, fragments
from kvcore.store import Store

__all__ = ["WatchStream"]

DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"


class WatchStream:
    """The watches of one stream.

    >>> import kvcore
    >>> db = kvcore.open()
    >>> stream = WatchStream(db)
    >>> create = m.WatchCreateRequest(key=b"a")
    >>> stream.receive(m.WatchRequest(create_request=create)).created
    True
    >>> _ = db.put(b"a", b"1")
    >>> [(r.watch_id, r.events[0].kv.value) for r in stream.pull()]
    [(0, b'1')]
    >>> stream.close()
    """

    def __init__(self, store: Store, identity: Identity | None = None) -> None:
        self._store = store
        self._identity = identity or Identity()
        self._watches: dict[int, Watch | None] = {}     # None: ended by a compaction
        self._fragmented: set[int] = set()
        self._next_id = 0

    def receive(self, request: m.WatchRequest) -> m.WatchResponse | None:
        """Takes one request of the stream; its reply, or None where etcd gives none."""
        kind = request.WhichOneof("request_union")
        if kind == "create_request":
            return self._create(request.create_request)
        if kind == "cancel_request":
            return self._cancel(request.cancel_request.watch_id)
        if kind == "progress_request":
            return self._progress()
        return None

    def pull(self) -> Iterator[m.WatchResponse]:
        """What is there to deliver, watch by watch. Errors: CorruptError, ClosedError."""
        for watch_id, watch in list(self._watches.items()):
            if watch is not None:
                yield from self._pull_one(watch_id, watch)

    def close(self) -> None:
        """Ends all watches. Idempotent."""
        for watch in self._watches.values():
            if watch is not None:
                watch.cancel()
        self._watches.clear()
        self._fragmented.clear()

    # --- requests ---------------------------------------------------------------------------------

    def _create(self, request: m.WatchCreateRequest) -> m.WatchResponse:
        header = self._identity.header(self._store.revision)
        try:
            watch = self._store.watch(
                request.key, request.range_end, start_revision=request.start_revision,
                prev_kv=request.prev_kv, no_put=m.WatchCreateRequest.NOPUT in request.filters,
                no_delete=m.WatchCreateRequest.NODELETE in request.filters,
                progress_notify=request.progress_notify)
        except (EmptyRangeError, CompactedError) as error:
            return self._refused(header, str(error))
        if request.watch_id and request.watch_id in self._watches:
            watch.cancel()
            return self._refused(header, DUPLICATE_ID)
        watch_id = request.watch_id or self._free_id()
        self._watches[watch_id] = watch
        if request.fragment:
            self._fragmented.add(watch_id)
        return m.WatchResponse(header=header, watch_id=watch_id, created=True)

    @staticmethod
    def _refused(header: m.ResponseHeader, reason: str) -> m.WatchResponse:
        return m.WatchResponse(header=header, watch_id=-1, created=True, canceled=True,
                               cancel_reason=reason)

    def _free_id(self) -> int:
        while self._next_id in self._watches:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def _cancel(self, watch_id: int) -> m.WatchResponse | None:
        if watch_id not in self._watches:
            return None
        watch = self._watches.pop(watch_id)
        self._fragmented.discard(watch_id)
        if watch is not None:
            watch.cancel()
        return m.WatchResponse(header=self._identity.header(self._store.revision),
                               watch_id=watch_id, canceled=True)

    def _progress(self) -> m.WatchResponse | None:
        """Answered when every watch has delivered everything up to now; else dropped, as in etcd.
        """
        revision = self._store.revision
        for watch in self._watches.values():
            if watch is None or watch.start_revision > revision + 1:
                return None
            if watch.next_revision <= revision:
                return None
        if not self._watches:
            return None
        return m.WatchResponse(header=self._identity.header(revision), watch_id=-1)

    # --- deliveries -------------------------------------------------------------------------------

    def _pull_one(self, watch_id: int, watch: Watch) -> Iterator[m.WatchResponse]:
        try:
            while (response := watch.get(timeout=0)) is not None:
                header = self._identity.header(response.revision)
                answer = event_response(watch_id, response, header)
                if watch_id in self._fragmented:
                    yield from fragments(answer)
                else:
                    yield answer
        except CompactedError as error:
            self._watches[watch_id] = None
            yield m.WatchResponse(header=self._identity.header(0), watch_id=watch_id, canceled=True,
                                  compact_revision=error.compact_revision)
