# SPDX-License-Identifier: Apache-2.0
"""kvcore beside its peers, in one run: the same objects, the same questions, syncs on.

    __main__ ── arguments, the table or JSON
       └── run ── one repetition after the other; in it every question goes round all stores
             ├── child ── a fresh process: one question to one store      (measure, stores, data)
             ├── maps ─── the index alone beside B-trees in C++ and Go    (native)
             └── table ── medians, spread, ratios; Markdown for docs/numbers.md

    python -m bench.peers --objects 100000 --repeat 3 --json peers.json

A life of one store in one repetition: a child loads it and is killed · the next child opens what is
left, which is timed, and closes it · its directory is weighed · further children compare its
content, read it, are weighed, put into it · the directory is removed.

Invariants: whoever is compared has read the same bytes (each answer carries a checksum, and one
that differs ends the run); a peer that cannot run is named with the reason.
"""
