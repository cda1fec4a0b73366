# SPDX-License-Identifier: Apache-2.0
"""What users of Python expect of a class: a repr, pickling or a clear refusal, `with`; and the log
of a store's life. Every public class is walked: a new one without a sample here fails.
"""

from __future__ import annotations

import copy
import errno
import inspect
import logging
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stores import Stores

import kvcore
from kvcore import Compare, Delete, Get, Put, Range, Txn
from kvcore.testing._faults import RecordingIo

CLASSES = [name for name in kvcore.__all__ if inspect.isclass(getattr(kvcore, name))]
ERRORS = [name for name in CLASSES if issubclass(getattr(kvcore, name), Exception)]

# class -> (how its repr begins, None: it is pickled; else what the refusal says to do instead)
HABITS: dict[str, tuple[str, str | None]] = {
    "BTreeIndex": ("<kvcore.BTreeIndex of 1 keys, order 4>", "insert"),
    "BackupResult": ("BackupResult(path='b', revision=2, ", None),
    "CachedEvent": ("<CachedEvent PUT b'/a' at 2, 1 bytes>", "take its type, key"),
    "Compact": ("Compact(3)", None),
    "Compare": ("Compare.value(b'/a', b'/b') != b'1'", None),
    "Delete": ("Delete(b'/a/', b'/a0', prev=True)", None),
    "DeleteResult": ("DeleteResult(revision=4, deleted=1, prev=[KeyValue(key=b'/a', ", None),
    "Event": ("Event(PUT, KeyValue(key=b'/a', value=b'2', ", None),
    "EventBatch": ("<EventBatch of 2 events, complete up to revision 3>", "pickle list(batch)"),
    "Future": ("<Future done>", "pickle its result()"),
    "Get": ("Get(b'/a', revision=2)", None),
    "GrantResult": ("GrantResult(id=9, ttl=60, revision=4)", None),
    "HashResult": ("HashResult(hash=", None),
    "KeyValue": ("KeyValue(key=b'/a', value=b'2', create_revision=2, mod_revision=3, version=2, "
                 "lease=0)", None),
    "Lease": ("<kvcore.Lease id=7>", "lease_of(id)"),
    "LeaseGrant": ("LeaseGrant(60, id=7)", None),
    "LeaseRevoke": ("LeaseRevoke(7)", None),
    "Put": ("Put(b'/a', b'1', lease=7, prev=True)", None),
    "PutResult": ("PutResult(revision=3, prev=KeyValue(key=b'/a', value=b'1', ", None),
    "Range": ("Range(b'/a/', b'/a0', limit=3, keys_only=True, sort='-mod_revision', "
              "min_create_revision=1)", None),
    "RangeResult": ("<RangeResult of 1 keys, count=1, more=False, revision=3>",
                    "pickle list(result)"),
    "RestoreResult": ("RestoreResult(path='r', revision=2, keys=1, bytes=3)", None),
    "Snapshot": ("<Snapshot at revision 3>", "list(snapshot.range())"),
    "SnapshotMapping": ("<kvcore.SnapshotMapping of b'/' in <Snapshot at revision 3>>",
                        "dict(mapping)"),
    "Status": ("Status(path='', sync='always', revision=", None),
    "Store": ("<kvcore.Store 'memory' at revision ", "open it where it is needed"),
    "StoreMapping": ("<kvcore.StoreMapping of b'/' in <kvcore.Store 'memory' at revision ",
                     "dict(mapping)"),
    "Txn": ("Txn([Compare.version(b'/a') == 0], [Put(b'/a', b'')], [Get(b'/a')])", None),
    "TxnResult": ("TxnResult(succeeded=True, responses=[PutResult(revision=4, prev=None), ", None),
    "Wal": ("<kvcore.Wal in memory: 0 records, end ", "open it where it is needed"),
    "Watch": ("<kvcore.Watch of b'/'..b'0' from revision 2>", "open one where it is needed"),
    "WatchCache": ("<kvcore.WatchCache 'pods': 1 of 100000 events, newest version 2>",
                   "make one where it is needed"),
    "WatchCacheStats": ("WatchCacheStats(length=1, capacity=100000, ", None),
    "WatchResponse": ("<WatchResponse: 1 events of revision 2>", None),
    **{name: (f"{name}(", None) for name in ERRORS},
}
CONTEXTS = {"BTreeIndex": False, "Lease": True, "Snapshot": True, "Store": True, "Wal": True,
            "Watch": True}


@pytest.fixture
def samples(opened: Stores) -> Iterator[dict[str, Any]]:
    """One object of every public class; the store holds b"/a", put twice."""
    db = opened()
    index, wal, cache = kvcore.BTreeIndex(4), kvcore.Wal(None), kvcore.WatchCache("pods")
    index.insert(b"/a", 1)
    db.put(b"/a", b"1")
    put = db.put(b"/a", b"2", prev=True)
    snap = db.snapshot()
    watch, other = (db.watch(prefix=b"/", start_revision=2, prev_kv=True) for _ in range(2))
    responses = [watch.get(5), watch.get(5)]
    cache.add_event(responses[0].events[0])
    found = {
        "KeyValue": db.get(b"/a"), "RangeResult": db.range(), "EventBatch": other.get_batch(),
        "PutResult": put, "Event": responses[1].events[0], "WatchResponse": responses[0],
        "DeleteResult": db.delete(b"/a", prev=True), "Snapshot": snap, "BTreeIndex": index,
        "GrantResult": db._call(kvcore.LeaseGrant(60, id=9)), "Wal": wal, "WatchCache": cache,
        "TxnResult": opened_txn(opened()), "Future": db.submit(Put(b"/f")),
        "Watch": watch.native,      # behind what records it for the checker
        "Lease": db.lease(60, id=7), "HashResult": db.hash(), "Status": db.status(), "Store": db,
        "StoreMapping": db.mapping(b"/"), "SnapshotMapping": snap.mapping(b"/"),
        "CachedEvent": cache.events_since(0)[0], "WatchCacheStats": cache.stats(),
        "Put": Put(b"/a", b"1", lease=7, prev=True), "Get": Get(b"/a", revision=2),
        "Range": Range(prefix=b"/a/", limit=3, keys_only=True, sort="-mod_revision",
                       min_create_revision=1),
        "Delete": Delete(prefix=b"/a/", prev=True), "Compact": kvcore.Compact(3),
        "Compare": Compare.value(b"/a", b"/b") != b"1",
        "Txn": Txn([Compare.version(b"/a") == 0], [Put(b"/a")], [Get(b"/a")]),
        "BackupResult": kvcore.BackupResult("b", 2, 3, 0, 4),
        "RestoreResult": kvcore.RestoreResult("r", 2, 1, 3),
        "LeaseGrant": kvcore.LeaseGrant(60, id=7), "LeaseRevoke": kvcore.LeaseRevoke(7),
    }
    found["Future"].result()
    found.update((name, getattr(kvcore, name)()) for name in ERRORS)
    yield found
    wal.close()


def opened_txn(db: kvcore.Store) -> kvcore.TxnResult:
    db.put_many([(b"/a", b"1"), (b"/b", b"2")])
    return db.txn([], [Put(b"/c"), Get(b"/a"), Delete(b"/b", prev=True)])


def test_every_public_class_has_its_habits(samples: dict[str, Any]) -> None:
    assert sorted(HABITS) == sorted(samples) == CLASSES
    for name, sample in samples.items():
        assert type(sample) is getattr(kvcore, name)


@pytest.mark.parametrize("name", CLASSES)
def test_representations(samples: dict[str, Any], name: str) -> None:
    text = repr(samples[name])
    assert text.startswith(HABITS[name][0]) and " object at 0x" not in text


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_no_representation_raises(samples: dict[str, Any]) -> None:
    """Not in a forked child, whose store it is not, and not when all is closed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str([n for n in CLASSES if not shows(samples[n])]).encode())
        finally:
            os._exit(0)                      # whatever happens: it must not go on as a test run
    os.close(writing)
    with open(reading) as pipe:
        assert pipe.read() == "[]"
    assert os.waitpid(child, 0)[1] == 0
    samples["Snapshot"].release()
    samples["Store"].close()
    samples["Wal"].close()
    assert [name for name in CLASSES if not shows(samples[name])] == []
    assert [repr(kind.__new__(kind)) for kind in (kvcore.Watch, kvcore.Future, kvcore.Wal)] == [
        "<kvcore.Watch>", "<Future>", "<kvcore.Wal not opened>"]


def shows(sample: Any) -> bool:
    try:
        return bool(repr(sample))
    except kvcore.Error:
        return False


@pytest.mark.parametrize("name", CLASSES)
def test_pickles(samples: dict[str, Any], name: str) -> None:
    sample, instead = samples[name], HABITS[name][1]
    if instead is not None:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match=re.escape(instead)):
                pickle.dumps(sample, protocol)
        return
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        same(pickle.loads(pickle.dumps(sample, protocol)), sample)
    same(copy.copy(sample), sample)
    same(copy.deepcopy(sample), sample)


def same(copied: Any, sample: Any) -> None:
    """Equal where there is equality; else what can be seen is equal."""
    assert type(copied) is type(sample) and repr(copied) == repr(sample)
    if type(sample).__eq__ is not object.__eq__ and not isinstance(sample, Compare):
        assert copied == sample
    if isinstance(sample, Exception):
        assert (copied.args, vars(copied)) == (sample.args, vars(sample))


@pytest.mark.parametrize("name", ["EventBatch", "RangeResult"])
def test_the_copy_of_what_never_changes_is_itself(samples: dict[str, Any], name: str) -> None:
    sample = samples[name]
    assert copy.copy(sample) is sample and copy.deepcopy(sample) is sample
    assert pickle.loads(pickle.dumps(list(sample))) == list(sample)


def test_a_pickle_outlives_the_store(samples: dict[str, Any]) -> None:
    db, event = samples["Store"], samples["Event"]
    raw = pickle.dumps((event, samples["TxnResult"], samples["WatchResponse"]))
    answer = samples["TxnResult"]
    db.close()
    copied, txn, response = pickle.loads(raw)
    assert (copied.type, copied.is_create) == ("PUT", False) and hash(copied) == hash(event)
    assert (copied.kv, copied.prev_kv) == (event.kv, event.prev_kv)
    assert txn.responses[1].value == b"1" and txn == answer
    assert response.events[0].is_create and response.events[0].prev_kv is None
    cache = kvcore.WatchCache("pods")
    cache.add_event(copied)
    [kept] = cache.events_since(0)
    assert (kept.type, kept.key, kept.value, kept.resource_version) == ("PUT", b"/a", b"2", 3)


def test_a_pickled_deletion(db: kvcore.Store) -> None:
    with db.watch(b"/a", prev_kv=True) as watch:
        db.put(b"/a", b"1")
        db.delete(b"/a")
        watch.get(5)
        [event] = watch.get(5).events
    copied = pickle.loads(pickle.dumps(event))
    assert copied == event and copied.type == "DELETE" and copied.prev_kv.value == b"1"
    assert copied.kv.value == b"" and copied.kv.mod_revision == 3
    cache = kvcore.WatchCache("pods")
    cache.add_event(copied)
    assert cache.events_since(0)[0].type == "DELETE"


def test_pickled_operations_do_what_they_say(db: kvcore.Store) -> None:
    db.put_many((b"/a/%d" % n, b"%d" % n) for n in range(5))

    def sent(op: Any) -> Any:
        return db.submit(pickle.loads(pickle.dumps(op))).result()

    assert [kv.key for kv in sent(Range(prefix=b"/a/", limit=2, sort="-key"))] == [b"/a/4", b"/a/3"]
    assert sent(Range(b"/a/0", b"\0", count_only=True)).count == 5
    assert sent(Range(keys_only=True, max_mod_revision=3)).values() == [b"", b""]
    assert sent(Get(b"/a/1")).value == b"1" and sent(Get(b"/a/1", revision=2)) is None
    assert sent(Put(b"/a/1", prev=True, ignore_value=True)).prev.value == b"1"
    assert sent(Delete(prefix=b"/a/", prev=True)).prev[1].version == 2
    assert sent(Txn([Compare.version(b"/a/1") == 0], [Put(b"/b")])).succeeded


@pytest.mark.parametrize("make", [
    lambda: kvcore.StorageError("broken", errno=5), lambda: kvcore.OutcomeUnknownError(errno=28),
    lambda: kvcore.CorruptError(path="p", offset=3, reason="r"),
    lambda: kvcore.CompactedError(compact_revision=9), lambda: kvcore.PoisonedError("words"),
])
def test_errors_keep_what_they_know(make: Callable[[], Any]) -> None:
    error = make()
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), str(copied), vars(copied)) == (type(error), str(error), vars(error))
    if isinstance(error, OSError):
        assert (copied.errno, copied.strerror) == (error.errno, error.strerror)


def test_states_show(opened: Stores, tmp_path: Path) -> None:
    db = opened(tmp_path / "s")
    snap, watch = db.snapshot(), db.watch(b"a")
    failed = db.submit(kvcore.Compact(99))
    assert failed.exception() is not None
    assert repr(failed).startswith(
        "<Future done, failed: FutureRevisionError('etcdserver: mvcc")
    assert repr(db) == f"<kvcore.Store {str(tmp_path / 's')!r} at revision 1>"
    snap.release()
    watch.cancel()
    assert repr(snap) == "<Snapshot at revision 1 (released)>"
    assert repr(watch) == "<kvcore.Watch of b'a', cancelled>"
    db.close()
    assert repr(db) == f"<kvcore.Store {str(tmp_path / 's')!r}, closed>"
    index = kvcore.BTreeIndex()
    with index.snapshot() as view:
        assert repr(view) == "<IndexSnapshot of 0 keys>"
    assert repr(view) == "<IndexSnapshot, closed>"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(view)


def test_named_tuples_of_the_layers_are_pickled() -> None:
    with kvcore.Wal(None) as wal:
        for stats in (wal.stats(), kvcore.BTreeIndex().stats()):
            assert pickle.loads(pickle.dumps(stats)) == stats


@pytest.mark.parametrize("name", CLASSES)
def test_what_ends_is_a_context(name: str) -> None:
    kind = getattr(kvcore, name)
    ends = [verb for verb in ("close", "release", "revoke") if hasattr(kind, verb)]
    assert hasattr(kind, "__exit__") == (bool(ends) or name == "Watch")
    assert hasattr(kind, "__exit__") == CONTEXTS.get(name, False)


# --- the log of a store's life --------------------------------------------------------------------

def messages(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return found


def test_a_life_is_logged(opened: Stores, tmp_path: Path,
                          caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="kvcore")
    path = tmp_path / "s"
    with opened(path) as db:
        assert messages(caplog) == [("INFO", f"{path} opened at revision 1")]
        db.put(b"a", b"b")
        db.put_many([(b"a", b"c")])
        db.get(b"a")
        db.checkpoint()
        with db.watch(b"a"), db.snapshot():
            db.lease(10).revoke()
        assert messages(caplog) == []
    assert messages(caplog) == [("INFO", f"{path} closed")]
    db.close()
    opened().close()
    assert messages(caplog) == []
    opened(path)
    assert messages(caplog) == [("INFO", f"{path} opened at revision 3")]


def test_an_end_that_was_not_clean_is_logged(opened: Stores, tmp_path: Path,
                                             caplog: pytest.LogCaptureFixture) -> None:
    program = ("import os, sys, kvcore\n"
               "db = kvcore.open(sys.argv[1]); db.put(b'a', b'b'); os._exit(0)")
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "s")], check=True)
    db = opened(tmp_path / "s")
    assert [(level, text) for level, text in messages(caplog) if level == "WARNING"] == [
        ("WARNING", f"{tmp_path / 's'} was not closed: {db.recovery.batches} batches replayed, "
                    f"{db.recovery.torn_bytes} torn bytes cut off")]
    assert not db.recovery.clean and db.recovery.batches >= 1


def test_a_checkpoint_that_failed_is_logged(opened: Stores, tmp_path: Path,
                                            caplog: pytest.LogCaptureFixture) -> None:
    io = RecordingIo()
    db = opened(tmp_path / "s", io=io, maintenance=False, segment_bytes=1 << 20,
                max_request_bytes=1 << 16, replay_target=0.001)
    db.put_many([(b"k%05d" % i, b"v") for i in range(3000)])
    while db.status().background_status == 0:
        io.fail("rename", 1, errno.ENOSPC)
        db.step(now=1.0)
    db.close()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"{tmp_path / 's'}: background work failed: kvcore: input/output error")]


def test_the_log_is_quiet_without_a_set_up(tmp_path: Path) -> None:
    """No handler of last resort: a library does not write where nobody asked it to."""
    program = ("import os, sys, kvcore\n"
               "if os.fork() == 0:\n"
               "    db = kvcore.open(sys.argv[1])\n"
               "    db.put(b'a', b'b')\n"
               "    os._exit(0)\n"
               "os.wait()\n"
               "kvcore.open(sys.argv[1]).close()\n")
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path / "s")],
                         capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_the_module_is_the_command() -> None:
    run = subprocess.run([sys.executable, "-m", "kvcore", "--help"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("usage: kvcore ")
