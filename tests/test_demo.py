# SPDX-License-Identifier: Apache-2.0
"""The main job at a tiny size: it succeeds, it says what it measured, and its checks can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import kvcore
from kvcore.cli import main
from kvcore.demo import crash, loader, orders, reading, updating
from kvcore.demo.creating import create_op
from kvcore.demo.measure import Claim, Report, Samples, number
from kvcore.demo.run import Settings, run
from kvcore.demo.system import anonymous_memory, filesystem
from kvcore.demo.workload import MIX, Workload, build
from kvcore.manifests import decode, encode

SMALL = ["demo", "--objects", "400", "--seconds", "0.2"]


# --- the workload ---------------------------------------------------------------------------------

def test_objects_are_whole_and_their_keys_distinct() -> None:
    workload, found = build([], nodes=20, namespaces=7)
    keys = set()
    for index in range(5000):
        key, value = workload.item(index)
        obj = decode(value)
        assert encode(obj) == value
        parts = key.decode().split("/")
        assert obj["metadata"]["name"] == parts[-1]
        assert obj["metadata"].get("namespace") in {None, parts[-2]}
        assert workload.key(index) == key
        keys.add(key)
    assert len(keys) == 5000 and found.problems == []
    uids = {decode(workload.item(index)[1])["metadata"]["uid"] for index in range(1000)}
    assert len(uids) == 1000


def test_the_mix_is_exact() -> None:
    workload, _ = build([], nodes=20)
    assert sum(MIX.values()) == 100
    count = Counter(workload.resource(index) for index in range(10_000))
    assert count["pods"] == 5500 and count["nodes"] == 20 and count["leases"] == 280
    prefixes = Counter(workload.key(index).startswith(workload.pods_prefix)
                       for index in range(10_000))
    assert prefixes[True] == 5500


def test_objects_are_the_same_everywhere_but_for_seed_and_turn() -> None:
    one, _ = build([])
    two, _ = build([])
    other, _ = build([], seed=2)
    assert [one.item(i, 3) for i in range(200)] == [two.item(i, 3) for i in range(200)]
    assert one.key(5) != other.key(5)
    assert one.item(5, 1)[0] == one.item(5, 2)[0] and one.item(5, 1)[1] != one.item(5, 2)[1]
    pods = [i for i in range(300) if one.resource(i) == "pods"]
    for index in pods:
        assert one.key(index).split(b"/")[3] == one.pod_namespace(index)
    assert all(one.pod_namespace(i) is None for i in range(300) if i not in pods)


def test_kinds_without_a_manifest_come_from_the_examples(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {note: 'of 100 %'}\n"
                    "---\nkind: [\n")
    workload, found = build([str(path)])
    assert len(found.problems) == 1
    for index in range(200):
        obj: Any = decode(workload.item(index)[1])
        if workload.resource(index) == "pods":
            assert obj["spec"]["note"] == "of 100 %"


def test_large_manifests_are_rare_and_too_large_ones_refused(tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {a: %s}\n---\n"
    path = tmp_path / "a.yaml"
    path.write_text(text % ("s", "x") + text % ("l", "x" * 300_000) + text % ("h", "x" * 1_100_000))
    workload, found = build([str(path)])
    assert ["larger than a store takes" in p.reason for p in found.problems] == [True]
    sizes = [len(workload.item(i)[1]) for i in range(20_000)
             if workload.resource(i) == "configmaps"]
    assert sum(sizes) / len(sizes) < 3000


# --- the parts ------------------------------------------------------------------------------------

def test_quantiles() -> None:
    samples = Samples()
    for value in range(1, 101):
        samples.add(value)
    assert [samples.quantile(q) for q in (0.0, 0.01, 0.5, 0.99, 1.0)] == pytest.approx(
        [1, 1, 50, 99, 100], rel=1 / 256)
    report = Report()
    report.time("empty", "us", Samples())
    report.time("some", "us", samples, Claim("p99 1 s", 1e6, of="p99"))
    assert [f.name for f in report.figures] == ["some"] and report.ok
    assert report.figures[0].article == "p99 1 s" and report.figures[0].judged == "better"
    report.equal("sum", 1, 2)
    assert not report.ok and report.checks[0].detail == "found 1, expected 2"


def test_numbers() -> None:
    assert [number(v) for v in (None, 0.0, 4.0, 0.12345, 47.26, 123.4, 12345.6)] == [
        "", "0", "4", "0.123", "47.3", "123", "12,346"]


def test_filesystem(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/a / ext4 rw 0 0\n/dev/b {tmp_path} xfs rw 0 0\nshort\n")
    assert filesystem(str(tmp_path), str(mounts)) == "xfs"
    assert filesystem("/", str(mounts)) == "ext4"
    assert filesystem("/", str(tmp_path / "gone")) == ""


def test_memory(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("VmRSS:\t 4096 kB\nRssAnon:\t  2048 kB\n")
    assert anonymous_memory(str(status)) == 2.0
    assert anonymous_memory(str(tmp_path / "gone")) is None


@pytest.mark.parametrize(("claim", "measured", "expected"), [
    (Claim("140 ms", 140), 70, ("better", "2 × better")),
    (Claim("140 ms", 140), 280, ("worse", "2 × worse")),
    (Claim("140 ms", 140), 138, ("same", "as said")),
    (Claim("140 ms", 140), 0, ("better", "better")),
    (Claim("12,000/s", 12_000, "more"), 36_000, ("better", "3 × better")),
    (Claim("12,000/s", 12_000, "more"), 0, ("worse", "worse")),
    (Claim("100-500 ms", 100, most=500), 300, ("same", "as said")),
    (Claim("100-500 ms", 100, most=500), 50, ("better", "2 × better")),
    (Claim("47 ms", 47, unlike="400 keys"), 1, ("unlike", "not comparable: 400 keys")),
])
def test_verdicts(claim: Claim, measured: float, expected: tuple[str, str]) -> None:
    assert claim.verdict(measured) == expected


def test_the_child_acknowledges_what_it_wrote(tmp_path: Path) -> None:
    job = {"path": str(tmp_path / "s"), "manifests": [], "seed": 1, "nodes": 10, "namespaces": 5,
           "order": 32, "first": 100, "last": 700}
    child = subprocess.run([sys.executable, "-m", loader.__name__, json.dumps(job)],
                           stdout=subprocess.PIPE, check=True)
    lines = [line.split() for line in child.stdout.splitlines()]
    assert [int(index) for index, _ in lines] == list(range(100, 700))
    workload, _ = build([], nodes=10, namespaces=5)
    with kvcore.open(tmp_path / "s") as db:
        for index, revision in lines:
            kv = db.get(workload.key(int(index)))
            assert kv is not None and kv.mod_revision == int(revision)


def test_create_is_put_if_absent() -> None:
    with kvcore.open() as db:
        assert db.submit(create_op(b"k", b"1")).result().succeeded
        assert not db.submit(create_op(b"k", b"2")).result().succeeded
        kv = db.get(b"k")
        assert kv is not None and kv.value == b"1"


# --- the whole ------------------------------------------------------------------------------------

def test_the_demo_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*SMALL, "--json", "--data-dir", str(tmp_path / "s")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True and report["setting"]["objects"] == 400
    assert all(check["ok"] for check in report["checks"]) and len(report["checks"]) >= 20
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert {"12,000/s", "p99 140 ms", "47 ms", "68 ms", "~4"} <= {
        figure["article"] for figure in figures.values()}
    one = figures["create, one caller, durable"]
    assert 0 < one["low"] <= one["median"] <= one["high"] <= one["p99"]
    assert figures["pod created to bound"]["article"] == "320 ms"
    assert {"admission: ServiceAccount", "create path, one caller: store",
            "pods created over HTTPS, 16 connections"} <= set(figures)
    assert [order["order"] for order in report["orders"]] == [16, 32, 48, 64]
    assert all(order["keys"] == 400 and order["depth"] >= 2 and 0.4 < order["fill"] <= 1
               and order["figures"]["page"]["samples"] == 3000 for order in report["orders"])
    assert report["complete"] is True and report["stopped"] == ""
    assert report["setting"]["command"].startswith("kvcore demo --objects 400 --data-dir ")
    assert sum(phase["seconds"] for phase in report["phases"]) <= report["setting"]["seconds"]
    assert main(["check", str(tmp_path / "s")]) == 0


def test_the_demo_as_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    manifest = tmp_path / "m.yaml"
    manifest.write_text("kind: Nothing\n")
    assert main([*SMALL, "--manifests", str(manifest)]) == 0
    captured = capsys.readouterr()
    assert "checks held; 1 document could not be used." in captured.out
    lines = {line.split("  ")[1].strip(): line.split() for line in captured.out.splitlines()
             if line.startswith("  ")}
    assert lines["order"][1:] == ["16", "32", "48", "64"] and len(lines["depth"]) == 5
    assert lines["the article's range"][-4:] == ["68", "ms", "47", "ms"]
    assert f"manifest not used: {manifest}:1: has no apiVersion" in captured.err
    assert [p.name for p in tmp_path.iterdir()] == ["m.yaml"]


def _wrong_value(workload: Workload, index: int, turn: int = 0) -> tuple[bytes, bytes]:
    return workload.key(index), b"another value"


def _lost(*_: Any) -> tuple[dict[int, int], str]:
    return {400: 10**6}, ""


@pytest.mark.parametrize(("module", "attribute", "substitute", "check"), [
    (reading, "_belongs", lambda *_: False, "pages out of order"),
    (updating, "_differs", lambda *_: True, "updated objects read with another value"),
    (crash, "_load_and_kill", _lost, "acknowledged writes lost"),
    (crash, "_load_and_kill", lambda *_: ({}, "it said too little"), "the child was killed"),
    (kvcore.Store, "check", lambda *_: ["damage"], "problems found by check()"),
])
def test_a_failed_check_fails_the_demo(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
        module: object, attribute: str, substitute: object, check: str) -> None:
    monkeypatch.setattr(module, attribute, substitute)
    assert main([*SMALL, "--data-dir", str(tmp_path / "s")]) == 1
    out = capsys.readouterr().out
    assert "CHECK FAILED" in out and check in out


def test_a_child_that_ends_by_itself_fails_the_demo(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path) -> None:
    monkeypatch.setattr(crash, "BEYOND", 0)
    assert main([*SMALL, "--data-dir", str(tmp_path / "s")]) == 1
    assert "it ended by itself with code 0" in capsys.readouterr().out


def test_a_full_disk_is_refused_early(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["demo", "--objects", str(10**15), "--data-dir", str(tmp_path / "s")]) == 3
    assert "MiB are needed" in capsys.readouterr().err


def test_get_many_values_are_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    workload, _ = build([])
    monkeypatch.setattr(Workload, "item", _wrong_value)
    report = Report()
    with kvcore.open() as db:
        db.put(workload.key(3), b"what was written")

        class Quiet:
            def phase(self, title: str, total: int) -> Any:
                return _NoBar()

        reading._gets(db, workload, [3, 4], report, Quiet())
    assert report.checks[0].detail == "found 2, expected 0"


class _NoBar:
    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, count: int) -> None:
        """Nothing is shown."""


def test_wrong_answers_of_an_index_are_counted() -> None:
    keys = [b"k%04d" % (number * 7919 % 1200) for number in range(1200)]
    ordered, other = sorted(keys), sorted(keys)
    other[599] = b"another"
    index = orders._Index(16)

    class Quiet:
        def phase(self, title: str, total: int) -> Any:
            return _NoBar()

    index.build(keys, Quiet())
    index.everything(1200)
    for at in (0, 100, 1199):
        index.page(ordered, at)
        index.count(ordered, at, 600)
        index.get(keys, at)
    assert index.wrong == 0
    index.page(other, 100)                   # its last key
    index.get(ordered, 1)                    # key 1 of the sorted was inserted at another revision
    assert index.wrong == 2
    index.tree.delete(ordered[300], 2000)
    index.count(ordered, 100, 600)
    index.everything(1200)
    assert index.wrong == 2 + 1 + 1 + orders.REVISIONS
    result = index.result(1200)
    assert result.keys == 1200 and result.figures["page"].samples == 4
    assert result.figures["everything"].verdict == ""


# --- interrupted ----------------------------------------------------------------------------------

class _Interrupting:
    """Presses Ctrl-C in a phase: as it begins, or when something is done in it."""

    def __init__(self, phase: str, *, at_once: bool) -> None:
        self._phase, self._at_once = phase, at_once

    @contextmanager
    def phase(self, title: str, total: int) -> Iterator[Any]:
        if title == self._phase and self._at_once:
            raise KeyboardInterrupt
        yield self if title == self._phase else _NoBar()

    def advance(self, count: int) -> None:
        raise KeyboardInterrupt


AFTER_THE_KILL = {"check every acknowledged write", "insert at order 32"}


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("phase", [
    "the disk's floor", "create, many in flight", "page through all pods",
    "1,000 watchers, 12,000 updates a second", "compact", "kill a loading child",
    "check every acknowledged write", "insert at order 32",
])
def test_ctrl_c_anywhere_leaves_a_clean_store(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, at_once: bool) -> None:
    children = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            children.append(self)

    monkeypatch.setattr(crash.subprocess, "Popen", Recorded)
    path, report = tmp_path / "s", Report()
    settings = Settings(objects=400, seconds=0.05, data_dir=str(path))
    with pytest.raises(KeyboardInterrupt):
        run(settings, _Interrupting(phase, at_once=at_once), report)
    assert not report.complete and report.ok
    assert phase not in [done.title for done in report.phases]
    assert report.stopped.startswith(f"in {phase!r}, at ")
    assert all(child.returncode is not None for child in children)   # ended and waited for
    assert len(children) == (phase in {"kill a loading child", *AFTER_THE_KILL} and not (
        at_once and phase == "kill a loading child"))
    if phase != "the disk's floor":
        assert main(["check", str(path)]) == 0
    assert list(path.glob("tmp*")) == []


def test_ctrl_c_removes_the_temporary_directory(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run(Settings(objects=400), _Interrupting("get", at_once=False), Report())
    assert list(tmp_path.iterdir()) == []
