# SPDX-License-Identifier: Apache-2.0
"""Refused input: its own clear exception each, and a store that is as it was."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kvcore
from kvcore import Compare, Delete, Get, Put, Range, Txn

Refuses = Callable[..., str]
Opener = Callable[..., kvcore.Store]


@pytest.fixture
def filled(open_store: Opener) -> kvcore.Store:
    """Five revisions, compacted at 4."""
    db = open_store(max_request_bytes=4096, max_key_bytes=100, max_txn_ops=128)
    db.put_many([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])
    db.delete(b"b")
    db.put(b"c", b"4")
    db.compact(4)
    return db


@pytest.fixture
def refuses(filled: kvcore.Store) -> Iterator[Refuses]:
    """Calls what must fail, and checks that nothing came of it."""
    before = (filled.revision, filled.hash())

    def call(error: type[Exception], verb: str, *args: Any, **kwargs: Any) -> str:
        with pytest.raises(error) as caught:
            getattr(filled, verb)(*args, **kwargs)
        assert type(caught.value) is error
        assert (filled.revision, filled.hash()) == before
        return str(caught.value)

    yield call
    assert filled.put(b"still", b"alive").revision == before[0] + 1


# --- opening -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [-1, 0, 1, 2])
def test_order_too_small(order: int) -> None:
    with pytest.raises(ValueError, match=f"^B-tree order must be at least 3, got {order}$"):
        kvcore.open(order=order)


@pytest.mark.parametrize(("options", "message"), [
    ({"order": 1025}, "B-tree order must be at most 1024, got 1025"),
    ({"sync": "sometimes"}, "sync must be one of always, interval, off, got 'sometimes'"),
    ({"max_key_bytes": 0}, "max_key_bytes must be in"),
    ({"max_key_bytes": 65536}, "max_key_bytes must be in"),
    ({"max_txn_ops": 0}, "max_txn_ops must be in"),
    ({"max_request_bytes": 1}, "max_request_bytes must be in"),
    ({"segment_bytes": 65536, "max_request_bytes": 65536}, "max_request_bytes must be in"),
])
def test_options_out_of_range(options: dict[str, Any], message: str, ram_dir: Path) -> None:
    for path in (None, ram_dir / "store"):
        with pytest.raises(ValueError, match=message):
            kvcore.open(path, **options)


@pytest.mark.parametrize("size", [65537, 1 << 15, 0, 1 << 31])
def test_segment_size(size: int, ram_dir: Path) -> None:
    """A power of two from 64 KiB to 1 GiB."""
    with pytest.raises(ValueError, match="segment_bytes"):
        kvcore.open(ram_dir, segment_bytes=size, max_request_bytes=1024)


def test_unknown_option() -> None:
    with pytest.raises(TypeError):
        kvcore.open(colour="blue")


def test_path_is_a_file(ram_dir: Path) -> None:
    (ram_dir / "file").write_bytes(b"not a store")
    with pytest.raises(OSError):
        kvcore.open(ram_dir / "file")
    assert (ram_dir / "file").read_bytes() == b"not a store"


# --- keys and values -----------------------------------------------------------------------------

NOT_BYTES = ["a", 1, None, 1.5, bytearray(b"a"), memoryview(b"a"), [b"a"], type("B", (bytes,), {})]
NOT_BYTES[-1] = NOT_BYTES[-1](b"a")  # type: ignore[operator]


@pytest.mark.parametrize("what", NOT_BYTES, ids=lambda w: type(w).__name__)
def test_only_bytes(filled: kvcore.Store, refuses: Refuses, what: Any) -> None:
    """Keys, ends, prefixes and values are bytes: nothing else, no subclass, in any verb."""
    name = type(what).__name__
    messages = [
        refuses(TypeError, "put", what, b"v"), refuses(TypeError, "put", b"k", what),
        refuses(TypeError, "get", what), refuses(TypeError, "get_many", [b"a", what]),
        refuses(TypeError, "put_many", [(what, b"v")]),
        refuses(TypeError, "put_many", [(b"k", b"v"), (b"k", what)]),
    ]
    if what is not None:
        messages += [
            refuses(TypeError, "range", what), refuses(TypeError, "range", b"a", what),
            refuses(TypeError, "range", prefix=what), refuses(TypeError, "delete", what),
            refuses(TypeError, "delete", b"a", what), refuses(TypeError, "delete", prefix=what),
        ]
    for message in messages:
        assert f"must be bytes, not {name}" in message
    for make in (Put, Get, lambda k: Put(b"k", k), lambda k: Compare.value(b"k") == k):
        with pytest.raises(TypeError, match=f"must be bytes, not {name}"):
            make(what)


def test_str_is_told_to_encode(refuses: Refuses) -> None:
    assert refuses(TypeError, "put", "k").endswith("encode it, for instance key.encode()")


def test_empty_key(filled: kvcore.Store, refuses: Refuses) -> None:
    wanted = "etcdserver: key is not provided"
    calls: list[tuple[Any, ...]] = [
        ("put", b""), ("get", b""), ("range", b""), ("range", b"", b"z"), ("delete", b""),
        ("delete",), ("get_many", [b"a", b""]), ("put_many", [(b"", b"v")]),
        ("txn", [], [Put(b"")]), ("txn", [], [], [Delete(b"")]), ("txn", [], [Get(b"")]),
        ("txn", [Compare.version(b"") == 0]), ("txn", [], [Txn([], [Put(b"")])]),
        ("submit", Put(b"")), ("submit", Get(b"")), ("submit", Range(b"", b"a")),
    ]
    for call in calls:
        assert refuses(kvcore.EmptyKeyError, *call) == wanted
    with filled.snapshot() as snap, pytest.raises(kvcore.EmptyKeyError):
        snap.get(b"")


def test_key_too_large(filled: kvcore.Store, refuses: Refuses) -> None:
    long = b"k" * 101
    for call in (("put", long), ("delete", long), ("put_many", [(long, b"")]),
                 ("txn", [], [Put(long)]), ("txn", [Compare.version(long) == 0]),
                 ("submit", Put(long))):
        assert "key is too large" in refuses(kvcore.KeyTooLargeError, *call)
    assert filled.get(long) is None
    assert filled.range(long).count == 0


def test_largest_key_and_request(open_store: Opener) -> None:
    """The limits themselves are allowed; one byte more is not."""
    db = open_store(max_request_bytes=200_000, segment_bytes=1 << 20)
    db.put(b"k" * 65535, b"v")
    assert db.get(b"k" * 65535).value == b"v"
    with pytest.raises(kvcore.KeyTooLargeError):
        db.put(b"k" * 65536)
    low, high = 190_000, 200_000
    while low + 1 < high:
        size = (low + high) // 2
        try:
            db.put(b"v", b"v" * size)
            low = size
        except kvcore.RequestTooLargeError:
            high = size
    assert 199_900 < low < 200_000
    assert db.get(b"v").value in (b"v" * low, b"v" * len(db.get(b"v").value))


def test_request_too_large(refuses: Refuses) -> None:
    wanted = "etcdserver: request is too large"
    assert refuses(kvcore.RequestTooLargeError, "put", b"k", b"v" * 4097) == wanted
    refuses(kvcore.RequestTooLargeError, "put_many", [(b"k", b"v" * 4097)])
    refuses(kvcore.RequestTooLargeError, "submit", Put(b"k", b"v" * 4097))
    refuses(kvcore.RequestTooLargeError, "txn", [],
            [Put(b"k%d" % i, b"v" * 100) for i in range(50)])


# --- transactions --------------------------------------------------------------------------------


def test_too_many_operations(refuses: Refuses) -> None:
    gets = [Get(b"a")] * 129
    wanted = "etcdserver: too many operations in txn request"
    assert refuses(kvcore.TooManyOpsError, "txn", [], gets) == wanted
    refuses(kvcore.TooManyOpsError, "txn", [], [], gets)
    refuses(kvcore.TooManyOpsError, "txn", [Compare.version(b"a") == 1] * 129)
    refuses(kvcore.TooManyOpsError, "txn", [], [Txn([], gets)])
    refuses(kvcore.TooManyOpsError, "submit", Txn([], gets))


def test_duplicate_keys(refuses: Refuses) -> None:
    wanted = "etcdserver: duplicate key given in txn request"
    assert refuses(kvcore.DuplicateKeyError, "txn", [], [Put(b"a"), Put(b"a")]) == wanted
    refuses(kvcore.DuplicateKeyError, "txn", [], [], [Put(b"a"), Delete(prefix=b"")])
    refuses(kvcore.DuplicateKeyError, "submit", Txn([], [Put(b"a"), Txn([], [Put(b"a")])]))


def test_not_operations(refuses: Refuses) -> None:
    refuses(TypeError, "txn", [], [b"put"])
    refuses(TypeError, "txn", [Put(b"a")])
    refuses(TypeError, "txn", [True])
    refuses(TypeError, "txn", [], [kvcore.Compact(5)])
    refuses(TypeError, "txn", [], [None])
    refuses(TypeError, "txn", 5)
    refuses(TypeError, "submit", b"put")
    refuses(TypeError, "submit", None)
    assert "operator" in refuses(kvcore.InvalidArgument, "txn", [Compare.version(b"a")])


def test_compare_is_not_a_bool() -> None:
    with pytest.raises(TypeError, match="no truth"):
        bool(Compare.version(b"a") == 1)
    with pytest.raises(TypeError, match="with an int"):
        _ = Compare.version(b"a") == b"1"
    with pytest.raises(TypeError):
        _ = Compare.version(b"a") >= 1
    with pytest.raises(TypeError):
        Compare()


# --- reads ---------------------------------------------------------------------------------------


def test_compacted_and_future(filled: kvcore.Store, refuses: Refuses) -> None:
    for verb, args in (("get", (b"a",)), ("range", ()), ("get_many", ([b"a"],))):
        refuses(kvcore.CompactedError, verb, *args, revision=3)
        refuses(kvcore.FutureRevisionError, verb, *args, revision=7)
    refuses(kvcore.CompactedError, "hash", 3)
    refuses(kvcore.FutureRevisionError, "hash", 7)
    refuses(kvcore.CompactedError, "compact", 4)
    refuses(kvcore.CompactedError, "compact", -5)
    refuses(kvcore.FutureRevisionError, "compact", 7)
    with pytest.raises(kvcore.CompactedError) as caught:
        filled.get(b"a", revision=1)
    assert caught.value.compact_revision == 4


def test_negative_numbers_are_etcds(filled: kvcore.Store) -> None:
    """A negative limit is no limit, a negative revision the newest; in a txn it is compacted."""
    assert len(filled.range(limit=-1)) == 2
    assert filled.range(revision=-1) == filled.range()
    assert filled.get(b"a", revision=-3) == filled.get(b"a")
    with pytest.raises(kvcore.CompactedError):
        filled.txn([], [Get(b"a", revision=-1)])


def test_numbers_that_are_none(refuses: Refuses) -> None:
    huge = 1 << 63
    refuses(OverflowError, "get", b"a", revision=huge)
    refuses(OverflowError, "range", limit=huge)
    refuses(OverflowError, "put", b"a", lease=-huge - 1)
    refuses(OverflowError, "compact", huge)
    refuses(TypeError, "get", b"a", revision="3")
    refuses(TypeError, "range", limit="3")
    refuses(TypeError, "compact", None)


def test_bad_sort(refuses: Refuses) -> None:
    for sort in ("", "-", "keys", "--key", "+key", "lease", "Key"):
        message = refuses(kvcore.InvalidSortError, "range", sort=sort)
        assert message.startswith("etcdserver: invalid sort option")
        assert repr(sort) in message
    refuses(TypeError, "range", sort=b"key")
    refuses(TypeError, "range", sort=1)


def test_prefix_and_start(refuses: Refuses) -> None:
    for verb in ("range", "delete"):
        refuses(TypeError, verb, b"a", prefix=b"a")
        refuses(TypeError, verb, None, b"z", prefix=b"a")
        refuses(TypeError, verb, None, b"z")


def test_ignore_flags(refuses: Refuses) -> None:
    refuses(kvcore.ValueProvidedError, "put", b"a", b"v", ignore_value=True)
    refuses(kvcore.LeaseProvidedError, "put", b"a", lease=1, ignore_lease=True)
    refuses(kvcore.KeyNotFoundError, "put", b"x", ignore_value=True)
    refuses(kvcore.KeyNotFoundError, "put", b"b", b"v", ignore_lease=True)
    refuses(kvcore.ValueProvidedError, "txn", [], [Put(b"a", b"v", ignore_value=True)])


def test_unknown_lease(filled: kvcore.Store, refuses: Refuses) -> None:
    wanted = "etcdserver: requested lease not found"
    assert refuses(kvcore.LeaseNotFoundError, "put", b"a", b"v", lease=1) == wanted
    refuses(kvcore.LeaseNotFoundError, "txn", [], [Put(b"x"), Put(b"a", lease=-1)])
    refuses(kvcore.LeaseNotFoundError, "put_many", [(b"a", b"v")], lease=5)
    with pytest.raises(kvcore.LeaseNotFoundError):
        filled.submit(Put(b"a", lease=3)).result(60)


def test_generator_that_fails(filled: kvcore.Store, refuses: Refuses) -> None:
    """An exception from the caller's own iterable passes through, and nothing is put."""
    def items() -> Iterator[tuple[bytes, bytes]]:
        yield b"x", b"1"
        raise LookupError("mine")

    assert refuses(LookupError, "put_many", items()) == "mine"
    refuses(ValueError, "put_many", [(b"a", b"b", b"c")])


# --- closed --------------------------------------------------------------------------------------

CLOSED: dict[str, tuple[Any, ...]] = {
    "put": (b"k",), "put_many": ([(b"k", b"v")],), "delete": (b"k",), "txn": (), "get": (b"k",),
    "get_many": ([b"k"],), "range": (), "compact": (1,), "submit": (Put(b"k"),), "snapshot": (),
    "step": (), "sync": (), "checkpoint": (), "hash": (), "status": (), "check": (),
    "watch": (), "lease": (5,), "leases": (), "alarms": (), "disarm": (),
    "backup": ("nowhere",),
}
OPEN_AFTER_CLOSE = {"close", "closed", "log_path", "damaged_checkpoints", "lease_of", "mapping",
                    "recovery"}


def test_every_verb_on_a_closed_store(open_store: Opener) -> None:
    """All public names of Store, so that a new verb cannot be forgotten."""
    db = open_store()
    db.put(b"k", b"v")
    db.close()
    db.close()
    assert db.closed
    names = {name for name in dir(db) if not name.startswith("_")}
    assert names == {*CLOSED, *OPEN_AFTER_CLOSE, "revision", "compact_revision"}
    for name in sorted(names - OPEN_AFTER_CLOSE):
        with pytest.raises(kvcore.ClosedError, match="^kvcore: closed$"):
            verb = getattr(db, name)
            verb(*CLOSED[name])
    with pytest.raises(kvcore.ClosedError):
        db._check()
    with pytest.raises(kvcore.ClosedError):
        db.submit(Get(b"k"))
    with pytest.raises(kvcore.ClosedError):
        db.put_many([])
    assert "closed" in repr(db)


def test_snapshot_after_close(open_store: Opener) -> None:
    db = open_store()
    db.put(b"k", b"v")
    snap, released = db.snapshot(), db.snapshot()
    released.release()
    released.release()
    with pytest.raises(kvcore.ClosedError, match="snapshot was released"):
        released.get(b"k")
    db.close()
    for verb, args in (("get", (b"k",)), ("range", ()), ("count", ())):
        with pytest.raises(kvcore.ClosedError):
            getattr(snap, verb)(*args)
    snap.release()


def test_pickling_is_refused(filled: kvcore.Store) -> None:
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(filled)
    with filled.snapshot() as snap, pytest.raises(TypeError, match="pickled"):
        pickle.dumps(snap)
    with pytest.raises(TypeError):
        pickle.dumps(filled.submit(Put(b"p")))


def test_results_are_not_made_by_hand() -> None:
    for kind in (kvcore.KeyValue, kvcore.RangeResult, kvcore.PutResult, kvcore.DeleteResult,
                 kvcore.TxnResult, kvcore.Snapshot, kvcore.Future):
        with pytest.raises(TypeError):
            kind()


# --- the directory -------------------------------------------------------------------------------


def test_opened_twice_in_one_process(opened: Any, ram_dir: Path) -> None:
    db = opened(ram_dir)
    db.put(b"k", b"v")
    alias = ram_dir.parent / (ram_dir.name + "-alias")
    alias.symlink_to(ram_dir)
    try:
        for path in (ram_dir, alias):
            with pytest.raises(kvcore.LockedError, match=f"this process .*{os.getpid()}"):
                kvcore.open(path)
    finally:
        alias.unlink()
    assert db.put(b"k").revision == 3
    db.close()
    assert opened(ram_dir).revision == 3


_HOLD = """
import sys, kvcore
with kvcore.open(sys.argv[1]) as db:
    db.put(b"k", b"held")
    print("open", flush=True)
    sys.stdin.read()
"""


def test_opened_twice_by_two_processes(opened: Any, ram_dir: Path) -> None:
    """The message names the process that has it; once that is gone the directory is free."""
    command = [sys.executable, "-c", _HOLD, str(ram_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(kvcore.LockedError, match=f"in use by process {holder.pid} on "):
            kvcore.open(ram_dir)
        holder.communicate(b"")
    assert holder.returncode == 0
    assert opened(ram_dir).get(b"k").value == b"held"


def test_newer_format(ram_dir: Path) -> None:
    """A directory of a newer kvcore is refused and not touched."""
    with kvcore.open(ram_dir) as db:
        db.put(b"k", b"v")
    (ram_dir / "FORMAT").write_bytes(b"kvcore 2\n")
    before = {p.name: p.read_bytes() for p in ram_dir.iterdir() if p.name != "LOCK"}
    with pytest.raises(kvcore.NewerFormatError, match="newer format"):
        kvcore.open(ram_dir)
    assert {p.name: p.read_bytes() for p in ram_dir.iterdir() if p.name != "LOCK"} == before


def test_other_segment_size(ram_dir: Path) -> None:
    """segment_bytes is fixed when the directory is made: another is refused, or ignored."""
    with kvcore.open(ram_dir, segment_bytes=1 << 17, max_request_bytes=1024) as db:
        db.put(b"k", b"v")
    try:
        db = kvcore.open(ram_dir, segment_bytes=1 << 16, max_request_bytes=1024)
    except ValueError as error:
        assert "segment_bytes" in str(error)
    else:
        assert db.get(b"k").value == b"v"
        assert db.status().segment_bytes == 1 << 17
        db.close()


# --- damage --------------------------------------------------------------------------------------


def _written(directory: Path) -> list[bytes]:
    """A store of several segments and one checkpoint; its values."""
    values = [b"%04d" % i * 250 for i in range(200)]
    with kvcore.open(directory, segment_bytes=65536, max_request_bytes=16384,
                     maintenance=False) as db:
        for i, value in enumerate(values):
            db.put(b"k%03d" % i, value)
            if i == 100:
                db.checkpoint()
    return values


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


def _open_damaged(directory: Path) -> kvcore.Store:
    return kvcore.open(directory, segment_bytes=65536, max_request_bytes=16384,
                       maintenance=False)


def test_damaged_log(ram_dir: Path) -> None:
    """A flipped bit in a part of the log that an open replays: refused, with file and offset."""
    _written(ram_dir / "good")
    segments = sorted((ram_dir / "good").glob("wal-*.seg"))
    assert len(segments) > 3
    for offset in (0, 20, 70, 100, 5000, 30000):
        shutil.copytree(ram_dir / "good", ram_dir / "bad")
        victim = ram_dir / "bad" / segments[-2].name
        _flip(victim, offset)
        with pytest.raises(kvcore.CorruptError) as caught:
            _open_damaged(ram_dir / "bad")
        assert caught.value.path == str(victim)
        assert 0 <= caught.value.offset <= offset
        assert caught.value.reason
        assert victim.name in str(caught.value)
        shutil.rmtree(ram_dir / "bad")


def test_damaged_value_behind_a_checkpoint(ram_dir: Path) -> None:
    """What an open does not replay is proven when it is read: an error, never a wrong value."""
    values = _written(ram_dir)
    victim = sorted(ram_dir.glob("wal-*.seg"))[0]
    _flip(victim, 20_000)
    db = _open_damaged(ram_dir)
    wrong = []
    for i, value in enumerate(values):
        try:
            assert db.get(b"k%03d" % i).value == value
        except kvcore.CorruptError as error:
            wrong.append((i, str(error)))
    assert len(wrong) == 1
    problems = db.check()
    assert len(problems) == 1
    assert repr(b"k%03d" % wrong[0][0]) in problems[0]
    with pytest.raises(kvcore.CorruptError):
        db.range().values()
    with pytest.raises(kvcore.CorruptError):
        db.hash()
    assert db.range(keys_only=True).count == 200
    db.close()


def test_damaged_checkpoint_is_passed_over(ram_dir: Path) -> None:
    """The older checkpoint, or the whole log, says the same; check() tells of the damage."""
    values = _written(ram_dir / "good")
    checkpoint = next(iter((ram_dir / "good").glob("checkpoint-*.ckp"))).name
    size = (ram_dir / "good" / checkpoint).stat().st_size
    for offset in (0, 9, 60, 130, size // 2, size - 3):
        shutil.copytree(ram_dir / "good", ram_dir / "bad")
        _flip(ram_dir / "bad" / checkpoint, offset)
        db = _open_damaged(ram_dir / "bad")
        assert db.range().values() == values
        assert checkpoint in "".join(db.check())
        db.close()
        shutil.rmtree(ram_dir / "bad")


def test_missing_segment(ram_dir: Path) -> None:
    _written(ram_dir)
    segments = sorted(ram_dir.glob("wal-*.seg"))
    segments[-2].unlink()
    with pytest.raises(kvcore.CorruptError):
        _open_damaged(ram_dir)


def test_every_byte_of_a_small_log(ram_dir: Path) -> None:
    """Flip each byte in turn: the open refuses, or shows a state that existed, or a read
    refuses."""
    with kvcore.open(ram_dir / "good", segment_bytes=65536, max_request_bytes=1024,
                     maintenance=False) as db:
        states = [{}]
        for i in range(6):
            db.put(b"k%d" % (i % 4), b"value %d" % i)
            states.append({kv.key: kv.value for kv in db.range()})
    segment = next(iter((ram_dir / "good").glob("wal-*1.seg"))).name
    end = len((ram_dir / "good" / segment).read_bytes().rstrip(b"\0"))
    outcomes = {"refused": 0, "state": 0}
    for offset in range(0, end + 64, 3):
        shutil.copytree(ram_dir / "good", ram_dir / "bad")
        _flip(ram_dir / "bad" / segment, offset)
        try:
            with kvcore.open(ram_dir / "bad", segment_bytes=65536, max_request_bytes=1024,
                             maintenance=False) as db:
                assert {kv.key: kv.value for kv in db.range()} in states
                assert all("the seal that ended" in problem for problem in db.check())
            outcomes["state"] += 1
        except (kvcore.CorruptError, kvcore.NewerFormatError):
            outcomes["refused"] += 1
        shutil.rmtree(ram_dir / "bad")
    assert min(outcomes.values()) > 0


# --- processes and signals -----------------------------------------------------------------------

_FORK = """
import os, sys, kvcore
from kvcore import Get, Put
db = kvcore.open(sys.argv[1] or None)
db.put(b"k", b"v")
snap = db.snapshot()
future = db.submit(Put(b"f", b"v"))
future.result(60)
kept = db.get(b"k")
child = os.fork()
if child == 0:
    calls = [lambda: db.put(b"k"), lambda: db.get(b"k"), lambda: db.range(), lambda: db.status(),
             lambda: db.snapshot(), lambda: db.delete(b"k"), lambda: db.txn(), lambda: db.hash(),
             lambda: db.compact(2), lambda: db.submit(Put(b"k")), lambda: db.submit(Get(b"k")),
             lambda: db.put_many([(b"a", b"b")]), lambda: db.get_many([b"k"]), lambda: db.step(),
             lambda: db.sync(), lambda: db.checkpoint(), lambda: db.revision, lambda: db.check(),
             lambda: db.compact_revision, lambda: snap.get(b"k"), lambda: snap.range()]
    refused = 0
    for call in calls:
        try:
            call()
        except kvcore.ForkedError:
            refused += 1
    assert refused == len(calls), refused
    assert kept.value == b"v"
    snap.release()
    db.close()
    with kvcore.open() as own:
        assert own.put(b"own").revision == 2
    sys.exit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
assert db.put(b"after", b"fork").revision == 4
assert snap.get(b"k").value == b"v" and snap.get(b"after") is None
snap.release()
db._check()
assert db.check() == []
db.close()
print("fine")
"""


@pytest.mark.parametrize("kind", ["memory", "durable"])
def test_use_after_fork(kind: str, ram_dir: Path) -> None:
    """In a forked child every verb raises ForkedError; it ends cleanly and harms nobody."""
    where = str(ram_dir) if kind == "durable" else ""
    done = subprocess.run([sys.executable, "-W", "error", "-c", _FORK, where], timeout=120,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")
    if kind == "durable":
        with kvcore.open(ram_dir) as db:
            assert db.range(keys_only=True).keys() == [b"after", b"f", b"k"]


_CTRL_C = """
import faulthandler, sys, threading, kvcore
faulthandler.dump_traceback_later(60, exit=True)
db = kvcore.open(sys.argv[1], segment_bytes=1 << 20, max_request_bytes=4096)
stop = threading.Event()
acked = [[] for _ in range(8)]
def write(n):
    while not stop.is_set():
        acked[n].append(db.put(b"t%d/%d" % (n, len(acked[n]))).revision)
threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
for thread in threads:
    thread.start()
mine = interrupted = 0
try:
    sys.stdout.write("running\\n")
    sys.stdout.flush()
    while True:
        db.put(b"main/%d" % mine)
        mine += 1
except KeyboardInterrupt:
    interrupted = 1
stop.set()
for thread in threads:
    thread.join()
assert interrupted
revisions = sorted(r for one in acked for r in one)
assert len(set(revisions)) == len(revisions)
for n in range(8):
    assert db.range(prefix=b"t%d/" % n, count_only=True).count == len(acked[n])
assert db.range(prefix=b"main/", count_only=True).count in (mine, mine + 1)
db._check()
assert db.check() == []
db.close()
print("interrupted")
"""


def test_ctrl_c_in_a_blocking_call(opened: Any, tmp_path: Path) -> None:
    """SIGINT while nine threads put: KeyboardInterrupt in the main one, a consistent store."""
    command = [sys.executable, "-c", _CTRL_C, str(tmp_path)]
    with subprocess.Popen(                           # SIGINT as a terminal would leave it
            command, stdout=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "running\n"
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=60)
    assert (child.returncode, out) == (0, "interrupted\n")
    db = opened(tmp_path)
    assert db.revision == db.range(count_only=True).count + 1
