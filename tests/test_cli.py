# SPDX-License-Identifier: Apache-2.0
"""The command line: exit codes, JSON, one-line errors, damaged directories, Ctrl-C and SIGTERM."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Run

import kvcore
from kvcore.cli.dump import printable


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A directory with 50 keys, two of them written twice, one deleted."""
    path = tmp_path / "store"
    with kvcore.open(path) as db:
        for number in range(50):
            db.put(b"/a/%03d" % number, b"value %03d of the sample" % number)
        db.put(b"/a/000", b"second")
        db.put(b"/b\t\xff", b"\x00\xfe\n")
        db.delete(b"/a/049")
    return path


def command(*arguments: object) -> subprocess.Popen[str]:
    """The command as a process of its own, with SIGINT as a terminal would leave it."""
    return subprocess.Popen(
        [sys.executable, "-m", "kvcore", *map(str, arguments)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def damage(path: Path, wanted: bytes) -> None:
    """Changes one bit of these bytes in whichever segment has them."""
    for segment in sorted(path.glob("wal-*.seg")):
        data = segment.read_bytes()
        at = data.find(wanted)
        if at >= 0:
            with segment.open("r+b") as file:
                file.seek(at)
                file.write(bytes((wanted[0] ^ 1,)))
            return
    raise AssertionError("no segment has these bytes")


def test_check_of_a_sound_directory(run: Run, store: Path) -> None:
    code, out, _ = run("check", store)
    assert code == 0 and "sound: 50 keys" in out
    code, out, _ = run("check", store, "--json")
    assert code == 0
    assert json.loads(out) == {"ok": True, "path": str(store), "keys": 50, "versions": 53,
                               "revision": 54, "problems": []}


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_check_of_a_damaged_directory(run: Run, store: Path, options: list[str]) -> None:
    damage(store, b"value 007 of")
    code, out, err = run("check", store, *options)
    assert code == 1
    if options:
        assert json.loads(out)["ok"] is False
        assert len(json.loads(out)["problems"]) >= 1
    else:
        assert out.strip()
    assert "Traceback" not in err


def test_a_damaged_directory_cannot_be_dumped(run: Run, store: Path) -> None:
    damage(store, b"value 007 of")
    code, _, err = run("dump", store)
    assert code == 3 and err.startswith("kvcore dump: ") and err.count("\n") == 1


@pytest.mark.parametrize("name", ["check", "dump", "status"])
def test_directories_that_cannot_be_opened(run: Run, store: Path, tmp_path: Path,
                                           name: str) -> None:
    empty, file = tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.write_text("")
    for path in (tmp_path / "gone", empty, file):
        code, out, err = run(name, path)
        assert (code, out, err.count("\n")) == (3, "", 1)
    assert not (tmp_path / "gone").exists() and list(empty.iterdir()) == []
    with kvcore.open(store):
        code, _, err = run(name, store)
        assert code == 3 and err.count("\n") == 1 and "in use" in err
    (store / "FORMAT").write_text("kvcore 99\n")
    code, _, err = run(name, store)
    assert code == 3 and "newer" in err and err.count("\n") == 1


@pytest.mark.parametrize("arguments", [
    [], ["nothing"], ["check"], ["dump", "x", "--limit", "many"], ["dump", "x", "--limit", "-1"],
    ["dump", "x", "--revision", "-1"], ["demo", "--objects", "99"], ["demo", "--order", "2"],
    ["demo", "--seconds", "0"], ["demo", "--index-keys", "0"],
])
def test_usage(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and err


def test_the_demo_does_not_touch_a_directory_in_use(run: Run, store: Path, tmp_path: Path) -> None:
    assert run("demo", "--data-dir", store)[0] == 2
    (tmp_path / "file").write_text("")
    assert run("demo", "--data-dir", tmp_path / "file")[0] == 2
    assert run("check", store)[0] == 0


def test_the_demo_without_its_manifests(run: Run, tmp_path: Path) -> None:
    code, _, err = run("demo", "--manifests", tmp_path / "gone")
    assert code == 3 and "gone" in err and err.count("\n") == 1


def test_version(run: Run) -> None:
    assert run("--version")[:2] == (0, f"kvcore {kvcore.__version__}\n")
    process = command("--version")
    assert process.communicate()[0] == f"kvcore {kvcore.__version__}\n"
    assert process.returncode == 0


def test_status(run: Run, store: Path) -> None:
    code, out, _ = run("status", store, "--json")
    status = json.loads(out)
    assert code == 0 and status["revision"] == 54 and status["keys"] == 50
    code, out, _ = run("status", store)
    assert code == 0 and "compact revision" in out


def test_dump(run: Run, store: Path) -> None:
    lines = run("dump", store)[1].splitlines()
    assert len(lines) == 50
    assert lines[0] == "52\t2\t/a/000\tsecond"
    assert lines[-1] == "53\t1\t/b\\t\\xff\t\\x00\\xfe\\n"


def test_dump_options(run: Run, store: Path) -> None:
    assert run("dump", store, "--prefix", "/a/01", "--keys-only")[1].splitlines() == [
        f"{12 + n}\t1\t/a/{10 + n:03d}" for n in range(10)]
    assert len(run("dump", store, "--limit", "7")[1].splitlines()) == 7
    old = run("dump", store, "--revision", "51")[1].splitlines()
    assert len(old) == 50 and old[0] == "2\t1\t/a/000\tvalue 000 of the sample"
    code, _, err = run("dump", store, "--revision", "1000")
    assert code == 1 and "future revision" in err


def test_dump_as_json(run: Run, store: Path) -> None:
    lines = [json.loads(line) for line in run("dump", store, "--json")[1].splitlines()]
    assert len(lines) == 50
    assert lines[0] == {"key": "/a/000", "create_revision": 2, "mod_revision": 52, "version": 2,
                        "lease": 0, "value": "second"}
    assert base64.b64decode(lines[-1]["key_base64"]) == b"/b\t\xff"
    assert base64.b64decode(lines[-1]["value_base64"]) == b"\x00\xfe\n"
    only = json.loads(run("dump", store, "--json", "--keys-only", "--limit", "1")[1])
    assert "value" not in only


def test_dump_of_more_than_a_page(run: Run, tmp_path: Path) -> None:
    with kvcore.open(tmp_path / "s") as db:
        db.put_many((b"k%05d" % n, b"") for n in range(2500))
    lines = run("dump", tmp_path / "s")[1].splitlines()
    assert [line.split("\t")[2] for line in lines] == [f"k{n:05d}" for n in range(2500)]
    assert len(run("dump", tmp_path / "s", "--limit", "1500")[1].splitlines()) == 1500
    assert run("dump", tmp_path / "s", "--limit", "1000")[1].count("\n") == 1000


@pytest.mark.parametrize(("value", "text"), [
    (b"plain", "plain"), ("grün".encode(), "grün"), (b"a\\b", "a\\\\b"), (b"\x7f", "\\x7f"),
    (b"\xc3", "\\xc3"), ("\x85".encode(), "\\xc2\\x85"), (b"\r\n\t", "\\r\\n\\t"),
])
def test_printable(value: bytes, text: str) -> None:
    assert printable(value) == text


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    with kvcore.open(tmp_path / "s") as db:
        db.put_many((b"k%05d" % n, b"x" * 100) for n in range(5000))
    process = command("dump", tmp_path / "s")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    complaint = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), complaint) == (0, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_close_the_store(run: Run, tmp_path: Path, number: int, code: int) -> None:
    path = tmp_path / "s"
    process = command("demo", "--objects", "500000", "--data-dir", path)
    assert process.stderr is not None and process.stdout is not None
    line = process.stderr.readline()
    while line and not line.startswith("create, one at a time"):
        line = process.stderr.readline()
    os.kill(process.pid, number)
    out, err = process.communicate()
    assert process.returncode == code, err
    assert out.startswith("PARTIAL: the run was ") and "Traceback" not in err
    assert err.splitlines()[-1].startswith("kvcore demo: ")
    assert run("check", path)[0] == 0
    assert json.loads(run("status", path, "--json")[1])["keys"] >= 2000
