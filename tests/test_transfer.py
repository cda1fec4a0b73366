# SPDX-License-Identifier: Apache-2.0
"""Exports and imports: equal contents, leases, every kind of wrong file; and their commands."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Run
from hypothesis import given
from hypothesis import strategies as st
from stores import Stores

import kvcore
from kvcore import transfer
from kvcore.transfer import check_lines, export_lines, import_lines

KEYS = st.binary(min_size=1, max_size=6) | st.text(min_size=1, max_size=4).map(str.encode)


def contents(db: kvcore.Store, **options: Any) -> dict[bytes, bytes]:
    return {kv.key: kv.value for kv in db.range(**options)}


def signed(objects: list[Any]) -> list[str]:
    """Lines with the right last line, whatever is in them."""
    lines = [json.dumps(fields) + "\n" for fields in objects]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    count = sum("version" in fields for fields in objects[1:])
    return [*lines, json.dumps({"end": True, "count": count, "sha256": digest}) + "\n"]


def header(count: int, **other: Any) -> dict[str, Any]:
    return {"format": "kvcore export", "version": 1, "revision": 9, "prefix": "", "count": count,
            **other}


def row(key: str, **other: Any) -> dict[str, Any]:
    return {"key": key, "value": "v", "create_revision": 2, "mod_revision": 2, "version": 1,
            "lease": 0, **other}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and batches of a few keys."""
    monkeypatch.setattr(transfer, "PAGE", 3)
    monkeypatch.setattr(transfer, "BATCH_KEYS", 10)
    monkeypatch.setattr(transfer, "BATCH_BYTES", 100)


# --- what comes back is what went out -------------------------------------------------------------

@given(puts=st.lists(st.tuples(KEYS, st.binary(max_size=20)), max_size=40), prefix=KEYS,
       ends=st.booleans(), raw=st.booleans())
def test_equal_contents(puts: list[tuple[bytes, bytes]], prefix: bytes, ends: bool,
                        raw: bool) -> None:
    with kvcore.open() as one, kvcore.open() as two, kvcore.open() as three:
        one.put_many(puts)
        lines: list[Any] = list(export_lines(one))
        assert all(line.isascii() and line.count("\n") == 1 for line in lines)
        if not ends:
            lines = [line.rstrip("\n") for line in lines]
        if raw:
            lines = [line.encode() for line in lines]
        done = import_lines(two, lines)
        assert contents(two) == dict(puts) and done.keys == len(dict(puts))
        assert check_lines(lines) == done.header == transfer.Header(one.revision, b"", done.keys)
        import_lines(three, export_lines(one, prefix=prefix))
        assert contents(three) == contents(one, prefix=prefix)


def test_pages_and_batches(opened: Stores, small: None) -> None:
    one, two = opened(), opened()
    one.put_many((b"%03d" % n, b"x" * (n % 40)) for n in range(100))
    steps: list[int] = []
    before = two.status().batches
    done = import_lines(two, export_lines(one), progress=steps.append)
    assert contents(two) == contents(one) and (sum(steps), done.keys) == (100, 100)
    assert max(steps) <= 10 and len(steps) == two.status().batches - before > 10
    assert done.revision == two.revision == 101


def test_a_value_larger_than_a_batch(opened: Stores, small: None) -> None:
    one, two = opened(), opened()
    one.put_many([(b"a", b"1"), (b"b", b"x" * 5000), (b"c", b"2")])
    import_lines(two, export_lines(one))
    assert contents(two) == contents(one)


def test_an_export_shows_one_revision(opened: Stores, small: None) -> None:
    one, two = opened(), opened()
    one.put_many((b"%03d" % n, b"old") for n in range(20))
    before = contents(one)
    lines = export_lines(one)
    got = [next(lines) for _ in range(5)]
    one.put_many((b"%03d" % n, b"new") for n in range(30))
    one.compact(one.revision)
    import_lines(two, [*got, *lines])
    assert contents(two) == before


def test_an_export_of_the_past(opened: Stores, small: None) -> None:
    one, two = opened(), opened()
    one.put_many((b"%03d" % n, b"old") for n in range(20))
    one.put_many((b"%03d" % n, b"new") for n in range(10))
    one.delete(b"019")
    done = import_lines(two, export_lines(one, revision=21))
    assert done.header.revision == 21 and set(contents(two).values()) == {b"old"}
    assert len(contents(two)) == 20
    one.compact(25)
    with pytest.raises(kvcore.CompactedError):
        next(export_lines(one, revision=24))
    with pytest.raises(kvcore.FutureRevisionError):
        next(export_lines(one, revision=99))
    assert one.status().snapshots == 0


def test_a_snapshot_is_exported(opened: Stores) -> None:
    one, two = opened(), opened()
    one.put(b"a", b"1", lease=one.lease(60, id=5).id)
    with one.snapshot() as snap:
        one.put(b"a", b"2")
        done = import_lines(two, export_lines(snap), leases=True)
        assert one.status().snapshots == 1
    assert contents(two) == {b"a": b"1"} and (done.leases, done.detached) == (0, 1)


# --- leases ---------------------------------------------------------------------------------------

@pytest.fixture
def leased(opened: Stores) -> list[str]:
    """An export with keys of two leases, and of one that has ended since."""
    db = opened()
    for id, ttl in ((7, 60), (8, 90), (9, 30)):
        db.lease(ttl, id=id)
    db.put_many([(b"a", b""), (b"c", b"")], lease=7)
    db.put(b"b", b"", lease=8)
    db.put(b"d", b"")
    db.put(b"e", b"", lease=9)
    revision = db.revision
    db.lease_of(9).revoke()
    return list(export_lines(db, revision=revision))


def test_leases_are_told(leased: list[str]) -> None:
    objects = [json.loads(line) for line in leased]
    assert [o for o in objects if "ttl" in o] == [{"lease": 7, "ttl": 60}, {"lease": 8, "ttl": 90}]
    assert [o["lease"] for o in objects if "version" in o and "key" in o] == [7, 8, 7, 0, 9]


def test_leases_are_left_behind(opened: Stores, leased: list[str]) -> None:
    db = opened()
    done = import_lines(db, leased)
    assert (done.leases, done.detached, db.leases()) == (0, 4, [])
    assert [kv.lease for kv in db.range()] == [0] * 5


def test_leases_are_granted_again(opened: Stores, leased: list[str], small: None) -> None:
    db = opened()
    done = import_lines(db, leased, leases=True)
    assert (done.leases, done.detached) == (2, 1)
    assert [(lease.id, lease.granted_ttl, lease.keys()) for lease in db.leases()] == [
        (7, 60, [b"a", b"c"]), (8, 90, [b"b"])]


def test_a_lease_that_is_there_is_joined(opened: Stores, leased: list[str]) -> None:
    db = opened()
    db.put(b"mine", b"", lease=db.lease(1000, id=7).id)
    done = import_lines(db, leased, leases=True, merge=True)
    assert done.leases == 1 and db.lease_of(7).keys() == [b"a", b"c", b"mine"]
    assert db.lease_of(7).granted_ttl == 1000


# --- targets --------------------------------------------------------------------------------------

def test_only_an_empty_store_without_merge(opened: Stores) -> None:
    one, two = opened(), opened()
    one.put_many([(b"a", b"1"), (b"b", b"1")])
    two.put_many([(b"b", b"2"), (b"c", b"2")])
    with pytest.raises(kvcore.InvalidArgument, match="not empty"):
        import_lines(two, export_lines(one))
    assert contents(two) == {b"b": b"2", b"c": b"2"}
    import_lines(two, export_lines(one), merge=True)
    assert contents(two) == {b"a": b"1", b"b": b"1", b"c": b"2"}
    two.delete(b"\0", b"\0")
    import_lines(two, export_lines(one))
    assert contents(two) == contents(one)


def test_a_store_that_takes_less(opened: Stores, small: None) -> None:
    one, two = opened(), opened(max_key_bytes=5)
    one.put_many([*((b"%03d" % n, b"") for n in range(15)), (b"long key", b"")])
    with pytest.raises(kvcore.TransferError, match="line 12: .*key is too large.*10 keys") as error:
        import_lines(two, export_lines(one))
    assert (error.value.keys, error.value.line) == (10, 12)
    assert list(contents(two)) == [b"%03d" % n for n in range(10)]


# --- wrong files ----------------------------------------------------------------------------------

@given(data=st.data())
def test_a_file_that_was_cut_or_changed_is_refused(data: st.DataObject) -> None:
    with kvcore.open() as one:
        one.put_many([(b"%d" % n, b"\xff" * n + b"text") for n in range(5)])
        whole = "".join(export_lines(one)).encode()
    kind = data.draw(st.sampled_from(["cut", "bit", "line"]))
    at = data.draw(st.integers(0, len(whole) - 2))       # the last line may lack its end
    if kind == "cut":
        wrong = whole[:at]
    elif kind == "bit":
        wrong = whole[:at] + bytes([whole[at] ^ 1 << data.draw(st.integers(0, 7))]) + whole[at + 1:]
    else:
        lines = whole.splitlines(keepends=True)
        del lines[at % len(lines)]
        wrong = b"".join(lines)
    with kvcore.open() as two:
        with pytest.raises(kvcore.TransferError) as error:
            import_lines(two, io.BytesIO(wrong))
        assert (two.revision, error.value.keys) == (1, 0)
        with pytest.raises(kvcore.TransferError) as again:
            check_lines(io.BytesIO(wrong))
        assert str(again.value) == str(error.value)


GOOD = [header(2), row("a"), row("b")]


@pytest.mark.parametrize(("lines", "line", "words"), [
    ([], 0, "the export is empty"),
    (["{}\n"], 1, 'not an export: "format"'),
    (["nonsense\n"], 1, "not a line of JSON: 'nonsense'"),
    (["[1]\n"], 1, "not a JSON object"),
    (["\n"], 1, "not a line of JSON"),
    ([b"\xff\xfe\n"], 1, "not a line of JSON: .*xff.*xfe"),
    (["[" * 100_000 + "\n"], 1, "not a line of JSON"),
    (signed([header(0, version=2)]), 1, "format version 2; this kvcore reads 1"),
    (signed([header(0, version=True)]), 1, '"version" is not a whole number'),
    (signed([header("0")]), 1, '"count" is not a whole number'),
    (signed(GOOD)[:-1], 3, "the export ends here, without its last line: it was cut"),
    ([*signed(GOOD), "{}\n"], 5, "text behind the last line"),
    ([*signed(GOOD), "\n"], 5, "text behind the last line"),
    ([*signed(GOOD)[:2], *signed(GOOD)[3:]], 3, "1 keys were read, the first line promises 2"),
    (signed([header(3), *GOOD[1:]]), 4, "2 keys were read, the first line promises 3, the last 2"),
    ([signed(GOOD)[0].replace('"revision": 9', '"revision": 8'), *signed(GOOD)[1:]], 4,
     "the checksum is wrong"),
    (signed([header(2), row("b"), row("a")]), 3, "does not come behind"),
    (signed([header(2), row("a"), row("a")]), 3, "does not come behind"),
    (signed([header(1), row("")]), 2, "does not come behind"),
    (signed([header(1), row("a", lease=1.5)]), 2, '"lease" is not a whole number of 64 bits'),
    (signed([header(1), row("a", lease=1 << 63)]), 2, '"lease" is not a whole number of 64 bits'),
    (signed([header(1), {**row("a"), "key": None}]), 2, 'neither "key" nor "key_base64" is text'),
    (signed([header(1), row("a", key_base64="YQ==")]), 2, "neither"),
    (signed([header(1), row("a", value=7)]), 2, 'neither "value" nor "value_base64"'),
    (signed([header(1), row("\ud800")]), 2, '"key": .*surrogates not allowed'),
    (signed([header(1), {**row("a"), "value": None, "value_base64": "???"}]), 2, '"value": '),
    ([*signed(GOOD)[:3], '{"end": false, "count": 2, "sha256": ""}\n'], 4, "2 keys were read"),
    ([*signed(GOOD)[:3], '{"end": true, "count": 2}\n'], 4, "the checksum is wrong"),
])
def test_the_line_is_named(opened: Stores, lines: list[Any], line: int, words: str) -> None:
    db = opened()
    with pytest.raises(kvcore.TransferError, match=words) as error:
        import_lines(db, lines)
    assert (error.value.line, error.value.keys, db.revision) == (line, 0, 1)
    assert str(error.value).startswith(f"line {line}: " if line else "the export is empty")


def test_whole_batches_before_a_wrong_line_are_told(opened: Stores, small: None) -> None:
    one, two = opened(), opened()
    one.put_many((b"%03d" % n, b"") for n in range(50))
    lines = list(export_lines(one))
    lines[26] = "broken\n"
    words = r"^line 27: not a line of JSON: 'broken'.* \(20 keys before it were imported\)$"
    with pytest.raises(kvcore.TransferError, match=words) as error:
        import_lines(two, lines)
    assert error.value.keys == 20 and list(contents(two)) == [b"%03d" % n for n in range(20)]


# --- the commands ---------------------------------------------------------------------------------

@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A directory with 1,500 keys, some of a lease, one not UTF-8, one overwritten."""
    path = tmp_path / "store"
    with kvcore.open(path) as db:
        db.put_many((b"/a/%04d" % n, b"value %d" % n) for n in range(1498))
        db.put(b"/a/0000", b"second")
        db.put(b"/b\xff", b"\x00\xfe\n")
        db.put(b"/c", b"leased", lease=db.lease(600, id=77).id)
    return path


def of(path: Path) -> dict[bytes, bytes]:
    with kvcore.open(path) as db:
        return contents(db)


def test_export_and_import(run: Run, store: Path, tmp_path: Path) -> None:
    file, target = tmp_path / "all.jsonl", tmp_path / "new"
    code, out, err = run("export", store, file)
    assert (code, out) == (0, f"{file}: 1,500 keys of revision 1,502\n")
    assert err.startswith("export: 1,500 in ") and not (tmp_path / "all.jsonl.partial").exists()
    code, out, err = run("import", target, file)
    assert code == 0 and out.splitlines() == [
        f"{target}: 1,500 keys of revision 1,502 imported, now at revision 1,501",
        "leases: 1 keys had one and have none now, so they stay; --leases grants them again"]
    assert [line.split(":")[0] for line in err.splitlines()] == [
        "check the export, bytes", "import"]
    assert of(target) == of(store)


def test_export_to_standard_output(run: Run, store: Path) -> None:
    for options in ([], ["-"], ["--json"]):
        code, out, _ = run("export", store, *options)
        assert code == 0 and check_lines(out.splitlines()).count == 1500
    code, out, _ = run("export", store, "--prefix", "/a/000", "--revision", "2")
    assert check_lines(out.splitlines()) == transfer.Header(2, b"/a/000", 1)
    code, out, err = run("export", store, "--revision", "9999")
    assert (code, out) == (1, "") and "future revision" in err


def test_a_pipe_from_one_to_the_other(store: Path, tmp_path: Path) -> None:
    program = f"{sys.executable} -m kvcore"
    done = subprocess.run(
        f"{program} export {store} | {program} import --json --leases {tmp_path / 'new'} -",
        shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "path": str(tmp_path / "new"), "file": "-", "keys": 1500, "leases_granted": 1,
        "keys_without_their_lease": 0, "revision": 1501}
    assert of(tmp_path / "new") == of(store)
    with kvcore.open(tmp_path / "new") as db:
        assert db.lease_of(77).keys() == [b"/c"]


def test_a_wrong_file_is_refused_before_the_directory_is_touched(
        run: Run, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "cut.jsonl"
    lines = run("export", store)[1].splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    code, out, err = run("import", tmp_path / "new", file)
    assert (code, out) == (1, "") and not (tmp_path / "new").exists()
    assert err.splitlines()[-1] == (f"kvcore import: {file}: line 1502: the export ends here, "
                                    "without its last line: it was cut")
    file.write_text("{}")
    assert run("import", tmp_path / "new", file)[0] == 1
    code, _, err = run("import", tmp_path / "new", tmp_path / "gone")
    assert code == 3 and err.count("\n") == 1 and not (tmp_path / "new").exists()


def test_directories_to_import_into(run: Run, store: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "x.jsonl", tmp_path / "other"
    assert json.loads(run("export", store, file, "--prefix", "/b", "--json")[1]) == {
        "path": str(store), "file": str(file), "keys": 1, "revision": 1502}
    other.mkdir()
    (other / "something").write_text("")
    code, _, err = run("import", other, file)
    assert code == 3 and "not empty" in err and os.listdir(other) == ["something"]
    code, _, err = run("import", store, file)
    assert code == 2 and "--merge" in err
    with kvcore.open(store) as db:
        db.put(b"/b\xff", b"changed")
    assert run("import", store, file, "--merge")[0] == 0
    assert of(store)[b"/b\xff"] == b"\x00\xfe\n" and len(of(store)) == 1500


def test_an_export_that_fails_leaves_the_old_file(
        run: Run, store: Path, tmp_path: Path) -> None:
    with kvcore.open(store) as db:
        db.checkpoint()                          # so that an open does not read what is damaged
    [segment] = [s for s in store.glob("wal-*.seg") if b"value 1200" in s.read_bytes()]
    segment.write_bytes(segment.read_bytes().replace(b"value 1200", b"valuf 1200"))
    file = tmp_path / "x.jsonl"
    file.write_text("the old one")
    code, _, err = run("export", store, file)
    assert code == 3 and "corrupt" in err
    assert file.read_text() == "the old one" and not (tmp_path / "x.jsonl.partial").exists()


def test_compact(run: Run, store: Path) -> None:
    code, out, _ = run("compact", store, "1500")
    assert code == 0 and out == (f"{store}: compacted at revision 1,500 of 1,502: 1,501 versions, "
                                 "now 1,500\n")
    assert run("check", store)[0] == 0
    code, _, err = run("compact", store, "1500")
    assert code == 1 and "compacted" in err
    assert run("compact", store, "9999")[0] == 1
    code, out, _ = run("compact", store, "--keep", "2")
    assert code == 0 and "nothing to do: compacted at revision 1,500 of 1,502 already" in out
    assert json.loads(run("compact", store, "--keep", "0", "--json")[1]) == {
        "path": str(store), "revision": 1502, "compact_revision": 1502, "compacted": True,
        "versions_before": 1500, "versions": 1500}
    with kvcore.open(store) as db, pytest.raises(kvcore.CompactedError):
        db.get(b"/a/0000", revision=1500)
    assert len(of(store)) == 1500


@pytest.mark.parametrize("arguments", [
    ["compact", "x"], ["compact", "x", "5", "--keep", "1"], ["compact", "x", "0"],
    ["compact", "x", "--keep", "-1"], ["compact", "x", "many"], ["export"], ["import", "x"],
    ["export", "x", "--revision", "-1"],
])
def test_usage(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and err


@pytest.mark.parametrize("arguments", [["compact", "5"], ["export"], ["export", "x.jsonl"]])
def test_directories_that_are_none(run: Run, tmp_path: Path, arguments: list[str],
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(arguments[0], tmp_path / "gone", *arguments[1:])
    assert (code, out, err.count("\n")) == (3, "", 1) and os.listdir(tmp_path) == []
