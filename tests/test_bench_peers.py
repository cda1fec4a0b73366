# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the peers compares the same work, and says what it found.

    each store ── does what the others do, beside a dict
    the whole ─── once, tiny, with the stores every Python has: kvcore, sqlite3, the floor
    what breaks ─ another content, a child that fails, a peer that is not there
"""

from __future__ import annotations

import doctest
import json
import os
import sys
import zlib
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:            # `bench` lies beside `tests`, not on the path of a test
    sys.path.append(str(ROOT))

from bench.peers import __main__ as command  # noqa: E402
from bench.peers import data, figures, maps, measure, run, store, table  # noqa: E402
from bench.peers.data import Sizes, checksum, read_keys, value, write_keys  # noqa: E402
from bench.peers.figures import FIGURES, MAP_FIGURES, Figure  # noqa: E402
from bench.peers.native import build  # noqa: E402
from bench.peers.store_floor import Floor, record  # noqa: E402

EVERYWHERE = ("kvcore", "floor", "sqlite")
READERS = ("kvcore", "sqlite")
OF_THE_FLOOR = {"put", "put_p99", "put_floor", "batch", "batch_floor", "load", "disk"}


def items(count: int) -> dict[bytes, bytes]:
    return {b"/registry/pods/ns-%d/%04d" % (i % 3, i): value(i) for i in range(count)}


def quiet(what: str, done: int, total: int) -> None:
    """No progress."""


# --- the stores -----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", READERS)
def test_a_store_does_what_a_dict_does(name: str, tmp_path: Path) -> None:
    content = items(700)
    pairs = list(content.items())
    db = store.find(name)(tmp_path, 1000)
    db.load(pairs[:500])
    db.put_batch(pairs[500:600])
    for pair in pairs[600:]:
        db.put(*pair)
    db.close()
    db = store.find(name)(tmp_path, 1000)
    ordered = sorted(pairs)
    assert list(db.scan()) == ordered
    assert db.page(ordered[200][0], 100) == ordered[200:300]
    assert db.page(ordered[-1][0], 100) == ordered[-1:]
    assert db.page(ordered[200][0] + b"\0", 2) == ordered[201:203]
    assert all(db.get(key) == found for key, found in pairs) and db.get(b"/gone") is None
    db.put(pairs[0][0], b"another")
    assert db.get(pairs[0][0]) == b"another"
    db.close()


def test_kvcore_scans_over_the_ends_of_its_pages(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.peers import store_kvcore

    monkeypatch.setattr(store_kvcore, "PAGE", 10)
    db = store_kvcore.Kvcore(tmp_path, 100)
    assert list(db.scan()) == []
    content = items(30)
    db.load(list(content.items()))
    assert list(db.scan()) == sorted(content.items())
    db.close()


def test_the_floor_writes_the_same_bytes(tmp_path: Path) -> None:
    content = list(items(300).items())
    floor = Floor(tmp_path, 300)
    floor.load(content[:200])
    floor.load(content[200:])
    assert list(floor.scan()) == sorted(content)
    floor.put_batch(content[:1])
    floor.put(*content[1])
    for find in (lambda: floor.get(b"/a"), lambda: floor.page(b"/a", 1)):
        with pytest.raises(NotImplementedError):
            find()
    floor.close()
    written = (tmp_path / "put.log").read_bytes().rstrip(b"\0")
    first, second = (record(*item) for item in content[:2])
    start = -(-len(first) // 64) * 64
    assert written == first.ljust(start, b"\0") + second


def test_a_store_that_forgets_is_found(tmp_path: Path) -> None:
    class Forgetful(Floor):
        reads = True

        def get(self, key: bytes) -> bytes | None:
            return None

    write_keys(tmp_path / "keys", Sizes.of(100), 1)
    job = measure.Job("floor", "put", str(tmp_path), str(tmp_path / "keys"), Sizes.of(100), 1)
    for question in (measure.put, measure.batch, measure.threads, measure.first_get):
        with pytest.raises(measure.Wrong):
            question(lambda: Forgetful(tmp_path, 100), job)


# --- the data -------------------------------------------------------------------------------------

def test_put_questions_put_what_is_not_there(tmp_path: Path) -> None:
    sizes = Sizes.of(500)
    write_keys(tmp_path / "keys", sizes, 7)
    keys = read_keys(tmp_path / "keys", 0, sizes.objects + sizes.extra)
    assert len(set(keys)) == len(keys) == 500 + sizes.extra
    assert read_keys(tmp_path / "keys", 498, 4) == keys[498:502]


def test_values_are_half_compressible() -> None:
    lengths = [len(zlib.compress(value(i))) for i in range(20)]
    assert all(500 < length < 650 for length in lengths)
    assert len({value(i) for i in range(1000)}) == 1000


def test_memory_of_this_process(tmp_path: Path) -> None:
    path = tmp_path / "smaps"
    path.write_text("0-1 ---p 0 00:00 0 [rollup]\nRss: 12 kB\nAnonymous:  8 kB\n")
    assert measure.memory_of_this_process(str(path)) == {"anonymous": 8192, "resident": 12288}
    assert measure.memory_of_this_process(str(tmp_path / "gone")) == {}


def test_holes_weigh_nothing(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "full").write_bytes(os.urandom(1 << 16))
    assert run.weigh(str(tmp_path)) < 1 << 20


# --- the whole ------------------------------------------------------------------------------------

def test_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results" / "peers.json"
    assert command.main(["--objects", "200", "--repeat", "1", "--only", ",".join(EVERYWHERE),
                         "--directory", str(tmp_path), "--json", str(file)]) == 0
    captured = capsys.readouterr()
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    result = json.loads(file.read_text())
    assert set(result["peers"]) == set(EVERYWHERE) and result["absent"] == {}
    assert result["compared"] == 3 + 3       # check: three stores; get, page, open: the second
    for figure in FIGURES:
        rows = result["summary"]["stores"][figure.name]
        answering = {"kvcore", "sqlite"} | (
            {"floor"} if figure.name in OF_THE_FLOOR else set())
        assert set(rows) == answering, figure.name
        assert rows["kvcore"]["ratios"] in ([1.0], [None])
        for name, row in rows.items():
            assert len(result["stores"][figure.name][name]) == 1
            assert row["min"] <= row["median"] <= row["max"]
        assert f"{figure.title} ({figure.unit})" in captured.out
    assert result["maps"] == {} and "making the keys" in captured.err
    assert result["stores"]["disk"]["sqlite"][0] >= 1024

    assert command.main(["--from", str(file)]) == 0
    assert capsys.readouterr().out == captured.out
    assert command.main(["--from", str(file), "--markdown"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0][2:] for row in rows[2:]] == table.questions()
    assert all(row.count("|") == 7 for row in rows)


def test_the_index_alone(tmp_path: Path) -> None:
    sizes = Sizes.of(1000)
    write_keys(tmp_path / "keys", sizes, 1)
    answers = [maps.measure(order, tmp_path / "keys", 1000) for order in (32, 64)]
    ordered = sorted(read_keys(tmp_path / "keys", 0, 1000))
    assert [a["checksum"] for a in answers] == [zlib.crc32(b"\n".join([*ordered, b""]))] * 2
    assert answers[0]["sum"] == answers[1]["sum"] > 0
    assert all(answer[figure.name] > 0 for answer in answers for figure in MAP_FIGURES)


# --- what breaks ----------------------------------------------------------------------------------

def fails(answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
          capsys: pytest.CaptureFixture[str]) -> str:
    """What is said about a run whose children say this."""
    def child(arguments: Any, expected: int) -> dict[str, Any]:
        job = json.loads(arguments[-1])
        found: dict[str, Any] = {"figures": {}, "digest": answers.get(job["store"])}
        return found

    monkeypatch.setattr(run, "_child", child)
    assert command.main(["--objects", "100", "--only", "kvcore,sqlite", "--directory",
                         str(tmp_path)]) == 1
    return capsys.readouterr().err


def test_another_content_ends_the_run(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    said = fails({"kvcore": 1, "sqlite": 2}, monkeypatch, tmp_path, capsys)
    assert "sqlite differs from kvcore" in said


def test_the_content_is_what_was_put(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    said = fails({"kvcore": 3, "sqlite": 3}, monkeypatch, tmp_path, capsys)
    assert "check: kvcore differs from what was put" in said
    write_keys(tmp_path / "keys", Sizes.of(100), 1)
    content = [(key, value(i)) for i, key in enumerate(read_keys(tmp_path / "keys", 0, 100))]
    assert run.expected(tmp_path / "keys", 100) == checksum(sorted(content))


def test_a_child_that_fails_ends_the_run(tmp_path: Path) -> None:
    job = measure.Job("kvcore", "get", str(tmp_path), str(tmp_path / "gone"), Sizes.of(100), 1)
    with pytest.raises(run.ChildFailed, match="FileNotFoundError"):
        run._child([sys.executable, "-m", "bench.peers.child", json.dumps(asdict(job))], 0)
    with pytest.raises(run.ChildFailed, match="ended with 3: it said nothing"):
        run._child([sys.executable, "-c", "raise SystemExit(3)"], 0)


def test_an_absent_peer_is_named(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(store.STORES, "lmdb", ("store_nowhere", "Lmdb"))
    monkeypatch.setattr(run, "QUESTIONS", {})
    result = run.run(run.Settings(200, only=("lmdb",), directory=str(tmp_path)), quiet)
    assert list(result.absent) == ["lmdb"] and "store_nowhere" in result.absent["lmdb"]
    assert f"ABSENT: lmdb: {result.absent['lmdb']}" in table.text(asdict(result))


def test_an_absent_toolchain_is_named(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "OUT", tmp_path)
    monkeypatch.setattr(maps.build, "__defaults__", (tmp_path,))
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("PATH", os.pathsep.join(
        folder for folder in os.environ["PATH"].split(os.pathsep)
        if not (Path(folder) / "go").exists()))
    found, absent = maps.maps()
    assert [one.name for one in found] == ["order32", "order64"]
    assert absent == {"absl::btree_map": "false: exit code 1 (Abseil's headers: libabsl-dev)",
                      "google/btree, degree 32, pointer items": "go is not installed"}


@pytest.mark.parametrize("arguments", [["--only", "redis"], ["--objects", "10"],
                                       ["--repeat", "0"]])
def test_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        command.main(arguments)
    assert raised.value.code == 2


@pytest.mark.parametrize("module", [data, figures, run, table])
def test_examples(module: ModuleType) -> None:
    tried = doctest.testmod(module)
    assert tried.attempted > 0 and tried.failed == 0


# --- the table ------------------------------------------------------------------------------------

def test_medians_and_ratios() -> None:
    result = {"peers": {"sqlite": {}, "kvcore": {}}, "stores": {
        "get": {"kvcore": [9.0, 1.0, 2.0], "sqlite": [6.0, 8.0, 8.0]},
        "anonymous": {"kvcore": [0.0], "sqlite": [8.0]},
        "threads": {"kvcore": [300.0], "sqlite": [100.0]}}}
    found = table.summary(result, "stores")
    assert found["get"] == {
        "sqlite": {"median": 8.0, "min": 6.0, "max": 8.0, "ratios": [4.0]},
        "kvcore": {"median": 2.0, "min": 1.0, "max": 9.0, "ratios": [1.0]}}
    assert found["threads"]["sqlite"]["ratios"] == [3.0] and found["page"] == {}
    assert found["anonymous"]["sqlite"]["ratios"] == [None]
    result = {"peers": {"order32": {}, "order64": {}, "absl_btree": {}}, "maps": {
        "bytes": {"order32": [50.0], "order64": [25.0], "absl_btree": [100.0]}}}
    assert table.summary(result, "maps")["bytes"]["absl_btree"]["ratios"] == [2.0, 4.0]


def test_every_figure_has_an_estimate_and_a_limit() -> None:
    every: tuple[Figure, ...] = (*FIGURES, *MAP_FIGURES)
    assert [figure.name for figure in every if not (figure.estimate and figure.limit)] == []


def test_the_document_answers_every_question() -> None:
    lines = (ROOT / "docs" / "numbers.md").read_text().splitlines()
    start = lines.index(table.HEAD[0])
    end = next(at for at in range(start, len(lines)) if lines[at].startswith("## "))
    rows = [line for line in lines[start:end] if line.startswith("| ")]
    assert [row.split(" | ")[0][2:] for row in rows[1:]] == table.questions()
    estimates = [row.split(" | ")[1] for row in rows[1:]]
    assert estimates == [figure.estimate for figure in (*FIGURES, *MAP_FIGURES)]
