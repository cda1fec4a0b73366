# SPDX-License-Identifier: Apache-2.0
# Two commands: `make demo` and `make test`.  Needs python3 >= 3.10 with venv and headers, gcc, make.
# One environment (.venv) and one build tree per kind of build (build/<kind>/lib); stamp files keep
# repeated runs fast.

PYTHON  ?= python3
VENV    := .venv
BIN     := $(CURDIR)/$(VENV)/bin
SECONDS ?= 60
PYTEST  := $(BIN)/python -m pytest
PEERS   := 'lmdb>=1.4' 'rocksdict>=0.3.23' 'plyvel>=1.5'

SOURCES := setup.py pyproject.toml MANIFEST.in README.md $(wildcard examples/*) \
           $(shell find src/kvcore -name '*.py' -o -name '*.py[ix]' -o -name '*.pxd' -o -name '*.h' \
           -o -name '*.proto')
# What the sanitizers run: everything but what only measures, and what reads sources.
# (A sanitizer keeps freed memory for a while: tests that compare resident sizes cannot hold.)
# gRPC's threads are not instrumented.
# The thread sanitizer itself complains in children of fork, on their standard error.
# A shell that forks under it dies.
FORKS := $(addprefix --deselect=tests/,$(foreach mode,[memory] [durable],\
           test_watch_edges.py::test_use_after_fork$(mode) test_bad_input.py::test_use_after_fork$(mode)) \
           test_store_edges.py::test_futures_and_fork \
           test_watch_waiting.py::test_child_of_a_parked_loop_has_its_own \
           test_transfer.py::test_a_pipe_from_one_to_the_other)
SANITIZED ?= tests --ignore=tests/meta --ignore=tests/kube --ignore=tests/sim --ignore=tests/test_demo.py --ignore=tests/test_cli.py \
             --ignore-glob='*/test_etcd_oracle*' \
             --deselect tests/test_store.py::test_errors_leak_nothing \
             --deselect tests/test_churn.py::test_the_process_is_as_it_was

# What valgrind runs, some fifty times slower: the tests of the core's own parts.
# (Not the one whose forked child polls: valgrind runs one thread at a time.)
LEAN       := tests/test_slab.py tests/test_rows.py tests/test_btree.py tests/test_btree_machine.py \
              tests/test_ring_machine.py tests/test_wal_engine.py tests/test_wal_machine.py \
              tests/test_watch_cache_machine.py
VALGRINDED ?= $(LEAN) --deselect \
              tests/test_wal_engine.py::test_child_that_drops_the_log_leaves_the_parents_spare

build_tree = $(BIN)/python setup.py -q build --build-base build/$(1) --build-lib build/$(1)/lib
runtime    = $(shell gcc -print-file-name=lib$(1).so)

.PHONY: help demo test check bench bench-peers soak fuzz mutants asan leaks tsan valgrind wheel clean
.DELETE_ON_ERROR:

help:                      ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

demo: $(VENV)/.installed   ## set everything up and run the main job
	$(BIN)/kvcore demo $(ARGS)

test: build/verify/.built  ## all tests, on a build with assertions, and each benchmark at its smoke size
	PYTHONPATH=build/verify/lib $(PYTEST) tests bench $(ARGS)

check: $(VENV)/.tools build/verify/.built  ## linters, types, and the tests that read the sources
	$(BIN)/ruff check src tests bench fuzz setup.py
	$(BIN)/mypy --strict src/kvcore
	PATH="$(BIN):$$PATH" $(BIN)/cython-lint src  # it calls pycodestyle by name
	PYTHONPATH=build/verify/lib $(PYTEST) tests/meta

bench: $(VENV)/.installed $(VENV)/.tools  ## the benchmarks at their real sizes; results in bench/results
	mkdir -p bench/results
	KVCORE_BENCH=real $(PYTEST) bench --benchmark-json=bench/results/latest.json $(ARGS)
	$(BIN)/kvcore demo --json > bench/results/demo.json

bench-peers: $(VENV)/.installed $(VENV)/.peers  ## kvcore beside other stores and maps, a million objects; table and bench/results
	KVCORE_BENCH=real $(BIN)/python -m bench.peers --json bench/results/peers.json $(ARGS)

soak: build/verify/.built  ## machines, crash images, kills, ... for SECONDS=n seconds more; prints what was reached
	KVCORE_SOAK_SECONDS=$(SECONDS) PYTHONPATH=build/verify/lib $(PYTEST) tests -m soak $(ARGS)

mutants: $(VENV)/.tools    ## planted bugs: each must fail a test; half an hour, ARGS="--only NAME"
	$(BIN)/python -m tests.mutants $(ARGS)

fuzz: build/fuzz/.built    ## the decoders with changed inputs, SECONDS=n each; TARGET="log commands"
	LD_PRELOAD=$(CURDIR)/build/fuzz/coverage.so PYTHONPATH=build/fuzz/lib \
	  $(BIN)/python fuzz/engine.py $(TARGET) --seconds $(SECONDS) $(ARGS)

leaks: build/verify/.built ## the core's own tests; fails when the core keeps memory nobody can find
	LD_PRELOAD=$(call runtime,lsan) LSAN_OPTIONS=suppressions=$(CURDIR)/tests/lsan.supp:print_suppressions=0 \
	HYPOTHESIS_PROFILE=dev KVCORE_EXAMPLES=5 PYTHONMALLOC=malloc PYTHONPATH=build/verify/lib \
	$(PYTEST) --capture=sys $(LEAN) $(ARGS)

asan: build/asan/.built leaks  ## tests under AddressSanitizer
	LD_PRELOAD=$(call runtime,asan) ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	PYTHONMALLOC=malloc PYTHONPATH=build/asan/lib $(PYTEST) --capture=sys $(SANITIZED) $(ARGS)

tsan: build/tsan/.built    ## tests under ThreadSanitizer
	LD_PRELOAD=$(call runtime,tsan) TSAN_OPTIONS=die_after_fork=0:halt_on_error=0:exitcode=66:second_deadlock_stack=1 \
	PYTHONPATH=build/tsan/lib setarch -R $(PYTEST) --capture=sys $(SANITIZED) $(FORKS) $(ARGS)

valgrind: build/valgrind/.built  ## the core's own tests under valgrind's memcheck
	PYTHONMALLOC=malloc HYPOTHESIS_PROFILE=dev KVCORE_EXAMPLES=2 PYTHONPATH=build/valgrind/lib \
	valgrind --quiet --error-exitcode=99 --suppressions=tests/valgrind.supp --num-callers=24 \
	--redzone-size=64 --max-stackframe=4000000 $(BIN)/python -m pytest --capture=sys \
	-p no:faulthandler $(VALGRINDED) $(ARGS)

wheel: $(VENV)/.tools      ## wheel and source distribution in dist/
	$(BIN)/python -m build --outdir dist .

clean:                     ## remove everything that was built, and the environment
	rm -rf build dist $(VENV) src/*.egg-info src/kvcore/*.so src/kvcore/testing/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +

# --- environments and builds ----------------------------------------------------------------------

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	touch $@

$(VENV)/.installed: $(VENV)/.made $(SOURCES)
	$(BIN)/python -m pip install -q '.[kube]'
	touch $@

$(VENV)/.tools: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install -q '.[test,bench,dev]'
	touch $@

# Each by itself: the benchmark names those that cannot be installed here.
$(VENV)/.peers: $(VENV)/.made pyproject.toml
	for peer in $(PEERS); do $(BIN)/python -m pip install -q $$peer || \
	  echo "$$peer cannot be installed" >&2; done
	touch $@

build/verify/.built: $(VENV)/.tools $(SOURCES)
	KVCORE_VERIFY=1 $(call build_tree,verify)
	touch $@

build/fuzz/.built: $(VENV)/.tools $(SOURCES) fuzz/coverage.c
	KVCORE_VERIFY=1 KVCORE_FUZZ=1 $(call build_tree,fuzz)
	gcc -O2 -Wall -Wextra -shared -fPIC -o build/fuzz/coverage.so fuzz/coverage.c
	touch $@

build/asan/.built: $(VENV)/.tools $(SOURCES)
	KVCORE_VERIFY=1 KVCORE_SANITIZE=address,undefined $(call build_tree,asan)
	touch $@

build/valgrind/.built: $(VENV)/.tools $(SOURCES)
	KVCORE_VERIFY=1 KVCORE_VALGRIND=1 $(call build_tree,valgrind)
	touch $@

build/tsan/.built: $(VENV)/.tools $(SOURCES)
	KVCORE_VERIFY=1 KVCORE_SANITIZE=thread $(call build_tree,tsan)
	touch $@
