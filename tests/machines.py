# SPDX-License-Identifier: Apache-2.0
"""Runs Hypothesis state machines and counts their steps.

In a soak they go on with new examples for their test's share of its seconds.
KVCORE_EXAMPLES=n runs n of each machine at most: where everything is slow (under valgrind).
"""

from __future__ import annotations

import os
from collections import Counter

import hypothesis
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from soak import Soaking

STEPS = Counter[str]()


def run(machine: type[RuleBasedStateMachine], kind: str, examples: int, steps: int,
        counts: Counter[str], soaking: Soaking) -> None:
    """Runs `examples` of up to `steps` steps; the machine adds its steps to STEPS[kind]."""
    examples = min(examples, int(os.environ.get("KVCORE_EXAMPLES", examples)))
    settings = hypothesis.settings(
        hypothesis.settings.get_profile("ci"), max_examples=examples, stateful_step_count=steps,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    before = STEPS[kind]
    for _ in soaking(1):
        run_state_machine_as_test(machine, settings=settings)
    counts["state machine steps"] += STEPS[kind] - before
    counts[f"state machine steps, {kind}"] += STEPS[kind] - before
