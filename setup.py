# SPDX-License-Identifier: Apache-2.0
"""The extension table, the directives and the build switches; no logic else.

Switches (environment): KVCORE_VERIFY=1 compiles the O(log n) assertions in;
KVCORE_SANITIZE=address|thread|undefined (comma-separated) instruments; KVCORE_VALGRIND=1 tells
memcheck about the core's own allocators (it needs valgrind's headers); KVCORE_ANNOTATE=1 writes
Cython's HTML; KVCORE_COVERAGE=1 traces lines; KVCORE_FUZZ=1 lets the decoders tell their edges and
compares to fuzz/coverage.c, which must be preloaded.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

VERIFY = os.environ.get("KVCORE_VERIFY") == "1"
SANITIZE = [s for s in os.environ.get("KVCORE_SANITIZE", "").split(",") if s]
VALGRIND = os.environ.get("KVCORE_VALGRIND") == "1"
COVERAGE = os.environ.get("KVCORE_COVERAGE") == "1"
FUZZ = ["-fsanitize-coverage=trace-pc,trace-cmp"] * (os.environ.get("KVCORE_FUZZ") == "1")

MODULES = {
    "kvcore._native": [],
    "kvcore._slab": [],
    "kvcore._rows": [],
    "kvcore._wakeups": [],
    "kvcore._leases": [],
    "kvcore._ring": [],
    "kvcore._watchers": [],
    "kvcore._watchers_check": [],
    "kvcore._build": [],
    "kvcore._epoch": [],
    "kvcore._tree_write": [],
    "kvcore._tree_read": [],
    "kvcore._tree_sweep": [],
    "kvcore._tree_check": [],
    "kvcore._btree": [],
    "kvcore._segment": [],
    "kvcore._segment_table": [],
    "kvcore._pin": [],
    "kvcore._ahead": [],
    "kvcore._recovery": [],
    "kvcore._wal": [],
    "kvcore._record_log": [],
    "kvcore._files": [],
    "kvcore._command": [],
    "kvcore._operation": [],
    "kvcore._result": [],
    "kvcore._event": [],
    "kvcore._range": [],
    "kvcore._state": [],
    "kvcore._hash": [],
    "kvcore._checkpoint": [],
    "kvcore._commit": [],
    "kvcore._space": [],
    "kvcore._retention": [],
    "kvcore._maintenance": [],
    "kvcore._lease": [],
    "kvcore._watch": [],
    "kvcore._watch_cache": [],
    "kvcore._watch_await": [],
    "kvcore._future": [],
    "kvcore._startup": [],
    "kvcore._inspect": [],
    "kvcore._engine": [],
    "kvcore._snapshot": [],
    "kvcore._image": [],
    "kvcore._salvage": [],
    "kvcore.testing._clocks": [],
    "kvcore.testing._faults": [],
    "kvcore.testing._io_probe": [],
    "kvcore.testing._refusals": [],
    "kvcore.testing._ring_probe": [],
    "kvcore.testing._wal_probe": [],
}

# What bytes from outside go through.
DECODERS = {f"kvcore.{name}" for name in (
    "_segment", "_recovery", "_wal", "_record_log", "_command", "_operation", "_state",
    "_checkpoint", "_startup", "_space", "_leases", "_salvage", "_tree_sweep", "_image")}

flags = ["-O3", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wno-unused-parameter",
         "-Wno-unused-function", "-Wno-missing-field-initializers", "-Wno-sign-compare",
         "-Wno-cast-function-type", "-Wno-unreachable-code", "-Wno-deprecated-declarations"]
link = ["-pthread"]
if SANITIZE or VALGRIND:
    flags = ["-O1", "-g", "-fno-omit-frame-pointer", *flags[1:]]
    flags += [f"-fsanitize={s}" for s in SANITIZE]
    link += [f"-fsanitize={s}" for s in SANITIZE]
macros = [("KVCORE_VERIFY", "1")] if VERIFY else []
if VALGRIND:
    macros.append(("KVCORE_VALGRIND", "1"))
if COVERAGE:
    macros.append(("CYTHON_TRACE_NOGIL", "1"))

extensions = [
    Extension(
        name,
        [os.path.join("src", *name.split(".")) + ".pyx"],
        include_dirs=["src/kvcore"],
        depends=["src/kvcore/_native.h", "src/kvcore/_crc32c.h", "src/kvcore/_os.h",
                 "src/kvcore/_node.h", *more],
        extra_compile_args=[*flags, "-pthread", *(FUZZ if name in DECODERS else [])],
        extra_link_args=link,
        define_macros=macros,
    )
    for name, more in MODULES.items()
    if os.path.exists(os.path.join("src", *name.split(".")) + ".pyx")
]

# Generated C depends on the switches too: each combination has a directory of its own.
variant = "-".join(["c", *SANITIZE, *["verify"] * VERIFY, *["valgrind"] * VALGRIND,
                    *["coverage"] * COVERAGE])

setup(
    options={"build_ext": {"parallel": os.cpu_count()}},
    ext_modules=cythonize(
        extensions,
        build_dir=os.path.join("build", variant),
        include_path=["src"],
        annotate=os.environ.get("KVCORE_ANNOTATE") == "1",
        compiler_directives={
            "language_level": 3,
            "boundscheck": VERIFY,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": VERIFY,
            "binding": True,
            "embedsignature": True,
            "linetrace": COVERAGE,
        },
    ),
)
