# SPDX-License-Identifier: Apache-2.0
"""Runs Hypothesis state machines and counts their steps.

KVCORE_SOAK_SECONDS=n makes them go on for n seconds, shared by all machines of the session.
"""

from __future__ import annotations

import os
import time
from collections import Counter

import hypothesis
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

MACHINES = 20  # calls of run() in a session: what a soak divides its time by
STEPS = Counter[str]()


def run(machine: type[RuleBasedStateMachine], kind: str, examples: int, steps: int,
        counts: Counter[str]) -> None:
    """Runs `examples` of up to `steps` steps; the machine adds its steps to STEPS[kind]."""
    settings = hypothesis.settings(
        hypothesis.settings.get_profile("ci"), max_examples=examples, stateful_step_count=steps,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    ends = time.monotonic() + float(os.environ.get("KVCORE_SOAK_SECONDS", "0")) / MACHINES
    before = STEPS[kind]
    run_state_machine_as_test(machine, settings=settings)
    while time.monotonic() < ends:
        run_state_machine_as_test(machine, settings=settings)
    counts["state machine steps"] += STEPS[kind] - before
    counts[f"state machine steps, {kind}"] += STEPS[kind] - before
