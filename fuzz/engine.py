# SPDX-License-Identifier: Apache-2.0
"""A coverage-guided fuzzer: inputs that reach something new are kept, and changed further.

    corpus ─ pick ─► mutate ─► target.one(data) ─► new edges? ─► corpus
                        └ operands of compares that failed, put where the other operand stands
    a child runs it, with the input under way in shared memory; its death, or an exception, is a
    finding: the input is kept, and the child begins again

    python fuzz/engine.py log --seconds 60           (make fuzz builds what it needs first)

Native modules are instrumented by gcc (KVCORE_FUZZ=1 in setup.py); of targets in Python the lines
of their modules are counted.  Findings lie in build/fuzz/findings, the corpus that grows in
build/fuzz/corpus; what is in fuzz/corpus is a small part of it that reaches the same (--minimise).
Exit codes: 0 nothing was found, 1 something was, 2 usage.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "fuzz"
TARGETS = ("log", "checkpoint", "commands", "transactions", "leases", "manifests", "transfer")
MOST = 1 << 14               # bytes of an input
HANG = 120                   # seconds, on a machine that does other things too
INTERESTING = (0, 1, 2, 3, 15, 16, 63, 64, 65, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000,
               0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63,
               (1 << 64) - 1)


class Coverage:
    """The counters of coverage.c, which is preloaded."""

    def __init__(self, target: ModuleType) -> None:
        self.lib = ctypes.CDLL(None)
        self.lib.fuzz_line.argtypes = [ctypes.c_uint64]
        self.compares = (ctypes.c_uint64 * 3 * 1024).in_dll(self.lib, "fuzz_compares")
        self.compared = ctypes.c_uint32.in_dll(self.lib, "fuzz_compared")
        self.lines: set[str] = set(getattr(target, "LINES_OF", ()))

    def run(self, target: ModuleType, data: bytes) -> int:
        """2: a new edge; 1: a new count of one; 0: nothing new."""
        self.lib.fuzz_begin()
        if self.lines:
            sys.settrace(self._call)
        try:
            target.one(data)
        finally:
            if self.lines:
                sys.settrace(None)
            news = int(self.lib.fuzz_end())
        return news

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._line if frame.f_code.co_filename in self.lines else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        self.lib.fuzz_line(frame.f_lineno * 7919 + hash(frame.f_code.co_name) % 1009)
        return self._line

    def edges(self) -> int:
        return int(self.lib.fuzz_edges())

    def pairs(self) -> list[tuple[int, int, int]]:
        """Operands that differed in the last run, and their size."""
        found = min(self.compared.value, 1024)
        return [(row[0], row[1], row[2] & 0xFFFFFFFF) for row in self.compares[:found]]


class Mutator:
    """Changes inputs."""

    def __init__(self, rng: random.Random, tokens: tuple[bytes, ...]) -> None:
        self.rng = rng
        self.tokens = tokens

    def mutate(self, data: bytes, other: bytes, pairs: list[tuple[int, int, int]]) -> bytes:
        """A few changes at once."""
        made = bytearray(data)
        for _ in range(self.rng.choice((1, 1, 1, 2, 2, 3, 4, 8))):
            self._change(made, other, pairs)
        return bytes(made[:MOST])

    def _change(self, made: bytearray, other: bytes, pairs: list[tuple[int, int, int]]) -> None:
        rng = self.rng
        at = rng.randrange(len(made) + 1)
        stop = min(len(made), at + rng.choice((1, 2, 4, 8, rng.randint(1, 64))))
        what = rng.randrange(12)
        if what == 0 and made:
            made[at % len(made)] ^= 1 << rng.randrange(8)
        elif what == 1 and made:
            made[at % len(made)] = rng.randrange(256)
        elif what == 2:
            number, size = rng.choice(INTERESTING), rng.choice((1, 2, 4, 8))
            order = rng.choice(("little", "big"))
            made[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, order)  # type: ignore
        elif what == 3 and made:
            made[at % len(made)] = (made[at % len(made)] + rng.randint(-4, 4)) % 256
        elif what == 4:
            del made[at:stop]
        elif what == 5:
            made[at:at] = made[rng.randrange(len(made) + 1):][: stop - at + 1]
        elif what == 6:
            made[at:at] = rng.randbytes(rng.randint(1, 9))
        elif what == 7 and other:
            begin = rng.randrange(len(other))
            made[at : at + rng.choice((0, 4, 16))] = other[begin : begin + rng.randint(1, 128)]
        elif what == 8 and self.tokens:
            made[at : at + rng.choice((0, 0, 4))] = rng.choice(self.tokens)
        elif what == 9 and made:
            made[at:stop] = bytes([rng.randrange(256)]) * (stop - at)
        elif pairs:
            self._answer(made, *rng.choice(pairs))

    def _answer(self, made: bytearray, a: int, b: int, size: int) -> None:
        """Where one operand of a compare stands, the other one is put."""
        for order in self.rng.sample(("little", "big"), 2):
            for old, new in ((a, b), (b, a)):
                old_bytes = old.to_bytes(8, "little")[:size]
                new_bytes = new.to_bytes(8, "little")[:size]
                if order == "big":
                    old_bytes, new_bytes = old_bytes[::-1], new_bytes[::-1]
                at = made.find(old_bytes, self.rng.randrange(len(made) + 1))
                at = made.find(old_bytes) if at < 0 else at
                if at >= 0:
                    made[at : at + size] = new_bytes
                    return


class Shared:
    """What the parent reads when its child is dead: executions, when, and the input under way."""

    def __init__(self) -> None:
        self.room = mmap.mmap(-1, MOST + 64)

    def begin(self, data: bytes, executions: int) -> None:
        self.room[:24] = struct.pack("<QdQ", executions, time.monotonic(), len(data))
        self.room[32 : 32 + len(data)] = data

    def tell(self, edges: int) -> None:
        self.room[24:32] = struct.pack("<Q", edges)

    def read(self) -> tuple[int, float, bytes, int]:
        executions, when, size, edges = struct.unpack("<QdQQ", self.room[:32])
        return executions, when, self.room[32 : 32 + size], edges


def corpus_of(name: str) -> Path:
    return HERE / "corpus" / name


def inputs(*folders: Path) -> list[bytes]:
    """The contents of every file, each once, the short ones first."""
    found = {path.read_bytes() for folder in folders if folder.is_dir()
             for path in folder.iterdir() if path.is_file()}
    return sorted(found, key=lambda data: (len(data), data))


def keep(folder: Path, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data)
    return path


def child(target: ModuleType, name: str, seed: int, until: float, shared: Shared,
          executions: int) -> int:
    """Runs until the time is over or something is found."""
    rng, coverage, grown = random.Random(seed), Coverage(target), BUILD / "corpus" / name
    mutator = Mutator(rng, getattr(target, "TOKENS", ()))
    known: list[bytes] = []
    fresh = [*inputs(corpus_of(name), grown), *target.seeds()]
    rng.shuffle(fresh)
    pairs: list[tuple[int, int, int]] = []
    while fresh or time.monotonic() < until:
        base = known[min(int(rng.expovariate(3 / len(known))), len(known) - 1)] if known else b""
        data = fresh.pop() if fresh else mutator.mutate(base, rng.choice(known or [b""]), pairs)
        executions += 1
        shared.begin(data, executions)
        try:
            news = coverage.run(target, data)
        except Exception:
            path = keep(BUILD / "findings" / name, data)
            path.with_suffix(".txt").write_text(traceback.format_exc())
            traceback.print_exc()
            return 1
        if news:
            known.insert(0, data)            # the newest are tried most
            keep(grown, data)
            shared.tell(coverage.edges())
        if news or rng.random() < 0.05:
            pairs = coverage.pairs() or pairs
    shared.tell(coverage.edges())
    return 0


def fuzz(name: str, seconds: float, seed: int) -> int:
    """Children one after the other; the number of findings."""
    target = load(name)
    shared, begun, findings, executions = Shared(), time.monotonic(), 0, 0
    until = begun + seconds
    while time.monotonic() < until and findings < 20:
        shared.begin(b"", executions)        # from here on it may hang
        pid = os.fork()
        if pid == 0:
            code = child(target, name, seed + findings, until, shared, executions)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        status = wait(pid, shared)
        for base in ("/dev/shm", tempfile.gettempdir()):
            for left in Path(base).glob(f"kvcore-fuzz-{pid}-*"):
                shutil.rmtree(left, ignore_errors=True)
        executions, _, data, _ = shared.read()
        if status == 0:
            break
        findings += 1
        if os.WIFSIGNALED(status):
            path = keep(BUILD / "findings" / name, data)
            print(f"{name}: died of {signal.Signals(os.WTERMSIG(status)).name}: {path}", flush=True)
    executions, _, _, edges = shared.read()
    took = time.monotonic() - begun
    print(f"{name}: {executions:,} executions in {took:.0f} s ({executions / took:,.0f}/s), "
          f"{edges:,} edges, {len(inputs(BUILD / 'corpus' / name)):,} inputs kept, "
          f"{findings} findings", flush=True)
    return findings


def wait(pid: int, shared: Shared) -> int:
    """The status of a child; one that hangs is ended."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        _, when, _, _ = shared.read()
        if when and time.monotonic() - when > HANG:
            os.kill(pid, signal.SIGABRT)
            return os.waitpid(pid, 0)[1]
        time.sleep(0.05)


def minimise(name: str, most: int) -> int:
    """A small corpus that reaches what the grown one does, into fuzz/corpus."""
    target = load(name)
    coverage = Coverage(target)
    chosen = []
    for data in [*target.seeds(), *inputs(corpus_of(name), BUILD / "corpus" / name)]:
        if coverage.run(target, data) == 2 and len(data) <= 2048:
            chosen.append(data)
    folder = corpus_of(name)
    for path in folder.iterdir() if folder.is_dir() else ():
        path.unlink()
    for data in chosen[:most]:
        keep(folder, data)
    print(f"{name}: {len(chosen[:most])} inputs, {sum(map(len, chosen[:most])):,} bytes, "
          f"{coverage.edges():,} edges")
    return 0


def load(name: str) -> ModuleType:
    sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
    return importlib.import_module(f"fuzz_{name}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minimise", type=int, metavar="MOST", help="of inputs kept")
    args = parser.parse_args(arguments)
    unknown = set(args.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    names = args.targets or list(TARGETS)
    if args.minimise:
        return max(minimise(name, args.minimise) for name in names)
    return int(sum(fuzz(name, args.seconds, args.seed) for name in names) > 0)


if __name__ == "__main__":
    sys.exit(main())
