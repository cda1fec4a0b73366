# SPDX-License-Identifier: Apache-2.0
"""The directory of a store, seen from outside: who holds it, and which files are in it.

    LOCK  FORMAT  wal-0000000000000001.seg  checkpoint-0000000000000007.ckp  *.tmp

LOCK:  "4711 host"           who holds it; empty when nobody does
       "synced 1048832 9a..." the log reached that position, all synced, when it was last closed
The second line is a lower bound that no crash can make wrong, since a log only grows: one that ends
before it has lost its end. It is not synced itself; where it is missing, it proves nothing.

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
import stat
import threading

from kvcore._native import crc32c
from kvcore.errors import LockedError, StorageError

__all__ = ["DirectoryLock", "segment_path", "segments", "synced_mark", "unfinished"]

_FULL = (errno.ENOSPC, errno.EDQUOT)      # a full disk is opened all the same: to be emptied
_SEGMENT = re.compile(r"wal-(\d{16})\.seg")
_SYNCED = re.compile(rb"[^\n]*\nsynced (\d{1,19}) ([0-9a-f]{8})\n")

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

    LockedError names the process that has it; StorageError when LOCK is no file.
    """

    synced: int
    """Position up to which the log was synced when it was last closed; 0: not known."""

    def __init__(self, directory: str) -> None:
        self._name = os.path.realpath(directory)
        self._descriptor = -1
        path = os.path.join(directory, "LOCK")
        with _held_guard:
            if self._name in _held:
                raise LockedError(f"kvcore: {directory} is in use by this process ({os.getpid()})")
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise StorageError(f"kvcore: {path} is not a file", errno=errno.EINVAL)
            try:
                self._take(descriptor, directory)
            except BaseException:                # Ctrl-C too: an open descriptor keeps the lock
                os.close(descriptor)
                raise

    def _take(self, descriptor: int, directory: str) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 256, 0).decode(errors="replace").partition("\n")[0]
            who = "process {} on {}".format(*(holder.split() + ["?", "?"])[:2])
            raise LockedError(f"kvcore: {directory} is in use by {who}") from error
        self.synced = _synced(os.pread(descriptor, 256, 0))
        try:
            self._write(descriptor, f"{os.getpid()} {socket.gethostname()[:64]}")
        except OSError as error:
            if error.errno not in _FULL:         # who holds it is a courtesy
                raise
        self._descriptor = _held[self._name] = descriptor

    def _write(self, descriptor: int, holder: str) -> None:
        text = holder + "\n"
        if self.synced:
            number = str(self.synced)
            text += f"synced {number} {crc32c(number.encode()):08x}\n"
        # over what is there, then cut: a full disk has no new block to give
        os.pwrite(descriptor, text.encode(), 0)
        os.ftruncate(descriptor, len(text.encode()))

    def release(self, synced: int = 0) -> None:
        """Give the directory back; a second call does nothing.

        synced: the log was synced up to this position, and closed."""
        with _held_guard:
            descriptor = self._descriptor
            if descriptor >= 0 and _held.get(self._name) == descriptor:
                del _held[self._name]
                self.synced = max(synced, self.synced)
                self._descriptor = -1
                try:
                    self._write(descriptor, "")
                except OSError as error:
                    if error.errno not in _FULL:
                        raise
                finally:
                    # unlocked by name: a child that was forked in C may still hold the descriptor
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                    os.close(descriptor)


def _synced(text: bytes) -> int:
    match = _SYNCED.fullmatch(text)
    return int(match[1]) if match and int(match[2], 16) == crc32c(match[1]) else 0


def synced_mark(directory: str) -> int:
    """What LOCK says of the log's end; 0: nothing."""
    path = os.path.join(directory, "LOCK")
    if not os.path.isfile(path):
        return 0
    with open(path, "rb") as file:
        return _synced(file.read(256))


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
