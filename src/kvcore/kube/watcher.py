# SPDX-License-Identifier: Apache-2.0
"""Who watches: what they want, and the lines they have not yet taken.

    Cacher ── offer(change) ──> lines ── take() ──> the watch's stream
                  └── too many lines, or too many bytes: closed, never waited for

Named invariants:
1. **nobody waits for a watcher**: `offer` never blocks; who is too far behind is closed, and comes
   back with the last version it saw.
2. **once**: changes up to `floor` were told another way, and are not offered again.
Thread safety: one event loop's thread. Source: apiserver storage/cacher/cache_watcher.go.
May not know: where changes come from, HTTP.
"""

from __future__ import annotations

import asyncio

from kvcore.kube.entry import Change, Entry
from kvcore.kube.selectors import EVERYTHING, Selector

__all__ = ["Watcher"]

BACKLOG_LINES = 10_000           # how far a watcher may be behind before it is closed
BACKLOG_BYTES = 16 << 20


class Watcher:
    """What one watch wants. `scope`: the keys' common beginning, which ends with "/", or the one
    key; `name`: of one object, or ""; `place`: where the cacher keeps it, None while it does not.

    >>> from kvcore.kube.entry import Change, Entry
    >>> pod = Entry(b"/registry/pods/a/p", 5, b'{"apiVersion":"v1","kind":"Pod",'
    ...             b'"metadata":{"name":"p"}}', "Pod")
    >>> watcher = Watcher(b"/registry/pods/a/")
    >>> watcher.offer(Change(5, pod, None)), [line[:15] for line in watcher.take()]
    (True, [b'{"type":"ADDED"'])
    """

    __slots__ = ("scope", "namespace", "name", "selector", "lines", "size", "floor", "place",
                 "closed", "too_slow", "_one", "_all", "_wake")

    def __init__(self, scope: bytes, selector: Selector = EVERYTHING, *, namespace: str = "",
                 name: str = "") -> None:
        self.scope, self.selector = scope, selector
        self.namespace, self.name = namespace, name
        self.lines: list[bytes] = []
        self.size = 0
        self.floor = 0
        self.place: tuple[str, str] | None = None
        self.closed = self.too_slow = False
        self._one = not scope.endswith(b"/")
        self._all = not selector
        self._wake: asyncio.Future[None] | None = None

    def wants(self, entry: Entry | None) -> bool:
        return (entry is not None and entry.key.startswith(self.scope)
                and (not self._one or entry.key == self.scope)
                and (self._all or self.selector.matches(entry)))

    def line_of(self, change: Change) -> bytes | None:
        """The change as this watcher sees it: what comes to match is ADDED, what ceases to match
        is DELETED; None if it does not concern it."""
        before = self.wants(change.prev)
        if self.wants(change.entry):
            return change.line("MODIFIED" if before else "ADDED")
        return change.line("DELETED") if before else None

    def offer(self, change: Change) -> bool:
        """Takes the change's line if it concerns this watcher. False: it is too far behind, and
        must be closed. Cost: 1 us without a selector."""
        if change.revision <= self.floor:
            return True
        line = self.line_of(change)
        if line is None:
            return True
        size = self.size + len(line)
        if len(self.lines) >= BACKLOG_LINES or (size > BACKLOG_BYTES and self.lines):
            self.too_slow = True
            return False
        self.lines.append(line)
        self.size = size
        if self._wake is not None:
            self._awake()
        return True

    def _awake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def take(self) -> list[bytes]:
        """The lines that came since the last call."""
        lines, self.lines, self.size = self.lines, [], 0
        return lines

    async def wait(self, seconds: float) -> None:
        """Until there are lines, the watcher is closed, or the time is over."""
        if self.lines or self.closed:
            return
        loop = asyncio.get_running_loop()
        self._wake = wake = loop.create_future()
        timer = loop.call_later(max(seconds, 0), self._awake)
        try:
            await wake
        finally:
            timer.cancel()
            self._wake = None

    def close(self) -> None:
        """No more lines: those not taken are dropped. Idempotent."""
        self.closed = True
        self.take()
        self._awake()
