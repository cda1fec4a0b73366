# SPDX-License-Identifier: Apache-2.0
"""One run: repetition after repetition, question after question, each going round all stores.

    for repetition:                      fresh directories
        for question:                    load, open, (weigh the directories), check, get, ...
            for store, from another one each time:    one child, one answer
        for map: one program

So what disturbs the machine for a while disturbs all alike; dirty pages are written back before a
child starts, so that none pays for the one before.

Invariants: answers to the same question that have a checksum have the same one, or the run ends;
the whole content has that of what was put.

May not know: what a store is made of.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.peers.data import Sizes, checksum, read_keys, value, write_keys
from bench.peers.maps import Map, maps
from bench.peers.measure import QUESTIONS, Answer, Job
from bench.peers.store import STORES, Absent, Store, find

from kvcore.demo.run import temporary_base
from kvcore.demo.system import filesystem

PATIENCE_SECONDS = 3600.0
SETTLED_OBJECTS = 10_000     # below, nothing is measured that dirty pages could disturb
MAPS = "maps"                # the name of all maps for --only


@dataclass(frozen=True)
class Settings:
    """What to run."""

    objects: int = 2000
    repeat: int = 1
    only: tuple[str, ...] = ()
    """Names of STORES, and "maps"; none: all."""
    directory: str | None = None
    seed: int = 1


@dataclass
class Result:
    """Everything that was found; samples by figure and name, one a repetition."""

    machine: dict[str, Any]
    sizes: dict[str, Any]
    repeat: int
    peers: dict[str, dict[str, str]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    stores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    maps: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    compared: int = 0
    """Answers that had the checksum another had, or what was put."""
    witnesses: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Question -> who answered first, and the checksum."""


class ChildFailed(Exception):
    """A child ended otherwise than it should; says how."""


class Disagreement(Exception):
    """Two stores returned different data for the same question."""


Tell = Callable[[str, int, int], None]


def run(settings: Settings, tell: Tell) -> Result:
    """Measures everything; the directories are removed also when it fails."""
    sizes = Sizes.of(settings.objects)
    base = settings.directory or temporary_base()
    with tempfile.TemporaryDirectory(prefix="kvcore-peers-", dir=base) as place:
        result = Result(machine(place), sizes.as_dict(), settings.repeat)
        kinds = _stores(settings, result)
        programs = _maps(settings, result)
        keys = Path(place) / "keys"
        tell("making the keys", 0, 1)
        write_keys(keys, sizes, settings.seed)
        compare(result, "check", "what was put", expected(keys, sizes.objects))
        total = settings.repeat * (len(programs) + sum(
            kind.reads or not needs for kind in kinds.values() for _, needs in QUESTIONS.values()))
        done = 0
        for repetition in range(settings.repeat):
            with tempfile.TemporaryDirectory(dir=place) as path:
                for name in kinds:
                    (Path(path) / name).mkdir()
                for job in _jobs(kinds, repetition, path, keys, sizes, settings.seed):
                    tell(f"{job.question}: {job.store}", done, total)
                    _ask(job, result)
                    done += 1
            for one in rotated(programs, repetition):
                tell(one.title, done, total)
                _ask_map(one, keys, sizes.objects, result)
                done += 1
        tell("done", total, total)
    return result


def rotated(names: Iterable[Any], by: int) -> list[Any]:
    """The same round, begun elsewhere.

    >>> rotated("abc", 1), rotated("abc", 3)
    (['b', 'c', 'a'], ['a', 'b', 'c'])
    """
    found = list(names)
    by %= max(len(found), 1)
    return found[by:] + found[:by]


def _stores(settings: Settings, result: Result) -> dict[str, type[Store]]:
    kinds = {}
    for name in STORES:
        if settings.only and name not in settings.only:
            continue
        try:
            kind = find(name)
        except Absent as error:
            result.absent[name] = str(error)
            continue
        kinds[name] = kind
        result.peers[name] = {"title": kind.title, "version": kind.version(),
                              "settings": kind.settings}
    return kinds


def _maps(settings: Settings, result: Result) -> list[Map]:
    if settings.only and MAPS not in settings.only:
        return []
    found, absent = maps()
    result.absent.update(absent)
    for one in found:
        result.peers[one.name] = {"title": one.title, "version": "", "settings": ""}
    return found


def _jobs(kinds: Iterable[str], repetition: int, path: str, keys: Path, sizes: Sizes,
          seed: int) -> Iterable[Job]:
    """In the order of the questions; a generator, as the directories are weighed in between."""
    for number, (question, (_, needs_reads)) in enumerate(QUESTIONS.items()):
        for name in rotated(kinds, repetition + number):
            if find(name).reads or not needs_reads:
                yield Job(name, question, str(Path(path) / name), str(keys), sizes,
                          seed * 1000 + repetition)


def _ask(job: Job, result: Result) -> None:
    """One child; its figures, and those of its directory when it was the first to close it."""
    if job.sizes.objects >= SETTLED_OBJECTS:
        os.sync()
    answer = Answer(**_child([sys.executable, "-m", "bench.peers.child", json.dumps(asdict(job))],
                             -signal.SIGKILL if job.question == "load" else 0))
    first_close = "open" if find(job.store).reads else "check"
    if job.question == first_close:
        answer.figures["disk"] = weigh(job.directory) / job.sizes.objects
    for figure, number in answer.figures.items():
        result.stores.setdefault(figure, {}).setdefault(job.store, []).append(number)
    if answer.digest is not None:
        question = job.question if job.question == "check" else f"{job.question} {job.seed}"
        compare(result, question, job.store, answer.digest)


def expected(keys: Path, objects: int) -> int:
    """The checksum of everything that is loaded, in the order of the keys."""
    found = read_keys(keys, 0, objects)
    order = sorted(range(objects), key=found.__getitem__)
    return checksum((found[i], value(i)) for i in order)


def compare(result: Result, question: str, name: str, digest: int) -> None:
    """Records a checksum; raises Disagreement when another store's was a different one."""
    other, expected = result.witnesses.setdefault(question, (name, digest))
    if digest != expected:
        raise Disagreement(f"{question}: {name} differs from {other}")
    result.compared += other != name


def _ask_map(one: Map, keys: Path, objects: int, result: Result) -> None:
    answer = _child([*one.command, str(keys), str(objects)], 0)
    result.peers[one.name]["version"] = answer.pop("version")
    for witness in ("checksum", "sum"):
        compare(result, witness, one.title, answer.pop(witness))
    for figure, number in answer.items():
        result.maps.setdefault(figure, {}).setdefault(one.name, []).append(number)


def _child(command: Sequence[str], expected: int) -> dict[str, Any]:
    """What it says on its last line."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(
        os.path.abspath(path) for path in sys.path if path and os.path.isdir(path))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment,
                          timeout=PATIENCE_SECONDS)
    if done.returncode != expected:
        complaint = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise ChildFailed(f"{' '.join(command)}\nended with {done.returncode}: {complaint[0]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def weigh(directory: str) -> int:
    """Bytes that the file system gave to it: holes of sparse files do not count."""
    return sum(path.stat().st_blocks * 512 for path in Path(directory).rglob("*"))


def machine(path: str) -> dict[str, Any]:
    """What it runs on."""
    info = {"processor": platform.processor() or platform.machine(), "cpus": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "system": f"{platform.system()} {platform.release()}", "filesystem": filesystem(path),
            "python": platform.python_version()}
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        if line.startswith("model name"):
            info["processor"] = line.split(":", 1)[1].strip()
            break
    return info
