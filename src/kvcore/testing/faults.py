# SPDX-License-Identifier: Apache-2.0
"""What a disk may hold after the power went: directory images built from recorded calls.

    ops:   write A | write B | sync | write C | rename x->y | sync_dir | write D | ...
                                                    crash here ^
    sure:  A, B (synced), x->y (directory synced)
    maybe: C, each 512-byte sector of it by itself: kept or not, in any combination

Invariants: (synced-stays) what was synced before the crash is in every image; (nothing-invented)
every sector of an image is one that some write put there, or zeros, or what was there at the start;
(names-need-sync_dir) a create, rename or unlink may be lost before its directory is synced.
(a failed sync lies for ever) what it should have made sure stays a maybe, whatever later syncs of
the file say, until the same bytes are written again and synced.
Thread safety: none.  May not know: segments, batches, or what the bytes mean.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from kvcore.testing._faults import Gate, RecordingIo
from kvcore.testing._ops import Op

__all__ = ["CrashImages", "Gate", "Materialise", "Op", "RecordingIo", "power_cut"]

SECTOR = 512
_CREATE = 2  # KV_O_CREATE
_MODES = ("none", "all", "in-order", "any", "torn")

Materialise = Callable[[Path], None]


@dataclasses.dataclass(eq=False)
class _File:
    """An inode: what is durable, and what is not (yet), in order."""

    durable: bytearray = dataclasses.field(default_factory=bytearray)
    pending: list[_Change] = dataclasses.field(default_factory=list)
    limbo: list[_Change] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, eq=False)
class _Change:
    """An unsynced write (data), or a new size (truncate cuts, allocate only extends)."""

    offset: int
    data: bytes | int | None = None
    size: int = 0
    cuts: bool = False

    def sectors(self) -> Iterator[tuple[int, int]]:
        """(offset, end) of the parts that a disk writes or not."""
        at, end = self.offset, self.end
        while at < end:
            upto = min(end, (at // SECTOR + 1) * SECTOR)
            yield at, upto
            at = upto

    def outside(self, other: _Change) -> Iterator[_Change]:
        """What is left of it once `other` has been written over it."""
        if self.data is None or other.data is None:
            yield self
            return
        raw = bytes(self.data) if isinstance(self.data, int) else self.data
        first = max(0, min(len(raw), other.offset - self.offset))
        behind = max(first, min(len(raw), other.end - self.offset))
        if first == behind:
            yield self
            return
        if first:
            yield _Change(self.offset, raw[:first])
        if behind < len(raw):
            yield _Change(self.offset + behind, raw[behind:])

    @property
    def end(self) -> int:
        """Behind the last byte written."""
        return self.offset + (self.data if isinstance(self.data, int) else len(self.data or b""))

    def apply(self, content: bytearray, parts: set[int] | None = None) -> None:
        """Change `content`; `parts`: numbers of the sectors that are written, None: all."""
        if self.data is None:
            if self.cuts:
                del content[self.size :]
            content.extend(bytes(max(0, self.size - len(content))))
            return
        for number, (at, upto) in enumerate(self.sectors()):
            if parts is not None and number not in parts:
                continue
            content.extend(bytes(max(0, upto - len(content))))
            if isinstance(self.data, int):
                content[at:upto] = bytes(upto - at)
            else:
                content[at:upto] = self.data[at - self.offset : upto - self.offset]


@dataclasses.dataclass(frozen=True)
class _NameChange:
    """A create, rename or unlink, not durable before its directory is."""

    kind: str
    path: str
    to: str = ""
    file: _File | None = None

    def apply(self, names: dict[str, _File]) -> None:
        """Change `names`, if what it acts on is there."""
        if self.kind == "open" and self.file is not None:
            names.setdefault(self.path, self.file)
        elif self.kind == "rename" and self.path in names:
            names[self.to] = names.pop(self.path)
        elif self.kind == "unlink":
            names.pop(self.path, None)


class _Disk:
    """The state between two calls: live and durable names, files with both kinds of bytes."""

    def __init__(self, root: Path, initial: Path | None) -> None:
        self.root = str(root)
        self.live: dict[str, _File] = {}
        if initial is not None:
            for path in sorted(initial.iterdir()):
                if path.name != "LOCK":
                    self.live[path.name] = _File(bytearray(path.read_bytes()))
        self.durable = dict(self.live)
        self.name_changes: list[_NameChange] = []
        self.handles: dict[int, _File] = {}

    def apply(self, op: Op) -> None:
        """One recorded call."""
        if op.kind == "close":
            self.handles.pop(op.handle, None)
        elif op.kind in ("write", "allocate", "truncate", "sync"):
            self._on_file(op, self.handles[op.handle])
        elif op.error == 0 and op.kind == "open":
            name = self._name(op.path)
            if name not in self.live:
                self._rename(_NameChange("open", name, file=_File()))
            self.handles[op.handle] = self.live[name]
        elif op.error == 0 and op.kind in ("rename", "unlink"):
            to = self._name(op.to) if op.to else ""
            self._rename(_NameChange(op.kind, self._name(op.path), to))
        elif op.error == 0 and op.kind == "sync_dir" and op.path.rstrip("/") == self.root:
            self.durable = dict(self.live)
            self.name_changes.clear()

    def _name(self, path: str) -> str:
        return os.path.relpath(path, self.root)

    def _rename(self, change: _NameChange) -> None:
        change.apply(self.live)
        self.name_changes.append(change)

    def _on_file(self, op: Op, file: _File) -> None:
        if op.kind == "write":
            file.pending.append(_Change(op.offset, op.data))  # short when it failed
        elif op.error and op.kind == "sync":
            file.limbo += file.pending
            file.pending.clear()
        elif op.error == 0 and op.kind == "sync":
            for change in file.limbo:            # sizes go with any sync of the inode
                if change.data is None:
                    change.apply(file.durable)
            file.limbo = [c for c in file.limbo if c.data is not None]
            for change in file.pending:
                change.apply(file.durable)
                file.limbo = [part for c in file.limbo for part in c.outside(change)]
            file.pending.clear()
        elif op.error == 0:
            file.pending.append(_Change(0, None, op.offset, op.kind == "truncate"))

    def unsynced(self) -> list[tuple[_File, _Change]]:
        """Every change of content that may be lost."""
        files = dict.fromkeys([*self.durable.values(), *self.live.values()])
        return [(file, c) for file in files for c in (*file.limbo, *file.pending)]


@dataclasses.dataclass(frozen=True)
class _Choice:
    """What of the unsynced made it: changes to the sectors kept of each, and name changes."""

    kept: dict[_Change, set[int] | None]
    names: list[_NameChange]


class CrashImages:
    """Images of the directory `root` for crashes between the calls in `ops`.

    initial: a directory with what was durable before the first call.

    >>> import tempfile
    >>> from pathlib import Path
    >>> root = Path("/store")
    >>> ops = [Op("open", 3, offset=2, path="/store/a"), Op("sync_dir", path="/store"),
    ...        Op("write", 3, data=b"abc"), Op("sync", 3), Op("write", 3, offset=3, data=b"lost?")]
    >>> with tempfile.TemporaryDirectory() as name:
    ...     for index, materialise in CrashImages(ops, root).systematic(points=[4, 5]):
    ...         materialise(Path(name) / "image")
    ...         print(index, (Path(name) / "image" / "a").read_bytes())
    4 b'abc'
    5 b'abc'
    5 b'abclost?'
    """

    def __init__(self, ops: list[Op], root: Path, initial: Path | None = None) -> None:
        self.ops = ops
        self.root = Path(root)
        self.initial = initial

    def images(
        self, seed: int, per_point: int = 1, points: list[int] | None = None
    ) -> Iterator[tuple[int, Materialise]]:
        """Random images: yields (crash index, materialise); index i: ops[:i] were called.

        Each `materialise(directory)` is good until the next one is asked for.
        """
        rng = random.Random(seed)
        for index, disk in self._states(points):
            for _ in range(per_point if disk.unsynced() or disk.name_changes else 1):
                yield index, self._materialise(disk, _random_choice(disk, rng))

    def systematic(
        self, points: list[int] | None = None, bound: int = 64
    ) -> Iterator[tuple[int, Materialise]]:
        """Nothing of the unsynced, all of it, all but one write, one write torn at each sector.

        bound: images of each of the last two kinds at most, per crash point.
        """
        for index, disk in self._states(points):
            changes = [change for _, change in disk.unsynced()]
            names = list(disk.name_changes)
            everything: dict[_Change, set[int] | None] = dict.fromkeys(changes)
            choices = [_Choice({}, [])]
            if changes or names:
                choices.append(_Choice(everything, names))
            if len(changes) > 1:
                for change in changes[:bound]:
                    rest = dict[_Change, set[int] | None].fromkeys(
                        c for c in changes if c is not change)
                    choices.append(_Choice(rest, names))
            torn = [(c, n) for c in changes for n in range(1, len(list(c.sectors())))]
            for change, count in torn[:bound]:
                choices.append(_Choice({**everything, change: set(range(count))}, names))
                choices.append(_Choice({**everything, change: _behind(change, count)}, names))
            for choice in choices:
                yield index, self._materialise(disk, choice)

    def markers(self, index: int) -> list[int]:
        """Numbers of the markers before crash point `index`."""
        return [op.offset for op in self.ops[:index] if op.kind == "marker"]

    def _states(self, points: list[int] | None) -> Iterator[tuple[int, _Disk]]:
        wanted = set(range(len(self.ops) + 1) if points is None else points)
        disk = _Disk(self.root, self.initial)
        for index in range(len(self.ops) + 1):
            if index in wanted:
                yield index, disk
            if index < len(self.ops):
                disk.apply(self.ops[index])

    @staticmethod
    def _materialise(disk: _Disk, choice: _Choice) -> Materialise:
        def materialise(directory: Path) -> None:
            names = dict(disk.durable)
            for change in choice.names:
                change.apply(names)
            if directory.exists():
                shutil.rmtree(directory)
            directory.mkdir(parents=True)
            for name, file in names.items():
                _write_sparse(directory / name, _content(file, choice))

        return materialise


def power_cut(io: RecordingIo, root: Path, *, seed: int | None = None,
              initial: Path | None = None) -> None:
    """The power goes now: calls through `io` fail from here on, and `root` is what the disk holds.

    Args: io: what everything below root was written through since it was made; root: a store's
    directory; seed: None loses everything unsynced, a number keeps a random part of it; initial:
    as for CrashImages. The store that is open there can only be closed (and raises); its files
    are other files now, so that the directory can be opened anew.

    >>> import kvcore, tempfile
    >>> io = RecordingIo()
    >>> with tempfile.TemporaryDirectory() as name:
    ...     db = kvcore.open(name, io=io, sync="off")
    ...     _ = db.put(b"/a", b"1")
    ...     db.sync()
    ...     _ = db.put(b"/a", b"2")
    ...     power_cut(io, Path(name))
    ...     try:
    ...         db.close()
    ...     except kvcore.StorageError:
    ...         pass
    ...     with kvcore.open(name) as again:
    ...         again.get(b"/a").value
    b'1'
    """
    io.cut()
    ops = io.ops()
    images = CrashImages(ops, root, initial)
    here = [len(ops)]
    chosen = images.systematic(here) if seed is None else images.images(seed, points=here)
    _, materialise = next(chosen)
    materialise(Path(root))


def _behind(change: _Change, count: int) -> set[int]:
    return set(range(count, len(list(change.sectors()))))


def _random_choice(disk: _Disk, rng: random.Random) -> _Choice:
    mode = rng.choice(_MODES)
    changes = [change for _, change in disk.unsynced()]
    names = list(disk.name_changes)
    if mode == "none":
        return _Choice({}, [])
    if mode == "all":
        return _Choice(dict.fromkeys(changes), names)
    names = names[: rng.randint(0, len(names))] if rng.random() < 0.7 else [
        n for n in names if rng.random() < 0.5
    ]
    if mode == "in-order":
        return _Choice(dict.fromkeys(changes[: rng.randint(0, len(changes))]), names)
    kept: dict[_Change, set[int] | None] = {}
    for change in changes:
        if rng.random() < 0.6:
            kept[change] = None
            count = len(list(change.sectors()))
            if mode != "any" and change.data is not None and rng.random() < 0.6:
                density = rng.random()
                kept[change] = {n for n in range(count) if rng.random() < density}
    return _Choice(kept, names)


def _content(file: _File, choice: _Choice) -> bytearray:
    content = bytearray(file.durable)
    # In the order of the calls: writes that do not overlap commute, and of those that do the page
    # cache never writes the older one last, so a subset in order is every order a disk can take.
    for change in (*file.limbo, *file.pending):
        if change in choice.kept:
            change.apply(content, choice.kept[change])
    return content


def _write_sparse(path: Path, content: bytearray) -> None:
    with open(path, "wb") as file:
        file.truncate(len(content))
        file.write(content.rstrip(b"\0"))
