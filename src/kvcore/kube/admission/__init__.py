# SPDX-License-Identifier: Apache-2.0
"""Admission: who else has a say before an object is stored.

    mutate:    plugin after plugin may change call.object      (first pass, then reinvocation)
    validate:  plugin after plugin may refuse                  (nothing is changed any more)

A plugin is an object with a name and one or both of `admit(call)` and `validate(call)`; both may
return something to be awaited. A refusal is an ApiError, and ends the chain: the first one is
what the client is told (kube-apiserver does the same; nothing runs in parallel except webhooks).
`PLUGINS` (plugins.py) is the table of known names in upstream's order.
Thread safety: the server's event loop. May not know: HTTP transport, storage.
"""

from __future__ import annotations

from kvcore.kube.admission.chain import Chain, Plugin

__all__ = ["Chain", "Plugin"]
