# SPDX-License-Identifier: Apache-2.0
"""The directory of a store, seen from outside: who holds it, and which files are in it.

    LOCK  FORMAT  wal-0000000000000001.seg  checkpoint-0000000000000007.ckp  *.tmp

Invariants: (one-holder) at most one open log on a directory, in this process and on this machine.
Thread safety: `DirectoryLock` may be taken and released by any thread.  Names and the lock only:
what must be durable is written by the log through its I/O table.  May not know: what is in a file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import threading

from kvcore.errors import LockedError

__all__ = ["DirectoryLock", "segment_path", "segments", "unfinished"]

_FULL = (errno.ENOSPC, errno.EDQUOT)      # a full disk is opened all the same: to be emptied
_SEGMENT = re.compile(r"wal-(\d{16})\.seg")

_held: dict[str, int] = {}
_held_guard = threading.Lock()


def _forget_in_child() -> None:
    # A child shares the parent's lock through the inherited descriptor: were it kept, the directory
    # would stay locked for as long as the child lives.
    global _held_guard
    _held_guard = threading.Lock()
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)


class DirectoryLock:
    """The exclusive right to a directory, from construction to `release`.

    LockedError names the process that has it.
    """

    def __init__(self, directory: str) -> None:
        self._name = os.path.realpath(directory)
        self._descriptor = -1
        with _held_guard:
            if self._name in _held:
                raise LockedError(f"kvcore: {directory} is in use by this process ({os.getpid()})")
            descriptor = os.open(
                os.path.join(directory, "LOCK"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
            try:
                self._take(descriptor, directory)
                self._descriptor = _held[self._name] = descriptor
            except BaseException:                # Ctrl-C too: an open descriptor keeps the lock
                os.close(descriptor)
                raise

    @staticmethod
    def _take(descriptor: int, directory: str) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 256, 0).decode(errors="replace").strip()
            who = "process {} on {}".format(*(holder.split() + ["?", "?"])[:2])
            raise LockedError(f"kvcore: {directory} is in use by {who}") from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        except OSError as error:
            if error.errno not in _FULL:         # who holds it is a courtesy
                raise

    def release(self) -> None:
        """Give the directory back; a second call does nothing."""
        with _held_guard:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0 and _held.get(self._name) == descriptor:
                del _held[self._name]
                try:
                    os.ftruncate(descriptor, 0)
                finally:
                    # unlocked by name: a child that was forked in C may still hold the descriptor
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                    os.close(descriptor)


def segment_path(directory: str, seq: int) -> str:
    """The file of segment `seq`."""
    return os.path.join(directory, f"wal-{seq:016d}.seg")


def segments(directory: str) -> dict[int, str]:
    """Sequence number to path of every segment file, in ascending order."""
    found = {}
    for name in sorted(os.listdir(directory)):
        match = _SEGMENT.fullmatch(name)
        if match:
            found[int(match[1])] = os.path.join(directory, name)
    return found


def unfinished(directory: str) -> list[str]:
    """Paths of files that an earlier holder did not finish."""
    return [os.path.join(directory, n) for n in os.listdir(directory) if n.endswith(".tmp")]
