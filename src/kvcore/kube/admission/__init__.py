# SPDX-License-Identifier: Apache-2.0
"""Admission: who else has a say before an object is stored.

    mutate:    plugin after plugin may change call.object      (first pass, then reinvocation)
    validate:  plugin after plugin may refuse                  (nothing is changed any more)

A plugin is an object with a name and one or both of `admit(call)` and `validate(call)`; both may
return something to be awaited (chain.py says the whole protocol). A refusal is an ApiError, and
ends the chain: the first one is what the client is told (kube-apiserver does the same; nothing runs
in parallel except validating webhooks). `PLUGINS` (plugins.py) is the table of known names in
upstream's order, `build_chain` makes a chain of them.

    chain.py         the protocol, functions as plugins, order, times, deferred validation
    plugins.py       the table; config.py: --admission-control-config-file
    lookups.py       other objects, out of the watch cache
    lifecycle.py serviceaccount.py priority.py defaulting.py limits.py      a plugin each
    podsecurity.py (+ podchecks.py)      quota.py (+ quota_status.py, usage.py, podresources.py)
    webhooks.py (+ webhook_match.py, webhook_client.py)

Thread safety: the server's event loop. May not know: transports.
"""

from __future__ import annotations

from kvcore.kube.admission.chain import (
    Chain,
    Plugin,
    as_plugin,
    forbidden,
    mutating,
    review,
    validating,
)

__all__ = ["Chain", "Plugin", "as_plugin", "forbidden", "mutating", "review", "validating"]
