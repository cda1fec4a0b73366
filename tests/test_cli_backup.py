# SPDX-License-Identifier: Apache-2.0
"""`kvcore backup`, `restore` and `check --repair`: exit codes, JSON, what is said and left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Run

import kvcore


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Twenty keys, one with a history, a checkpoint, one more key behind it."""
    path = tmp_path / "store"
    with kvcore.open(path, segment_bytes=65536, max_request_bytes=16384) as db:
        for number in range(20):
            db.put(b"/a/%02d" % number, b"value %02d of the sample" % number)
        db.put(b"/a/00", b"the second value")
        db.checkpoint()
        db.put(b"/b", b"behind")
    return path


def spoil(directory: Path, wanted: bytes) -> None:
    for path in directory.glob("wal-*.seg"):
        raw = path.read_bytes()
        path.write_bytes(raw.replace(wanted, bytes((wanted[0] ^ 1,)) + wanted[1:], 1))


def test_backup_and_restore(run: Run, store: Path, tmp_path: Path) -> None:
    code, out, err = run("backup", store, tmp_path / "backup")
    assert code == 0 and "revision 23" in out and err == ""
    code, out, _ = run("backup", store, tmp_path / "again", "--copy", "--json")
    document = json.loads(out)
    assert code == 0 and (document["revision"], document["linked_bytes"]) == (23, 0)
    assert document["path"] == str(tmp_path / "again")
    code, out, err = run("restore", tmp_path / "backup", tmp_path / "restored")
    assert code == 0 and "revision 23, 21 keys" in out and err == ""
    code, out, _ = run("restore", tmp_path / "backup", tmp_path / "restored2", "--json")
    assert code == 0 and json.loads(out)["keys"] == 21
    assert run("check", tmp_path / "restored")[0] == 0


def test_what_backup_and_restore_refuse(run: Run, store: Path, tmp_path: Path) -> None:
    with kvcore.open(store):
        code, out, err = run("backup", store, tmp_path / "backup")
        assert (code, out, err.count("\n")) == (3, "", 1)
        assert "in use" in err and "db.backup(" in err
    for command in ("backup", "restore"):
        code, _, err = run(command, store, tmp_path)
        assert code == 2 and "is there already" in err
        code, _, err = run(command, tmp_path / "gone", tmp_path / "new")
        assert code == 3 and "no such directory" in err
    assert run("backup", store, tmp_path / "backup")[0] == 0
    spoil(tmp_path / "backup", b"value 07 of")
    code, out, err = run("restore", tmp_path / "backup", tmp_path / "new")
    assert (code, out, err.count("\n")) == (3, "", 1) and "wal-" in err
    code, _, err = run("restore", store, tmp_path / "new")
    assert code == 3 and "not a backup" in err
    assert not (tmp_path / "new").exists()


def test_check_says_what_repair_would_do(run: Run, store: Path) -> None:
    spoil(store, b"the second value")
    before = {path.name: path.read_bytes() for path in store.glob("wal-*")}
    code, out, _ = run("check", store)
    assert code == 1
    assert f"kvcore check --repair {store} would save 21 keys, 21 versions, revision 23" in out
    assert "lost: the value of /a/00 at revision 22; the key shows revision 2 now" in out
    code, out, _ = run("check", store, "--json")
    repair = json.loads(out)["repair"]
    assert code == 1 and (repair["path"], repair["keys"]) == ("", 21)
    assert repair["lost_values"] == [{"key": "/a/00", "mod_revision": 22, "shows": 2}]
    assert not store.with_name("store.repaired").exists()
    assert {name: (store / name).read_bytes()[:2000] for name in before} == {
        name: raw[:2000] for name, raw in before.items()}


def test_repair(run: Run, store: Path, tmp_path: Path) -> None:
    code, out, _ = run("check", store, "--repair", "--into", tmp_path / "sound", "--json")
    assert code == 0 and json.loads(out)["ok"] is True and json.loads(out)["problems"] == []
    spoil(store, b"value 07 of")
    code, out, _ = run("check", store, "--repair")
    assert code == 1 and "saved 20 keys" in out
    assert "lost: the value of /a/07 at revision 9; the key is gone" in out
    code, out, _ = run("check", tmp_path / "store.repaired", "--json")
    assert code == 0 and json.loads(out)["revision"] == 23
    code, _, err = run("check", store, "--repair")
    assert code == 2 and "is there already" in err
    code, _, err = run("check", store, "--into", tmp_path / "x")
    assert code == 2 and "--repair" in err
    code, _, err = run("check", tmp_path, "--repair")
    assert code == 3 and "not a kvcore directory" in err
    with kvcore.open(store):
        code, _, err = run("check", store, "--repair", "--into", tmp_path / "x")
        assert code == 3 and "in use" in err
    (store / "FORMAT").unlink()
    assert run("check", store, "--repair", "--into", tmp_path / "without")[0] == 1
